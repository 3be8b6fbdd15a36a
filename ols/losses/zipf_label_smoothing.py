"""Zipf's label smoothing: the other classes should follow a power law of their rank in the prediction."""

from typing import Literal

import torch
from torch import Tensor

from ols.losses.base import LabelLoss, check_interval
from ols.losses.focal import label_losses
from ols.losses.soft_targets import flatten_classes


class ZipfLabelSmoothing(LabelLoss):
    """`CE + zipf_weight KL(q, p')` over the K - 1 classes other than the label.

    Liang et al., Efficient One Pass Self-distillation with Zipf's Label Smoothing, ECCV 2022. p' is the softmax of the
    other classes' logits alone, and q, which has no gradient, is proportional to `rank^-power`. A class's rank is its
    place among the logits of the sample, 1 for the largest, all classes counted as the authors' code does: a label
    predicted correctly has rank 1, and the next class 2. Equal logits share the smallest of their ranks. This is the
    paper's ranking by logits; the dense one, by votes of the positions of a feature map, needs more than logits. The KL
    is in nats. A class masked by a logit of -inf has no part in it. Class indices only.

    Args:
        num_classes: K, at least 1.
        zipf_weight: The paper's lambda, not negative; the authors' script has it at 0 unless told otherwise.
        power: Exponent of the law, not negative; 0 asks for equal other classes.
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
        zipf_weight: float = 0.1,
        power: float = 1.0,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(num_classes, weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.zipf_weight = check_interval("zipf_weight", zipf_weight, "[0, inf)")
        self.power = check_interval("power", power, "[0, inf)")

    def training_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross entropy and the divergence from the law."""
        losses = label_losses(self, logits, target)
        rows, labels = flatten_classes(logits), target.flatten()  # [B, K], [B]
        labels = labels.masked_fill(labels == self.ignore_index, 0)
        excluded = rows.isneginf().scatter(1, labels.unsqueeze(1), True)
        descending = rows.detach().neg().contiguous()
        ranks = torch.searchsorted(descending.sort(1).values, descending) + 1
        law = ranks.to(rows.dtype).pow(-self.power).masked_fill(excluded, 0)
        law = law / law.sum(1, keepdim=True).clamp_min(torch.finfo(law.dtype).tiny)  # all 0 without another class
        # The least number and not -inf, of which a softmax over nothing else is nan.
        log_probs = torch.log_softmax(rows.masked_fill(excluded, torch.finfo(rows.dtype).min), 1)
        divergence = (torch.xlogy(law, law) - law * log_probs).sum(1)
        return self.reduce_samples(losses + self.zipf_weight * divergence, target)
