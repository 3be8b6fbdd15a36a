"""Targets fixed before training: hard labels and uniform label smoothing."""

from typing import Literal

from torch import Tensor

from ols.losses.base import LabelLoss, check_interval


class HardLabels(LabelLoss):
    """Cross entropy against the label alone, equal to `nn.CrossEntropyLoss` to the bit for finite logits.

    Args:
        num_classes: K, at least 1.
        weight: Weight of each class `[K]`, as in torch; None weighs all classes 1.
        ignore_index: Class index that does not count.
        reduction: "none", "mean" or "sum", as in torch.
    """

    def training_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross entropy."""
        return self.cross_entropy(logits, target)


class LabelSmoothing(LabelLoss):
    """Cross entropy against `(1 - smoothing) e_y + smoothing / K`.

    Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7. The convention is smoothing / K, as in
    torch and timm; Tf-KD and others give the K - 1 other classes smoothing / (K - 1) each, which is this loss at
    `smoothing * K / (K - 1)`. Class weights sit inside the sum over classes, as in torch. Every class gets mass, so a
    masked class (a logit of -inf) makes the loss inf.

    Args:
        num_classes: K, at least 1.
        smoothing: Mass spread evenly over all K classes, in [0, 1).
        weight: Weight of each class `[K]`, as in torch; None weighs all classes 1.
        ignore_index: Class index that does not count.
        reduction: "none", "mean" or "sum", as in torch.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        smoothing: float = 0.1,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(num_classes, weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.smoothing = check_interval("smoothing", smoothing, "[0, 1)")

    def training_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return torch's label-smoothed cross entropy."""
        return self.cross_entropy(logits, target, label_smoothing=self.smoothing)
