"""Several labels of one image, some of which nobody knows."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ols.losses.base import check_interval
from ols.losses.plain import PlainLoss, wide


class BinaryCrossEntropy(PlainLoss):
    """Cross entropy of each label by itself; a label that is unknown (NaN) costs nothing and has no gradient.

    With `reduction="sum"` the sum over known labels, with "mean" their mean (0 without a known one), as
    `torch.nn.BCEWithLogitsLoss` has them where all are known. After `eval()` labels are not smoothed, so that
    validation losses compare.

    Args:
        num_outputs: Labels L, at least 1.
        smoothing: A label y becomes `(1 - smoothing) y + smoothing / 2`, in [0, 1); smoothing / K of torch for the two
            classes of a label.
        reduction: "none" gives `[B, L]`, 0 where a label is unknown.
    """

    def __init__(self, num_outputs: int, *, smoothing: float = 0.0, reduction: Literal["none", "mean", "sum"] = "mean"):
        super().__init__(num_outputs, reduction=reduction)
        self.smoothing = check_interval("smoothing", smoothing, "[0, 1)")

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the loss.

        Args:
            outputs: Logits `[B, L]`.
            target: 0, 1 or something between, NaN where it is unknown `[B, L]`.

        Raises:
            ValueError: The shapes are no `[B, L]`, or the types are not floating point.
        """
        outputs = wide(outputs)
        if outputs.ndim != 2 or outputs.shape[1] != self.num_outputs or target.shape != outputs.shape:
            raise ValueError(
                f"outputs and target must be [B, {self.num_outputs}], got {tuple(outputs.shape)} and "
                f"{tuple(target.shape)}"
            )
        if not target.is_floating_point():
            raise ValueError(f"target must be floating point, with NaN for unknown, got {target.dtype}")
        known = ~target.isnan()
        label = torch.where(known, target, 0).to(outputs.dtype)
        if self.training and self.smoothing:
            label = label * (1 - self.smoothing) + self.smoothing / 2
        terms = torch.where(known, F.binary_cross_entropy_with_logits(outputs, label, reduction="none"), 0)
        return terms.sum() / known.sum().clamp(min=1) if self.reduction == "mean" else self.reduce_terms(terms)
