"""Label relaxation: any prediction that gives the label enough is right."""

import math
from typing import Literal

import torch
from torch import Tensor

from ols.losses.base import LabelLoss, check_interval
from ols.losses.focal import label_losses


class LabelRelaxation(LabelLoss):
    """The KL divergence of the prediction from the nearest distribution that gives the label at least `1 - relaxation`.

    Lienen and Huellermeier, From Label Smoothing to Label Relaxation, AAAI 2021. The loss is 0 where
    `p_y >= 1 - relaxation`. Elsewhere the nearest distribution has `1 - relaxation` on the label and shares the rest in
    proportion to the prediction, so that with a = `relaxation` the divergence is

        (1 - a) log((1 - a) / p_y) + a log(a / (1 - p_y))

    Relations of the other classes are thus left to the model, where label smoothing asks for equal ones. Class indices
    only: the paper defines the set of distributions for a single label.

    Args:
        num_classes: K, at least 1.
        relaxation: The paper's alpha, in [0, 1); 0 is cross entropy.
        weight: Weight of each class `[K]`; the label's weight multiplies the whole sample.
        ignore_index: Class index that does not count.
        reduction: "none", "mean" or "sum", as in torch.

    Raises:
        ValueError: Also for probability targets in training.
    """

    takes_probabilities = False

    def __init__(
        self,
        num_classes: int,
        *,
        relaxation: float = 0.1,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(num_classes, weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.relaxation = check_interval("relaxation", relaxation, "[0, 1)")

    def training_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the divergence from the set."""
        losses = label_losses(self, logits, target)  # -log p_y
        relaxed = self.relaxation
        edge = -math.log1p(-relaxed)
        right = losses <= edge
        outside = losses.masked_fill(right, edge + 1)  # any value with a finite derivative
        divergence = (1 - relaxed) * (outside - edge)
        if relaxed:
            divergence = divergence + relaxed * (math.log(relaxed) - torch.log(-torch.expm1(-outside)))
        return self.reduce_samples(divergence.masked_fill(right, 0), target)
