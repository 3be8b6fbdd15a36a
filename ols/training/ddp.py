"""What data-parallel training needs beside the wrapped model."""

import torch
from timm.utils.distributed import distribute_bn
from torch import Tensor, nn

from ols.training.safe_step import StepGuard


def average_batch_statistics(model: nn.Module, num_processes: int) -> None:
    """Average the running statistics of batch normalisation, which each process gathers from its own batches."""
    if num_processes > 1:
        distribute_bn(model, num_processes, reduce=True)


def settle_gradient_buckets(model: nn.Module, images: Tensor, guard: StepGuard) -> None:
    """Have DDP order its gradient buckets, as it does once after its first backward pass, before the first step.

    Sums over three or more processes depend on that order in their last bits.

    Args:
        model: Wrapped, in training mode.
        images: A batch to run through it.
        guard: Puts back what the pass changes.
    """
    guard.begin()
    model(images).sum().backward()
    model.zero_grad()
    guard.settle(torch.tensor(True, device=images.device))
