"""Heads on pooled features `[B, d]`: linear, with hidden layers, and convolutions along the features."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ols.models.options import HeadOptions


class LinearHead(nn.Linear):
    """Dropout and a linear layer, whose tensors have the names of timm's own head.

    Args:
        options: Its `dropout`.
        in_features: Features d.
        outputs: Outputs K.
    """

    def __init__(self, options: HeadOptions, in_features: int, outputs: int):
        super().__init__(in_features, outputs)
        self.options = options

    def forward(self, features: Tensor) -> Tensor:
        """Return outputs `[B, K]` of features `[B, d]`."""
        return super().forward(F.dropout(features, self.options.dropout, self.training))


class MlpHead(nn.Module):
    """Hidden layers with ReLU and dropout; numbers beside the image join the features through a layer of their own.

    With `side_inputs=1, layers=2, width=1000` it is the head for bone age of RadiologyNET (2025).

    Args:
        options: `width`, `layers`, `dropout`, `side_inputs` and `side_units`.
        in_features: Features d.
        outputs: Outputs K.
    """

    def __init__(self, options: HeadOptions, in_features: int, outputs: int):
        super().__init__()
        self.options, self.in_features = options, in_features
        self.side = SideInput(options.side_inputs, options.side_units) if options.side_inputs else None
        before, width = in_features + (options.side_units if self.side else 0), options.width or in_features
        layers: list[nn.Module] = []
        for _ in range(options.layers):
            layers += [nn.Linear(before, width), nn.ReLU(), nn.Dropout(options.dropout)]
            before = width
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(before, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Return outputs `[B, K]` of features `[B, d]`."""
        if self.side is not None:
            features = torch.cat([features, self.side(len(features))], 1)
        return self.output(self.hidden(features))


class ConvHead(nn.Module):
    """A convolution along the features, then a hidden layer (Frees et al. 2025); with a linear map beside it or not.

    Conv1d(1, F, k), batch norm, LeakyReLU, dropout, flattened; plus, for `conv1d_skip`, Linear, batch norm and ReLU of
    the features; then Linear, batch norm, LeakyReLU, dropout and Linear.

    Args:
        options: `filters` F, `kernel_size` k, `width`, `dropout`, and `kind`.
        in_features: Features d.
        outputs: Outputs K.

    Raises:
        ValueError: The kernel is longer than the features, or `width` smaller than the number of filters.
    """

    def __init__(self, options: HeadOptions, in_features: int, outputs: int):
        super().__init__()
        self.options, self.in_features = options, in_features
        positions = in_features - options.kernel_size + 1
        if positions < 1:
            raise ValueError(f"head.kernel_size {options.kernel_size} is longer than the {in_features} features")
        if options.width is not None and options.width < options.filters:
            raise ValueError(f"head.width {options.width} is smaller than head.filters {options.filters}")
        if options.width is not None:
            positions = min(positions, options.width // options.filters)
        flat = positions * options.filters
        width = options.width or flat
        self.convolution = nn.Sequential(
            nn.Conv1d(1, options.filters, options.kernel_size),
            nn.BatchNorm1d(options.filters),
            nn.LeakyReLU(),
            nn.AdaptiveAvgPool1d(positions),
            nn.Dropout(options.dropout),
            nn.Flatten(),
        )
        self.skip = None
        if options.kind == "conv1d_skip":
            self.skip = nn.Sequential(nn.Linear(in_features, flat), nn.BatchNorm1d(flat), nn.ReLU())
        self.hidden = nn.Sequential(
            nn.Linear(flat, width), nn.BatchNorm1d(width), nn.LeakyReLU(), nn.Dropout(options.dropout)
        )
        self.output = nn.Linear(width, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Return outputs `[B, K]` of features `[B, d]`."""
        seen = self.convolution(features[:, None])
        if self.skip is not None:
            seen = seen + self.skip(features)
        return self.output(self.hidden(seen))


class SideInput(nn.Module):
    """A layer with ReLU for numbers beside the image, which `take_side_input` lays ready before a forward pass.

    Args:
        inputs: Numbers per image.
        units: Units of the layer.
    """

    def __init__(self, inputs: int, units: int):
        super().__init__()
        self.layer = nn.Linear(inputs, units)
        self.values: Tensor | None = None

    def forward(self, images: int) -> Tensor:
        """Return `[B, units]`, and forget the numbers.

        Raises:
            ValueError: There are none, or not `[B, inputs]`.
        """
        values, self.values = self.values, None
        shape = (images, self.layer.in_features)
        if values is None or values.shape != shape:
            given = "none" if values is None else str(list(values.shape))
            raise ValueError(f"the head takes numbers beside the images, side={list(shape)}; got {given}")
        return F.relu(self.layer(values.to(self.layer.weight.dtype)))


def take_side_input(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Take `side` from the arguments of a model's forward pass and lay it ready in its head: a forward pre-hook."""
    rest = dict(kwargs)
    side = rest.pop("side", None)
    for module in model.modules():
        if isinstance(module, SideInput):
            module.values = side
    return args, rest


HEADS = LinearHead | MlpHead | ConvHead


def build_layers(options: HeadOptions, in_features: int, outputs: int) -> LinearHead | MlpHead | ConvHead:
    """Build a head with torch's initial weights.

    Args:
        options: Kind and sizes.
        in_features: Features d.
        outputs: Outputs K.
    """
    kinds: dict[str, type[LinearHead | MlpHead | ConvHead]] = {
        "linear": LinearHead,
        "mlp": MlpHead,
        "conv1d": ConvHead,
        "conv1d_skip": ConvHead,
    }
    return kinds[options.kind](options, in_features, outputs)
