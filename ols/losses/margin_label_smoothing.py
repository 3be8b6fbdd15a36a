"""Margin-based label smoothing: a penalty only on logits farther below the largest than a margin."""

from typing import Literal

from torch import Tensor

from ols.losses.base import LabelLoss, check_interval
from ols.losses.soft_targets import flatten_classes


class MarginLabelSmoothing(LabelLoss):
    """`CE + penalty_weight mean_k relu(z_max - z_k - margin)`.

    Liu et al., The Devil is in the Margin: Margin-based Label Smoothing for Network Calibration, CVPR 2022. The penalty
    is averaged over the K classes. Classes masked by a logit of -inf have no part in the mean.

    Args:
        num_classes: K, at least 1.
        margin: Distance of logits that goes unpenalised, not negative.
        penalty_weight: The paper's lambda, not negative.
        weight: Weight of each class `[K]`; the label's weight multiplies the whole sample.
        ignore_index: Class index that does not count, in the penalty neither.
        reduction: "none", "mean" or "sum", as in torch.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        margin: float = 10.0,
        penalty_weight: float = 0.1,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(num_classes, weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.margin = check_interval("margin", margin, "[0, inf)")
        self.penalty_weight = check_interval("penalty_weight", penalty_weight, "[0, inf)")

    def training_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the penalised cross entropy."""
        losses = self.hard_losses(logits, target)
        rows = flatten_classes(logits)  # [B, K]
        masked = rows.isneginf()
        excess = (rows.amax(1, keepdim=True) - rows - self.margin).relu().masked_fill(masked, 0)
        penalty = excess.sum(1) / masked.logical_not().sum(1)
        return self.reduce_samples(losses + self.penalty_weight * penalty, target)
