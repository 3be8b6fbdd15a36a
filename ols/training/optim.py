"""Optimizer, learning-rate schedule and moving average: timm's, with steps that can be skipped on the device."""

import timm.optim
import timm.scheduler
import torch
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

FUSED = (SGD, Adam, AdamW)  # one kernel for all parameters, which a flag on the device can stop


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
    fused = {"fused": True} if issubclass(timm.optim.get_optimizer_class(name, bind_defaults=False), FUSED) else {}
    optimizer = timm.optim.create_optimizer_v2(
        model, name, lr=peak_lr, weight_decay=weight_decay, momentum=momentum, **fused
    )
    if isinstance(optimizer, SGD) and momentum:
        # torch leaves these uninitialised if the very first step is skipped; a first step from zeros is the same.
        for parameter in model.parameters():
            if parameter.requires_grad:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def step_unless(optimizer: Optimizer, skip: Tensor) -> None:
    """Take a step unless `skip`, a boolean on the device, is true.

    The fused optimizers (SGD, Adam, AdamW) leave everything as it is without the host waiting to know; for others it
    waits. torch gives GradScaler the same attribute to do the same.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = skip.float()
    elif skip:
        return
    optimizer.step()


class MovingAverage(ModelEmaV3):
    """timm's exponential moving average of the weights, which a flag on the device can stop."""

    @torch.no_grad()
    def update(self, model: nn.Module, skip: Tensor) -> None:
        """Move by `1 - decay` towards the model, unless `skip`, a boolean on the device, is true."""
        averages, values = [], []
        for average, value in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                averages.append(average)
                values.append(value)
            else:
                average.copy_(value)
        moves = torch._foreach_sub(values, averages)
        torch._foreach_mul_(moves, (1 - self.decay) * (~skip).to(averages[0].dtype))
        torch._foreach_add_(averages, moves)


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
