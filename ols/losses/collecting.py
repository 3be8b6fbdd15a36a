"""What losses share that learn from the predictions of an epoch: who collects, and how ranks put it together."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ols.losses.base import LabelLoss

Reduce = Callable[[Tensor], Tensor | None]


class CollectingLoss(LabelLoss):
    """A loss that adds up what it sees in training, and learns from the sums of all ranks at the end of an epoch.

    A subclass adds to its sums in place while `is_collecting`, and `collected()` names them.
    """

    def __init__(self, num_classes: int, **options: Any):
        super().__init__(num_classes, **options)
        self._collecting = True

    @abstractmethod
    def collected(self) -> dict[str, Tensor]:
        """Return this rank's sums of this epoch, themselves and not copies, by name in the state dict."""

    @property
    def is_collecting(self) -> bool:
        """Whether a forward pass collects: with gradients enabled, outside of `frozen()`."""
        return self._collecting and torch.is_grad_enabled()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Collect nothing inside: for the second forward pass of SAM, R-Drop or LBFGS."""
        collecting, self._collecting = self._collecting, False
        try:
            yield
        finally:
            self._collecting = collecting

    def sum_over_ranks(self, *, reduce: Reduce | None = None) -> None:
        """Gather this epoch's sums on rank 0 and leave none on the others: call on all ranks, then save rank 0's state.

        Needed only before a checkpoint inside an epoch. Loading such a checkpoint on every rank keeps its sums on rank
        0 alone, so that `end_epoch` counts them once.

        Args:
            reduce: As in `end_epoch`.
        """
        self.reduce_collected(reduce)
        self.keep_on_rank_0()

    def keep_on_rank_0(self) -> None:
        """Set the sums of all other ranks to 0."""
        if dist.is_available() and dist.is_initialized() and dist.get_rank() > 0:
            for sums in self.collected().values():
                sums.zero_()

    def reduce_collected(self, reduce: Reduce | None) -> None:
        """Replace the sums by those over all ranks.

        Raises:
            ValueError: The default group cannot reduce on the device of the loss.
        """
        collected = self.collected().values()
        if reduce is None:
            if not (dist.is_available() and dist.is_initialized()):
                return
            device = next(iter(collected)).device
            if dist.get_backend() == "nccl" and device.type != "cuda":
                raise ValueError(
                    f"the loss must be on the GPU for the nccl backend to sum it, got {device}; "
                    "move it with loss.to(device)"
                )
        for sums in collected:
            if reduce is None:
                dist.all_reduce(sums)
            elif (summed := reduce(sums)) is not None and summed is not sums:
                sums.copy_(summed)
