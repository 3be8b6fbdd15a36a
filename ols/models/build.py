"""Architectures: timm's, by timm's names."""

import difflib
from typing import Any

import timm
from torch import nn

from ols.models.decoder import UNet


def build_model(
    name: str,
    num_classes: int,
    in_chans: int = 1,
    *,
    image_size: int | None = None,
    pretrained: bool = False,
    dense: bool = False,
) -> nn.Module:
    """Build a model of images: a classifier, or with a decoder a classifier of pixels.

    The OLS study (arXiv 2510.20011) trains `resnet50`, `mobilenetv2_100` and `vgg19`.

    Args:
        name: A name that timm knows, or `local-dir:<folder>` for an export of `ols` or timm.
        num_classes: Outputs K of the model.
        in_chans: Channels of its input: 1 for grayscale.
        image_size: Side of the images in pixels, for models that are built for one size; by default the model's own.
        pretrained: Start from timm's weights (needs the network), or from those in the folder.
        dense: Whether to answer for each pixel, by a U-Net over the model.

    Returns:
        A module from images `[B, in_chans, H, W]` to logits `[B, K]`, dense `[B, K, H, W]`.

    Raises:
        ValueError: timm does not know the name, and the message lists near matches; or the model cannot be built for
            images of this size.
    """
    if ":" not in name and not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
        raise ValueError(f"unknown model {name!r}; did you mean {', '.join(near) or 'one of timm.list_models()'}?")
    arguments = model_arguments(name, num_classes, in_chans, image_size)
    try:
        if dense:
            return UNet(name, num_classes, pretrained=pretrained, **arguments)
        return timm.create_model(name, pretrained=pretrained, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        if "img_size" not in arguments:
            raise
        raise ValueError(f"{name} cannot be built for data.image_size {image_size}: {error}") from error


def model_arguments(name: str, num_classes: int, in_chans: int, image_size: int | None) -> dict[str, Any]:
    """Return the arguments that timm builds a model with: transformers are built for images of one size.

    Args:
        name: A name that timm knows.
        num_classes: Outputs K of the model.
        in_chans: Channels of its input.
        image_size: Side of the images in pixels; None for the model's own.
    """
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans}
    known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if known is not None and known.fixed_input_size and image_size not in (None, known.input_size[-1]):
        arguments["img_size"] = image_size
    return arguments


def architecture(model: nn.Module) -> str | None:
    """Return timm's name of a model's architecture, without a tag of its weights; None where it does not say."""
    return getattr(model, "pretrained_cfg", {}).get("architecture")
