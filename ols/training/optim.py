"""Optimizer, learning-rate schedule and moving average: timm's, with steps that can be skipped on the device."""

from typing import Any

import timm.optim
import timm.scheduler
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from ols.config import OptimConfig
from ols.models.head import find_head

FUSED = (SGD, Adam, AdamW)  # one kernel for all parameters, which a flag on the device can stop


def build_optimizer(model: nn.Module, options: OptimConfig) -> Optimizer:
    """Build an optimizer; norms and biases are not decayed.

    Args:
        model: Whose parameters are trained.
        options: Name, learning rates and decay.

    Raises:
        ValueError: timm does not know the name.
    """
    name = options.name
    if name not in timm.optim.list_optimizers():
        raise ValueError(f"unknown optimizer {name!r}; timm knows {', '.join(map(str, timm.optim.list_optimizers()))}")
    kind = timm.optim.get_optimizer_class(name, bind_defaults=False)
    fused: dict[str, Any] = {"fused": True} if isinstance(kind, type) and issubclass(kind, FUSED) else {}
    optimizer = timm.optim.create_optimizer_v2(
        parameter_groups(model, options), name, lr=options.peak_lr, momentum=options.momentum, **fused
    )
    if isinstance(optimizer, SGD) and options.momentum:
        # torch leaves these uninitialised if the very first step is skipped; a first step from zeros is the same.
        for parameter in model.parameters():
            if parameter.requires_grad:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def parameter_groups(model: nn.Module, options: OptimConfig) -> list[dict[str, Any]]:
    """Return the parameters that are trained, in groups of one weight decay and one learning rate.

    `lr_scale` of a group is its learning rate over that of the schedule, which timm's schedules heed.

    Args:
        model: timm's.
        options: `weight_decay`, `layer_decay` and `head_lr_factor`.
    """
    if options.layer_decay is None:
        groups = param_groups_weight_decay(model, options.weight_decay)
    else:
        groups = param_groups_layer_decay(model, options.weight_decay, layer_decay=options.layer_decay)
    if options.head_lr_factor == 1:
        return groups
    head = {id(parameter) for layer in find_head(model).values() for parameter in layer.parameters()}
    split = []
    for group in groups:
        for factor, inside in ((1.0, False), (options.head_lr_factor, True)):
            members = [parameter for parameter in group["params"] if (id(parameter) in head) == inside]
            if members:
                split.append({**group, "params": members, "lr_scale": factor * group.get("lr_scale", 1.0)})
    return split


def step_unless(optimizer: Optimizer, skip: Tensor) -> None:
    """Take a step unless `skip`, a boolean on the device, is true.

    The fused optimizers (SGD, Adam, AdamW) leave everything as it is without the host waiting to know; for others it
    waits. torch gives GradScaler the same attribute to do the same.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = skip.float()  # type: ignore[attr-defined]  # torch reads it where it is set
    elif skip:
        return
    optimizer.step()


class MovingAverage(ModelEmaV3):
    """timm's exponential moving average of the weights, which a flag on the device can stop."""

    @torch.no_grad()
    def update_unless(self, model: nn.Module, skip: Tensor) -> None:
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


def build_schedule(optimizer: Optimizer, options: OptimConfig, *, epochs: int, steps_per_epoch: int) -> Scheduler:
    """Build a schedule that is a function of the optimizer steps taken: call `step_update(step)` before each step.

    Args:
        optimizer: Whose learning rates are set; its current ones are the peak.
        options: Name of the schedule, warm-up and smallest learning rate.
        epochs: Length of the schedule, warm-up included.
        steps_per_epoch: Optimizer steps per epoch, whatever the number of processes.
    """
    schedule, _ = timm.scheduler.create_scheduler_v2(
        optimizer,
        options.schedule,
        num_epochs=epochs,
        warmup_epochs=options.warmup_epochs,  # type: ignore[arg-type]  # timm takes parts of an epoch as well
        warmup_lr=options.min_lr,
        min_lr=options.min_lr,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return schedule


def scheduled_lr(optimizer: Optimizer) -> float:
    """Return the learning rate of the schedule, whatever the scale of a group."""
    group = optimizer.param_groups[0]
    return group["lr"] / group.get("lr_scale", 1.0)
