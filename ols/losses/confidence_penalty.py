"""Confidence penalty: a reward for the entropy of the prediction."""

from typing import Literal

import torch
from torch import Tensor

from ols.losses.base import LabelLoss, check_interval
from ols.losses.soft_targets import flatten_classes


class ConfidencePenalty(LabelLoss):
    """`CE - entropy_weight H(p)`.

    Pereyra et al., Regularizing Neural Networks by Penalizing Confident Output Distributions, ICLR workshop 2017. The
    entropy, in nats, is summed over classes. The loss can be negative.

    Args:
        num_classes: K, at least 1.
        entropy_weight: The paper's beta, not negative.
        weight: Weight of each class `[K]`; the label's weight multiplies the whole sample.
        ignore_index: Class index that does not count.
        reduction: "none", "mean" or "sum", as in torch.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        entropy_weight: float = 0.1,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(num_classes, weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.entropy_weight = check_interval("entropy_weight", entropy_weight, "[0, inf)")

    def training_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the penalised cross entropy."""
        losses = self.hard_losses(logits, target)
        rows = flatten_classes(logits)  # [B, K]
        log_probs = torch.log_softmax(rows, 1)
        entropy = -(log_probs.exp() * log_probs.masked_fill(rows.isneginf(), 0)).sum(1)  # 0 log 0 is 0
        return self.reduce_samples(losses - self.entropy_weight * entropy, target)
