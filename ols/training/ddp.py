"""What data-parallel training needs beside the wrapped model."""

import torch
from timm.utils.distributed import distribute_bn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ols.data.loading import beside
from ols.training.safe_step import StepGuard


def average_batch_statistics(model: nn.Module, num_processes: int) -> None:
    """Average the running statistics of batch normalisation, which each process gathers from its own batches."""
    if num_processes > 1:
        distribute_bn(model, num_processes, reduce=True)


def wrap_anew(wrapped: nn.Module, model: nn.Module) -> nn.Module:
    """Wrap a model for data-parallel training as it is wrapped, but for the parameters that are trained by now.

    Args:
        wrapped: The model as it was wrapped before; in a run of one process the model itself.
        model: The model, not wrapped.
    """
    if not isinstance(wrapped, DistributedDataParallel):
        return wrapped
    return DistributedDataParallel(model, device_ids=wrapped.device_ids, broadcast_buffers=wrapped.broadcast_buffers)


def settle_gradient_buckets(model: nn.Module, batch: dict[str, Tensor], guard: StepGuard) -> None:
    """Have DDP order its gradient buckets, as it does once after its first backward pass, before the first step.

    Sums over three or more processes depend on that order in their last bits.

    Args:
        model: Wrapped, in training mode.
        batch: Run through it.
        guard: Puts back what the pass changes.
    """
    guard.begin()
    model(batch["image"], **beside(batch)).sum().backward()
    model.zero_grad()
    guard.settle(torch.tensor(True, device=batch["image"].device))
