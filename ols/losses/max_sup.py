"""Max suppression: a penalty on the largest logit, where label smoothing penalises the label's."""

from typing import Literal

from torch import Tensor

from ols.losses.base import LabelLoss, check_interval
from ols.losses.soft_targets import flatten_classes


class MaxSup(LabelLoss):
    """`CE + penalty_weight (z_max - mean_k z_k)`.

    Zhou et al., MaxSup: Overcoming Representation Collapse in Label Smoothing, NeurIPS 2025. Label smoothing is
    `CE + smoothing (z_y - mean_k z_k)`; here the largest logit takes the place of the label's, so that wrong
    predictions are penalised too. Classes masked by a logit of -inf have no part in the mean.

    Args:
        num_classes: K, at least 1.
        penalty_weight: The paper's lambda, not negative; its recipe lets it rise from 0.1 to 0.2.
        weight: Weight of each class `[K]`; the label's weight multiplies the whole sample.
        ignore_index: Class index that does not count.
        reduction: "none", "mean" or "sum", as in torch.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        penalty_weight: float = 0.1,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(num_classes, weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.penalty_weight = check_interval("penalty_weight", penalty_weight, "[0, inf)")

    def training_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the penalised cross entropy."""
        losses = self.hard_losses(logits, target)
        rows = flatten_classes(logits)  # [B, K]
        masked = rows.isneginf()
        mean = rows.masked_fill(masked, 0).sum(1) / masked.logical_not().sum(1)
        return self.reduce_samples(losses + self.penalty_weight * (rows.amax(1) - mean), target)
