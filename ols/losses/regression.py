"""A number of each image, learnt in standard deviations of the training images."""

from abc import abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ols.losses.base import check_interval
from ols.losses.plain import PlainLoss, wide


class RegressionLoss(PlainLoss):
    """A function of `output - (target - mean) / std`: outputs are standardised, targets stay in their unit.

    Mean and standard deviation are buffers of the loss, so that its state dict says what the outputs mean.

    Args:
        num_outputs: 1.
        mean: Mean of the training targets, in their unit.
        std: Their standard deviation, positive.
        reduction: "none" gives `[B]`.
    """

    mean: Tensor  # [] float64
    std: Tensor  # [] float64

    def __init__(
        self,
        num_outputs: int = 1,
        *,
        mean: float = 0.0,
        std: float = 1.0,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(num_outputs, reduction=reduction)
        if self.num_outputs != 1:
            raise ValueError(f"num_outputs must be 1 for a number of each image, got {num_outputs}")
        mean, std = check_interval("mean", mean, "(-inf, inf)"), check_interval("std", std, "(0, inf)")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float64))

    @abstractmethod
    def error(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return what an error costs `[B]`, of standardised outputs and targets."""

    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the loss.

        Args:
            outputs: Standardised, `[B, 1]`.
            target: In their unit, floating point `[B]`.

        Raises:
            ValueError: The shapes are others, or the types are not floating point.
        """
        outputs = wide(outputs)
        if outputs.ndim != 2 or outputs.shape[1] != 1 or target.shape != outputs.shape[:1]:
            raise ValueError(
                f"expected outputs [B, 1] and target [B], got {tuple(outputs.shape)} and {tuple(target.shape)}"
            )
        if not target.is_floating_point():
            raise ValueError(f"target must be floating point, got {target.dtype}")
        standardised = (target.to(outputs.dtype) - self.mean.to(outputs.dtype)) / self.std.to(outputs.dtype)
        return self.reduce_terms(self.error(outputs.squeeze(1), standardised))

    def _apply(self, fn, recurse: bool = True):
        """Move mean and standard deviation, and keep their precision where the device has it."""
        mean, std = self.mean, self.std
        super()._apply(fn, recurse)
        if self.mean.device.type != "mps":
            self.mean, self.std = mean.to(self.mean.device), std.to(self.std.device)
        return self


class SquaredError(RegressionLoss):
    """The squared error, `torch.nn.MSELoss`: what it learns is the mean."""

    def error(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the squared errors."""
        return (outputs - target).square()


class AbsoluteError(RegressionLoss):
    """The absolute error, `torch.nn.L1Loss`: what it learns is the median, which outliers do not move."""

    def error(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the absolute errors."""
        return (outputs - target).abs()


class HuberLoss(RegressionLoss):
    """Squared near 0 and linear beyond `delta`, `torch.nn.HuberLoss` (Huber, Annals of Mathematical Statistics 1964).

    Args:
        num_outputs: 1.
        delta: Where it becomes linear, in standard deviations of the targets; positive.
        mean: Mean of the training targets, in their unit.
        std: Their standard deviation, positive.
        reduction: "none" gives `[B]`.
    """

    def __init__(
        self,
        num_outputs: int = 1,
        *,
        delta: float = 1.0,
        mean: float = 0.0,
        std: float = 1.0,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(num_outputs, mean=mean, std=std, reduction=reduction)
        self.delta = check_interval("delta", delta, "(0, inf)")

    def error(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return Huber's function of the errors."""
        return F.huber_loss(outputs, target, reduction="none", delta=self.delta)
