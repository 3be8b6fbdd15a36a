"""Optimizer and learning-rate schedule, from timm's factories."""

import timm.optim
import timm.scheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer


def build_optimizer(model: nn.Module, name: str, *, peak_lr: float, weight_decay: float, momentum: float) -> Optimizer:
    """Build an optimizer; norms and biases are not decayed.

    Args:
        model: Whose parameters are trained.
        name: A name that timm knows; `sgd` is SGD with Nesterov momentum.
        peak_lr: Learning rate at the end of the warm-up.
        weight_decay: Weight decay of the other parameters.
        momentum: Momentum, for optimizers that have one.

    Raises:
        ValueError: timm does not know the name.
    """
    if name not in timm.optim.list_optimizers():
        raise ValueError(f"unknown optimizer {name!r}; timm knows {', '.join(timm.optim.list_optimizers())}")
    return timm.optim.create_optimizer_v2(model, name, lr=peak_lr, weight_decay=weight_decay, momentum=momentum)


def build_schedule(
    optimizer: Optimizer, name: str, *, epochs: int, warmup_epochs: float, min_lr: float, steps_per_epoch: int
) -> Scheduler:
    """Build a schedule that is a function of the optimizer steps taken: call `step_update(step)` before each step.

    Args:
        optimizer: Whose learning rates are set; its current ones are the peak.
        name: timm's name: `cosine`, `step`, `poly`, `constant`, ...
        epochs: Length of the schedule, warm-up included.
        warmup_epochs: Linear warm-up.
        min_lr: Learning rate at the end.
        steps_per_epoch: Optimizer steps per epoch, whatever the number of processes.
    """
    schedule, _ = timm.scheduler.create_scheduler_v2(
        optimizer,
        name,
        num_epochs=epochs,
        warmup_epochs=warmup_epochs,
        warmup_lr=min_lr,
        min_lr=min_lr,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return schedule
