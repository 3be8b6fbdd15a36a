"""Optimizer steps that are undone on the device where they are not finite, so that nothing waits for the host."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from ols.training.optim import MovingAverage, step_unless

LARGE = 1 << 20  # elements: joining such a tensor with others would copy more than it saves


class StepGuard:
    """Remembers tensors before a step, and puts them back after a step that was not finite.

    Args:
        tensors: What a step changes before it is known to be finite, such as batch statistics; updated in place.
    """

    def __init__(self, tensors: Iterable[Tensor]):
        groups: dict[object, list[Tensor]] = {}
        for tensor in tensors:
            alone = tensor.numel() >= LARGE and tensor.is_contiguous()
            groups.setdefault(id(tensor) if alone else tensor.dtype, []).append(tensor)
        self._groups = list(groups.values())
        self._before: list[Tensor] = []

    def begin(self) -> None:
        """Remember the tensors as they are before a step."""
        self._before = [torch.cat([tensor.flatten() for tensor in group]) for group in self._groups]

    def settle(self, nonfinite: Tensor) -> None:
        """Put them back where `nonfinite`, a boolean on their device, is true."""
        for group, before in zip(self._groups, self._before, strict=True):
            if len(group) == 1:
                group[0].copy_(torch.where(nonfinite, before.view_as(group[0]), group[0]))
                continue
            now = torch.cat([tensor.flatten() for tensor in group])
            kept = torch.where(nonfinite, before, now).split([tensor.numel() for tensor in group])
            torch._foreach_copy_(group, [part.view_as(tensor) for part, tensor in zip(kept, group, strict=True)])


class Step(NamedTuple):
    """A step that the host has not read yet."""

    number: int  # from 1
    nonfinite: Tensor  # boolean, on the device: whether it was skipped
    indices: list[Tensor]  # samples of each of its micro-batches, of this process


class SafeStep:
    """Takes optimizer steps, and skips on the device those whose loss or gradient is not finite on any process.

    Args:
        model: The model itself, not wrapped for distributed training.
        optimizer: Of its parameters.
        guarded: What forward and backward passes change before a step is known to be finite; updated in place.
        any_process: Returns a boolean tensor that is true where it is true on any process.
        scaler: Gradient scaler of fp16; None where there is none.
        clip_grad_norm: Largest norm of the gradient; None does not clip.
        average: Moving average of the weights, where there is one.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        guarded: Iterable[Tensor],
        any_process: Callable[[Tensor], Tensor],
        scaler: torch.amp.GradScaler | None = None,
        clip_grad_norm: float | None = None,
        average: MovingAverage | None = None,
    ):
        self.model, self.optimizer, self.average = model, optimizer, average
        self.parameters = list(model.parameters())
        self.guard = StepGuard(guarded)
        self.any_process, self.scaler, self.clip_grad_norm = any_process, scaler, clip_grad_norm
        self.unread: list[Step] = []
        self._indices: list[Tensor] = []

    def begin(self) -> None:
        """Remember what a step may have to undo; call it before the first micro-batch."""
        self.guard.begin()
        self._indices = []

    def add(self, indices: Tensor) -> None:
        """Note the samples of a micro-batch, on the CPU."""
        self._indices.append(indices)

    def take(self, number: int, loss_sum: Tensor) -> None:
        """Take the optimizer's step and move the average, or on the device undo what the step has changed.

        Args:
            number: Number of the step, from 1.
            loss_sum: The loss so far, on the device; not finite where that of the step was not.
        """
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        nonfinite = ~loss_sum.isfinite()
        if self.scaler is None:
            norm = get_total_norm(gradients)
            nonfinite = nonfinite | ~norm.isfinite()
        nonfinite = self.any_process(nonfinite)
        self.guard.settle(nonfinite)
        if self.scaler is not None:
            # The scaler skips what it finds, overflows of its own making among it, which it counters.
            gradients[0].add_(torch.where(nonfinite, torch.nan, 0.0))
            if self.clip_grad_norm is not None:
                self.scaler.unscale_(self.optimizer)
                norm = get_total_norm(gradients)
        if self.clip_grad_norm is not None:
            clip_grads_with_norm_(self.parameters, self.clip_grad_norm, norm)
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            step_unless(self.optimizer, nonfinite)
        if self.average is not None:
            self.average.update_unless(self.model, nonfinite)
        self.optimizer.zero_grad()
        self.unread.append(Step(number, nonfinite, self._indices))

    def read(self) -> list[tuple[Step, bool]]:
        """Return the steps since the last reading, and whether each was finite; waits for the device."""
        if not self.unread:
            return []
        steps, self.unread = self.unread, []
        skipped = torch.stack([step.nonfinite for step in steps]).tolist()
        return [(step, not nonfinite) for step, nonfinite in zip(steps, skipped, strict=True)]
