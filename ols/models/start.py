"""From which weights a model starts: tensors into a model, every one accounted for; and the input they expect."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from ols.models.build import architecture, build_model
from ols.models.head import find_head, first_convolution_names, head_parameter_names
from ols.models.options import IMAGENET
from ols.models.origin import note_origin
from ols.models.published import (
    COUNTER,
    keras_variant,
    read_hub,
    read_keras,
    read_radiologynet,
    read_timm,
    read_torch,
    recognise,
)
from ols.models.published_files import find_published
from ols.models.variant import Variant, apply_variant

Channels = tuple[float, ...]
HALF: Channels = (0.5,)  # maps intensities to [-1, 1]


@dataclass(frozen=True)
class Kind:
    """A form in which weights are published.

    Args:
        read: From the file and timm's network to tensors in timm's names.
        variant: From the architecture to what the network differs in from timm's.
        scale: Mean and standard deviation that the weights expect, of intensities in [0, 1]; None for timm's.
    """

    read: Callable[[Path, nn.Module], Mapping[str, Tensor]]
    variant: Callable[[str], Variant]
    scale: tuple[Channels, Channels] | None


def _radiologynet_variant(name: str) -> Variant:
    return Variant(bn_eps=1e-3) if name.startswith("mobilenetv3") else Variant()


# (BGR - mean) / 255, as Keras's RadImageNet was trained: the first channel that the network sees is blue, or any of a
# gray image.
KERAS_SCALE: tuple[Channels, Channels] = ((103.939 / 255, 116.779 / 255, 123.68 / 255), (1.0, 1.0, 1.0))
KINDS = {
    IMAGENET: Kind(read_timm, lambda name: Variant(), None),
    "radimagenet-keras": Kind(read_keras, keras_variant, KERAS_SCALE),
    "radimagenet-torch": Kind(read_torch, lambda name: Variant(), (HALF, HALF)),
    "radimagenet-hub": Kind(read_hub, keras_variant, KERAS_SCALE),
    "radiologynet": Kind(read_radiologynet, _radiologynet_variant, ((0.0,), (1.0,))),
}


def start_from_file(model: nn.Module, kind: str, path: Path) -> str:
    """Load published weights into timm's network, change it into the variant that they are of, and note its origin.

    Args:
        model: timm's, not wrapped, for 1 or 3 channels.
        kind: A name of `KINDS`.
        path: The file, or a folder that holds the published files of several networks, see `find_published`.

    Returns:
        A line that says what was loaded, how much of the network that is, and the file's SHA-256.

    Raises:
        FileNotFoundError: There is no such file, or none of this network.
        ValueError: It is of another form or architecture, or does not hold every tensor of the trunk.
    """
    if path.is_dir():
        path = find_published(path, architecture(model) or type(model).__name__)
    if not path.is_file():
        raise FileNotFoundError(f"no such file of weights: {path}")
    try:
        whole = _with_head(model)
        tensors = dict(KINDS[kind].read(path, whole))
        if whole is not model:
            tensors = {name: value for name, value in tensors.items() if name in model.state_dict()}
        line = load_into(model, tensors, str(path))
    except ValueError as error:
        looks = recognise(path)
        if looks in (None, kind):
            raise
        raise ValueError(f"{error}; the file looks like {looks}:<file>, and was named {kind}:<file>") from error
    variant = KINDS[kind].variant(architecture(model) or "")
    apply_variant(model, variant)
    head = set(head_parameter_names(model))
    of_trunk = sum(p.numel() for name, p in model.named_parameters() if name not in head)
    changed = "" if variant == Variant() else f"; {variant}"
    line += f"; every one of {of_trunk:,} parameters of the trunk{changed}; sha256 {sha256(path)}"
    note_origin(model, [line])
    return line


def _with_head(model: nn.Module) -> nn.Module:
    """Return the network that a file is read against: one below a decoder lacks the head and what only that sees."""
    if find_head(model):
        return model
    with torch.random.fork_rng(devices=[]):
        return build_model(architecture(model) or type(model).__name__, 1)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> str:
    """Load the tensors of a model of the same architecture, to train it further.

    Where the number of classes differs, the model keeps its own head. Between gray and RGB the first convolution is
    adapted: summed over the channels, or a third of it for each, so that a gray image gives what it gave before.

    Args:
        model: timm's, not wrapped, for 1 or 3 channels.
        tensors: By name, as in the model's state dict; counters of batches may be left out.
        source: Where they come from, for messages.

    Returns:
        A line that says how many were loaded, what was adapted, and what is new.

    Raises:
        ValueError: A tensor of the trunk is missing, has another shape, or is left over; the message lists them.
    """
    weights, own = dict(tensors), model.state_dict()
    line = f"start {len(weights)} tensors of {source}"
    weights = {name: value for name, value in own.items() if name.endswith(COUNTER)} | weights
    for name in first_convolution_names(model):
        if name in weights and (found := weights[name].shape[1:2]) != (wanted := own[name].shape[1:2]):  # not the bias
            gray = found > wanted
            weights[name] = adapt_input_conv(1, weights[name]) if gray else weights[name].repeat_interleave(3, 1) / 3
            line += f"; {name} adapted from {found[0]} to {wanted[0]} channels"
    misfits = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    head = head_parameter_names(model)
    new = [name for name in misfits if name in head]
    if new != misfits or weights.keys() - own.keys():
        names = ", ".join(sorted({*misfits, *(weights.keys() - own.keys())}.difference(new)))
        raise ValueError(f"{source} does not fit the model {architecture(model)}: {names}")
    model.load_state_dict(weights | {name: own[name] for name in new})
    return line + (f"; new: {', '.join(new)}" if new else "")


def pretrained_normalization(name: str) -> tuple[Channels, Channels]:
    """Return mean and standard deviation of each channel that timm's weights of a model expect, in [0, 1]."""
    config = timm.get_pretrained_cfg(name)
    return (HALF, HALF) if config is None else (tuple(config.mean), tuple(config.std))
