"""Focal loss, and the schedule of its exponent that calibrates best."""

from typing import Literal

import torch
from torch import Tensor

from ols.losses.base import LabelLoss, check_interval


class FocalLoss(LabelLoss):
    """`-(1 - p_y)^gamma log p_y`.

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, in its softmax form and without the alpha balance,
    which is what `weight` is for. Class indices only.

    Args:
        num_classes: K, at least 1.
        gamma: Exponent, not negative; 0 is cross entropy.
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
        gamma: float = 2.0,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(num_classes, weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.gamma = check_interval("gamma", gamma, "[0, inf)")

    def training_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the focal loss."""
        losses = label_losses(self, logits, target)
        return self.reduce_samples(focus(losses, self.gamma), target)


class FLSD53(LabelLoss):
    """Focal loss with gamma 5 where `p_y < 0.2` and 3 elsewhere.

    Mukhoti et al., Calibrating Deep Neural Networks using Focal Loss, NeurIPS 2020 (FLSD-53). Class indices only.

    Args:
        num_classes: K, at least 1.
        weight: Weight of each class `[K]`; the label's weight multiplies the whole sample.
        ignore_index: Class index that does not count.
        reduction: "none", "mean" or "sum", as in torch.

    Raises:
        ValueError: Also for probability targets in training.
    """

    takes_probabilities = False

    def training_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the focal loss of each sample's own exponent."""
        losses = label_losses(self, logits, target)
        unsure = losses.detach().neg().exp() < 0.2
        return self.reduce_samples(torch.where(unsure, focus(losses, 5.0), focus(losses, 3.0)), target)


def label_losses(loss: LabelLoss, logits: Tensor, target: Tensor) -> Tensor:
    """Return `-log p_y` of each sample, unweighted."""
    if target.is_floating_point():
        raise ValueError(f"target must hold class indices for {type(loss).__name__}, got {target.dtype}")
    return loss.hard_losses(logits, target)


def focus(losses: Tensor, gamma: float) -> Tensor:
    """Return `(1 - p)^gamma` times `losses = -log p`."""
    # Kept off 0, where the derivative of a power below 1 is infinite.
    wrong_prob = (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).tiny)
    return wrong_prob**gamma * losses
