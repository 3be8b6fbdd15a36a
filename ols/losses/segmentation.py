"""A class of each pixel, by how far masks overlap."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ols.losses.base import CLASS_INDEX_TYPES, check_interval
from ols.losses.plain import PlainLoss, wide


class DiceBCE(PlainLoss):
    """`1 - soft Dice` of the foreground plus the mean cross entropy of an image's pixels.

    Soft Dice (Milletari et al., V-Net, 3DV 2016, without squares) is `(2 sum p g + 1) / (sum p + sum g + 1)` over the
    pixels of an image, the mean over foreground classes; the 1 gives an image without foreground a Dice of 1 where
    nothing is predicted. Of two logits cross entropy is the binary one of their difference. Class 0 is the background.

    Args:
        num_outputs: Classes K with the background, at least 2.
        dice_weight: Share of the Dice part, in [0, 1].
        reduction: "none" gives a value for each image, `[B]`.
    """

    def __init__(
        self, num_outputs: int, *, dice_weight: float = 0.5, reduction: Literal["none", "mean", "sum"] = "mean"
    ):
        super().__init__(num_outputs, reduction=reduction)
        if self.num_outputs < 2:
            raise ValueError(f"num_outputs must be at least 2, the background and a foreground, got {num_outputs}")
        self.dice_weight = check_interval("dice_weight", dice_weight, "[0, 1]")

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the loss.

        Args:
            outputs: Logits `[B, K, H, W]`.
            target: Class of each pixel, of any integer type `[B, H, W]`.

        Raises:
            ValueError: Shapes or types are others.
        """
        outputs = wide(outputs)
        shape = outputs.shape
        if outputs.ndim != 4 or shape[1] != self.num_outputs or target.shape != (shape[0], *shape[2:]):
            raise ValueError(
                f"expected outputs [B, {self.num_outputs}, H, W] and target [B, H, W], got {tuple(shape)} and "
                f"{tuple(target.shape)}"
            )
        if target.dtype not in CLASS_INDEX_TYPES:
            raise ValueError(f"target must hold class indices, got {target.dtype}")
        target = target.long()
        log_probs = outputs.log_softmax(dim=1)
        truth = F.one_hot(target, self.num_outputs).movedim(-1, 1)[:, 1:].to(outputs.dtype)  # [B, K - 1, H, W]
        probs = log_probs[:, 1:].exp()
        overlap, predicted, true = (values.sum(dim=(2, 3)) for values in (probs * truth, probs, truth))
        dice = (2 * overlap + 1) / (predicted + true + 1)
        terms = self.dice_weight * (1 - dice).mean(dim=1)
        return self.reduce_terms(terms + (1 - self.dice_weight) * self.pixel_part(log_probs, target))

    def pixel_part(self, log_probs: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross entropy of each image's pixels `[B]`."""
        return F.nll_loss(log_probs, target, reduction="none").mean(dim=(1, 2))


class DiceWeightedFalseNegatives(DiceBCE):
    """`1 - soft Dice` plus a cross entropy in which a foreground pixel counts several times: missed lesions cost more.

    Args:
        num_outputs: Classes K with the background, at least 2.
        dice_weight: Share of the Dice part, in [0, 1].
        false_negative_weight: What a foreground pixel counts where a background pixel counts 1; positive.
        reduction: "none" gives a value for each image, `[B]`.
    """

    def __init__(
        self,
        num_outputs: int,
        *,
        dice_weight: float = 0.5,
        false_negative_weight: float = 5.0,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(num_outputs, dice_weight=dice_weight, reduction=reduction)
        self.false_negative_weight = check_interval("false_negative_weight", false_negative_weight, "(0, inf)")

    def pixel_part(self, log_probs: Tensor, target: Tensor) -> Tensor:
        """Return the weighted mean cross entropy of each image's pixels `[B]`."""
        weights = torch.where(target > 0, self.false_negative_weight, 1.0).to(log_probs.dtype)
        losses = F.nll_loss(log_probs, target, reduction="none")
        return (losses * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))
