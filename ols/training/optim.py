"""Optimizer, learning-rate schedule and moving average: timm's, with steps that can be skipped on the device."""

import json
import random
import warnings
from collections.abc import Iterable
from typing import Any

import safetensors.torch
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
from ols.runs.checkpoint import load_optimizer, optimizer_tensors

FUSED = (SGD, Adam, AdamW)  # one kernel for all parameters, which a flag on the device can stop
TRIAL_STEPS = 3  # before a checkpoint and after it


def build_optimizer(model: nn.Module, options: OptimConfig) -> Optimizer:
    """Build an optimizer; norms and biases are not decayed.

    Before anything is trained it is tried whether the optimizer fits the loop and comes back from a checkpoint to the
    bit, whatever timm's list of names grows to: see `try_optimizer`.

    Args:
        model: Whose parameters are trained.
        options: Name, learning rates and decay.

    Raises:
        ValueError: timm does not know the name, or the optimizer does not pass; the message names it.
    """
    name = options.name
    if name not in timm.optim.list_optimizers():
        raise ValueError(f"unknown optimizer {name!r}; timm knows {', '.join(map(str, timm.optim.list_optimizers()))}")
    try_optimizer(options, like=next(model.parameters()))
    return _create(parameter_groups(model, options), options)


def try_optimizer(options: OptimConfig, *, like: Tensor) -> None:
    """Take steps with an optimizer on a few small parameters, and the same steps from a checkpoint half way.

    Args:
        options: Name, learning rate and decay.
        like: A tensor of the device and type of the parameters that are to be trained.

    Raises:
        ValueError: The optimizer cannot be built here, needs what the loop does not give it (a closure, second
            derivatives), keeps something that a checkpoint cannot hold, or continues otherwise than it would have.
    """
    refused = f"optim.name {options.name!r} is not for these runs"
    device = torch.device("cpu") if like.device.type == "meta" else like.device
    cuda = [device] if device.type == "cuda" else []
    eager = torch.compiler.set_stance("force_eager")  # to compile a few small kernels would take a minute
    with torch.random.fork_rng(cuda), warnings.catch_warnings(), torch.enable_grad(), eager:
        warnings.simplefilter("ignore")  # the optimizer that is used says it again
        parameters = _few_parameters(device, like.dtype)
        try:
            optimizer = _create(_two_groups(parameters, options), options)
        except Exception as error:
            raise ValueError(f"{refused}: it cannot be built: {error}") from error
        if getattr(optimizer, "is_second_order", False):
            raise ValueError(f"{refused}: it needs second derivatives")
        try:
            _take_steps(optimizer, parameters, range(TRIAL_STEPS))
        except Exception as error:
            raise ValueError(f"{refused}: it cannot take a step from gradients alone: {error}") from error
        try:
            tensors, rest = optimizer_tensors(optimizer)
            tensors, rest = safetensors.torch.load(_written(tensors)), json.loads(json.dumps(rest))
            copies = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
            resumed = _create(_two_groups(copies, options), options)
            load_optimizer(resumed, tensors, rest)
        except Exception as error:
            raise ValueError(f"{refused}: a checkpoint cannot hold it: {error}") from error
        for one, its in ((optimizer, parameters), (resumed, copies)):
            _take_steps(one, its, range(TRIAL_STEPS, 2 * TRIAL_STEPS))
        same = _bits(optimizer, parameters) == _bits(resumed, copies)
    if not (same and _own_numbers(optimizer) == _own_numbers(resumed)):
        raise ValueError(f"{refused}: after a checkpoint it does not continue as it would have")


def _create(groups: list[dict[str, Any]], options: OptimConfig) -> Optimizer:
    name = options.name
    kind = timm.optim.get_optimizer_class(name, bind_defaults=False)
    fused: dict[str, Any] = {"fused": True} if isinstance(kind, type) and issubclass(kind, FUSED) else {}
    optimizer = timm.optim.create_optimizer_v2(groups, name, lr=options.peak_lr, momentum=options.momentum, **fused)
    if isinstance(optimizer, SGD) and options.momentum:
        # torch leaves these uninitialised if the very first step is skipped; a first step from zeros is the same.
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _few_parameters(device: torch.device, dtype: torch.dtype) -> list[nn.Parameter]:
    """Return a convolution's, a linear layer's and a norm's weight, and a parameter without dimensions."""
    torch.manual_seed(0)
    shapes: list[tuple[int, ...]] = [(4, 2, 3, 3), (5, 6), (5,), ()]
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64).to(device, dtype)) for shape in shapes]


def _two_groups(parameters: list[nn.Parameter], options: OptimConfig) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": options.weight_decay},
    ]


def _take_steps(optimizer: Optimizer, parameters: list[nn.Parameter], steps: Iterable[int]) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters:
            gradient = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = gradient.to(parameter.device, parameter.dtype)
        optimizer.step()


def _own_numbers(optimizer: Optimizer) -> dict[str, Any]:
    """Return numbers and random states that an optimizer keeps beside its state dict, where it has any."""
    own = {name: value for name, value in vars(optimizer).items() if isinstance(value, int | float)}
    generators = {name: value for name, value in vars(optimizer).items() if isinstance(value, random.Random)}
    return own | {name: generator.getstate() for name, generator in generators.items()}


def _bits(optimizer: Optimizer, parameters: list[nn.Parameter]) -> tuple[bytes, str]:
    tensors, rest = optimizer_tensors(optimizer)
    weights = {f"parameter {number}": parameter for number, parameter in enumerate(parameters)}
    return _written(tensors | weights), json.dumps(rest)


def _written(tensors: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()})


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


def scale_learning_rates(optimizer: Optimizer, factor: float) -> None:
    """Multiply the learning rates that the schedule sets from here on, whatever they were multiplied by before.

    Args:
        optimizer: Of a schedule; call this before the schedule's step.
        factor: Learning rates over those of the schedule; groups keep their rates relative to each other.
    """
    for group in optimizer.param_groups:
        own = group.setdefault("own_lr_scale", group.get("lr_scale", 1.0))
        group["lr_scale"] = own * factor


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
    is_constant = options.schedule == "constant"
    schedule, _ = timm.scheduler.create_scheduler_v2(
        optimizer,
        "step" if is_constant else options.schedule,
        num_epochs=epochs,
        decay_rate=1.0 if is_constant else 0.1,  # of a step: timm's default
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
