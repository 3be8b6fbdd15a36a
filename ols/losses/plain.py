"""The contract of losses of other targets than classes: what a trainer asks of a loss, and no state."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ols.losses.base import check_whole


class PlainLoss(nn.Module, ABC):
    """A loss that learns nothing: it takes outputs and targets, and answers a trainer as `LabelLoss` does.

    Everything is computed in float32 (float64 stays), whatever the autocast state.

    Args:
        num_outputs: Numbers that a model returns for an image, or for a pixel; at least 1.
        reduction: "none" keeps a value for each term, "mean" and "sum" give a scalar.

    Raises:
        ValueError: An argument of the constructor or of `forward` is not what it should be; the message names it.
    """

    needs_teacher: bool = False
    takes_probabilities: bool = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __init__(self, num_outputs: int, *, reduction: Literal["none", "mean", "sum"] = "mean"):
        super().__init__()
        self.num_outputs = check_whole("num_outputs", num_outputs, at_least=1)
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
        self.reduction = reduction

    @abstractmethod
    def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the loss: a scalar, or with `reduction='none'` one value for each term."""

    def end_epoch(self, *, reduce: Callable[[Tensor], Tensor | None] | None = None) -> dict[str, float]:
        """End the epoch: nothing to do without state."""
        return {}

    def sum_over_ranks(self, *, reduce: Callable[[Tensor], Tensor | None] | None = None) -> None:
        """Gather nothing before a checkpoint inside an epoch."""

    def collected(self) -> dict[str, Tensor]:
        """Return no sums of this epoch."""
        return {}

    def artifacts(self) -> dict[str, Tensor]:
        """Return nothing that the loss has learned."""
        return {}

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Collect nothing inside, as ever."""
        yield

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
