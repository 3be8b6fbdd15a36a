"""The contract of losses of other targets than classes, which learn nothing."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from ols.losses.base import TrainerLoss, check_reduction, check_whole


class PlainLoss(TrainerLoss, ABC):
    """A loss that learns nothing: it takes outputs and targets, and answers a trainer as `LabelLoss` does.

    Everything is computed in float32 (float64 stays), whatever the autocast state.

    Args:
        num_outputs: Numbers that a model returns for an image, or for a pixel; at least 1.
        reduction: "none" keeps a value for each term, "mean" and "sum" give a scalar.

    Raises:
        ValueError: An argument of the constructor or of `forward` is not what it should be; the message names it.
    """

    def __init__(self, num_outputs: int, *, reduction: Literal["none", "mean", "sum"] = "mean"):
        super().__init__()
        self.num_outputs = check_whole("num_outputs", num_outputs, at_least=1)
        self.reduction = check_reduction(reduction)

    @abstractmethod
    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the loss: a scalar, or with `reduction='none'` one value for each term."""

    def reduce_terms(self, terms: Tensor) -> Tensor:
        """Return values as `reduction` asks for them."""
        if self.reduction == "none":
            return terms
        return terms.sum() if self.reduction == "sum" else terms.mean()

    def extra_repr(self) -> str:
        """Return what `print` shows of the configuration."""
        return f"{self.num_outputs}, reduction={self.reduction!r}"


def wide(outputs: Tensor) -> Tensor:
    """Return outputs in the type that a loss computes in: float64 as it is, any other in float32.

    Raises:
        ValueError: They are not floating point.
    """
    if not outputs.is_floating_point():
        raise ValueError(f"outputs must be floating point, got {outputs.dtype}")
    return outputs if outputs.dtype == torch.float64 else outputs.float()
