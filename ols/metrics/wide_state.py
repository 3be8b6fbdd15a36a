"""A metric whose sums keep their precision, whatever becomes of the module around it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric


class WideStateMetric(Metric):
    """A metric whose states move between devices and keep their types.

    `half`, `bfloat16` and `to(dtype)` of a module that has the metric as an attribute reach its states too:
    torchmetrics keeps them from `half`, but not from `to(torch.bfloat16)`, which is how Lightning trains in that type.
    A count in bfloat16 stops growing at 256.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._dtype = torch.float64  # of a list state of a process without a sample

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        moved = super()._apply(move, exclude_state)
        self._dtype = torch.float64
        return moved

    def reset(self) -> None:
        """Forget everything; within `torch.inference_mode()` too, after which torch would refuse to add to it."""
        with torch.inference_mode(False):
            super().reset()
