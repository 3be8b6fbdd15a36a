"""The head of a timm model: the last layers, which give the outputs; how to find it, and how to put another there."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ols.models.head_layers import HEADS, build_layers, take_side_input
from ols.models.options import HeadOptions

BYTES_PER_PARAMETER = 16  # in training: the weight, its gradient and two averages of an optimizer, in float32


def find_head(model: nn.Module) -> dict[str, nn.Module]:
    """Return the head's layers by name: one for most models, two for distilled transformers, none without classes.

    Raises:
        ValueError: The model is not one of timm's.
    """
    names = _as_names(getattr(model, "pretrained_cfg", {}).get("classifier"))
    if not names:
        get_classifier = getattr(model, "get_classifier", None)
        if get_classifier is None:
            raise ValueError(f"{type(model).__name__} is no model of timm's: it does not say what its head is")
        own = get_classifier()
        own = own if isinstance(own, tuple) else (own,)
        names = [name for name, module in model.named_modules() if any(module is layer for layer in own)]
    layers = {name: model.get_submodule(name) for name in names}
    return {name: layer for name, layer in layers.items() if list(layer.parameters())}


def zero_head(model: nn.Module) -> None:
    """Let a new head answer 0, which of standardised targets is their mean, whatever the size of its features.

    With random weights the answers of a pretrained network can begin ten standard deviations from all targets.
    """
    for head in find_head(model).values():
        last = [layer for layer in head.modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
        for value in last.parameters():
            nn.init.zeros_(value)


def head_parameter_names(model: nn.Module) -> list[str]:
    """Return the names of the head's weights and biases, as in the model's state dict."""
    return [f"{layer}.{name}" for layer, module in find_head(model).items() for name, _ in module.named_parameters()]


def first_convolution_names(model: nn.Module) -> list[str]:
    """Return the names of the weights of the first layer, whose second dimension is the channels of an image."""
    names = _as_names(getattr(model, "pretrained_cfg", {}).get("first_conv"))
    return [f"{layer}.{name}" for layer in names for name, _ in model.get_submodule(layer).named_parameters()]


def num_outputs(model: nn.Module, tensors: Mapping[str, Tensor]) -> int:
    """Return the number of outputs K of the head that lies in a state dict of the model's architecture.

    Raises:
        ValueError: There is no head in it.
    """
    for name in reversed(head_parameter_names(model)):  # the last layer gives the outputs
        if name in tensors:
            return len(tensors[name])
    raise ValueError(f"no head among the tensors; expected {', '.join(head_parameter_names(model))}")


def replace_head(model: nn.Module, options: HeadOptions, num_outputs: int, *, memory: int | None = None) -> str:
    """Put a new head on a model, with fresh weights; the trunk and its pooling stay as they are.

    Load a start's weights before, into the head that timm builds: the trunk's tensors have the same names then.

    Args:
        model: timm's, whose head is one linear layer or one that was put there before.
        options: Kind and sizes of the head.
        num_outputs: Outputs K.
        memory: Bytes that training the head may take; by default all that the model's device has.

    Returns:
        A line that says what the head is and how many parameters it has.

    Raises:
        ValueError: The model has no head of that form, the head does not fit the features, or it is too large: then
            nothing was allocated.
    """
    if num_outputs < 1:
        raise ValueError(f"a head needs at least 1 output, got {num_outputs}")
    like = next(model.parameters())
    name, in_features = _place_of_head(model)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_layers(options, in_features, num_outputs).parameters())
    needed, available = parameters * BYTES_PER_PARAMETER, _memory(like.device) if memory is None else memory
    if needed > available:
        raise ValueError(
            f"a head of kind {options.kind} with width {options.width} on {in_features} features has {parameters:,} "
            f"parameters: training takes {needed / 2**30:.1f} GiB, {available / 2**30:.1f} GiB are there; "
            "lower head.width"
        )
    head = build_layers(options, in_features, num_outputs).to(like.device, like.dtype).train(model.training)
    model.set_submodule(name, head)
    model.num_classes = num_outputs  # type: ignore[assignment]  # as timm's reset_classifier does
    if options.side_inputs:
        model.register_forward_pre_hook(take_side_input, with_kwargs=True)
    return f"head  {options.kind}, {in_features} features to {num_outputs} outputs, {parameters:,} parameters"


def head_record(model: nn.Module) -> dict[str, Any]:
    """Return what an export has to say of a head for `build_head` to build it again, as JSON can hold it.

    A `linear` head has the names of timm's own, so that plain timm loads it; it finds tensors of other kinds to be
    left over, and refuses them.
    """
    heads = list(find_head(model).values())
    options = heads[0].options if len(heads) == 1 and isinstance(heads[0], HEADS) else HeadOptions()
    return asdict(options)


def build_head(model: nn.Module, record: Mapping[str, Any]) -> None:
    """Put the head of an export on a model of its architecture that timm has built for as many classes.

    Args:
        model: timm's, before the export's tensors are loaded.
        record: As `head_record` gives it.

    Raises:
        ValueError: The record has options that this version does not know, or that do not fit the model.
    """
    unknown = record.keys() - HeadOptions.__dataclass_fields__.keys()
    if unknown:
        raise ValueError(f"the export's head has options that are not known here: {', '.join(sorted(unknown))}")
    options = HeadOptions(**record)
    if options != HeadOptions():
        outputs = len(model.state_dict()[head_parameter_names(model)[-1]])
        replace_head(model, options, outputs)


def _place_of_head(model: nn.Module) -> tuple[str, int]:
    """Return where the head is, and how many features it takes."""
    heads = find_head(model)
    if not heads:
        model.reset_classifier(1)  # type: ignore[operator]  # what timm was asked to leave out
        heads = find_head(model)
    kinds = ", ".join(type(layer).__name__ for layer in heads.values())
    if len(heads) != 1:
        raise ValueError(f"{type(model).__name__} has {len(heads)} heads ({kinds}): another kind can replace only one")
    name, layer = next(iter(heads.items()))
    if not isinstance(layer, nn.Linear | HEADS):
        raise ValueError(f"the head of {type(model).__name__}, {name}, is a {kinds}: only a linear one can be replaced")
    side = isinstance(layer, HEADS) and layer.options.side_inputs > 0
    for number, hook in list(model._forward_pre_hooks.items()):
        if side and hook is take_side_input:
            del model._forward_pre_hooks[number], model._forward_pre_hooks_with_kwargs[number]
    return name, layer.in_features


def _memory(device: torch.device) -> int:
    """Return the bytes that a device has; on the CPU no more than a container may take."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    sizes = [2**63]
    for path, unit in (("/proc/meminfo", 1024), ("/sys/fs/cgroup/memory.max", 1)):
        words = Path(path).read_text().split() if Path(path).is_file() else []
        sizes += [int(word) * unit for word in words[:2] if word.isdecimal()]
    return min(sizes)


def _as_names(entry: str | tuple[str, ...] | list[str] | None) -> list[str]:
    return [entry] if isinstance(entry, str) else list(entry or ())
