"""From which weights a model starts: tensors into a model, every one accounted for; and the input they expect."""

from collections.abc import Mapping

import timm
from timm.models import adapt_input_conv
from torch import Tensor, nn

from ols.models.build import architecture
from ols.models.head import first_convolution_names, head_parameter_names

DEFAULT = 0.5  # maps intensities to [-1, 1]


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> str:
    """Load the tensors of a model of the same architecture, to train it further.

    Where the number of classes differs, the model keeps its own head. Between gray and RGB the first convolution is
    adapted: summed over the channels, or a third of it for each, so that a gray image gives what it gave before.

    Args:
        model: timm's, not wrapped, for 1 or 3 channels.
        tensors: By name, as in the model's state dict.
        source: Where they come from, for messages.

    Returns:
        A line that says how many were loaded, what was adapted, and what is new.

    Raises:
        ValueError: A tensor of the trunk is missing, has another shape, or is left over; the message lists them.
    """
    weights, own = dict(tensors), model.state_dict()
    line = f"start {len(weights)} tensors of {source}"
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


def pretrained_normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel that timm's weights of a model expect, in [0, 1]."""
    config = timm.get_pretrained_cfg(name)
    if config is None:
        return (DEFAULT,), (DEFAULT,)
    return tuple(config.mean), tuple(config.std)
