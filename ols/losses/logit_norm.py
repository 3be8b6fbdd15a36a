"""Logit normalisation: cross entropy of the direction of the logits, whatever their length."""

from typing import Literal

import torch
from torch import Tensor

from ols.losses.base import LabelLoss, check_interval


class LogitNorm(LabelLoss):
    """`CE(z / (temperature (|z| + 1e-7)), y)`, with the Euclidean norm over the classes.

    Wei et al., Mitigating Neural Network Overconfidence with Logit Normalization, ICML 2022, section 3, with the small
    number of the authors' code in the denominator. The loss cannot fall by making logits longer, which is how networks
    become overconfident. It says nothing about how long logits are, so that probabilities after training, which are
    those of the raw logits as in the paper, need a temperature fitted on validation data. Classes masked by a logit of
    -inf have no part in the norm.

    Args:
        num_classes: K, at least 1.
        temperature: The paper's tau, positive; 0.04 on CIFAR-10. The loss is at least `log(1 + (K - 1) exp(-d))`
            with `d = sqrt(K / (K - 1)) / temperature`, the largest distance of one logit from equal others.
        weight: Weight of each class `[K]`; the label's weight multiplies the whole sample.
        ignore_index: Class index that does not count.
        reduction: "none", "mean" or "sum", as in torch.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        temperature: float = 0.04,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(num_classes, weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.temperature = check_interval("temperature", temperature, "(0, inf)")

    def training_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross entropy of the normalised logits."""
        masked = logits.isneginf()
        lengths = logits.masked_fill(masked, 0)
        norm = torch.linalg.vector_norm(lengths, dim=1 if logits.ndim > 1 else 0, keepdim=True)
        scaled = (lengths / ((norm + 1e-7) * self.temperature)).masked_fill(masked, -torch.inf)
        return self.reduce_samples(self.hard_losses(scaled, target), target)
