"""Architectures: timm's, by timm's names."""

import difflib

import timm
from torch import nn


def build_model(name: str, num_classes: int, in_chans: int = 1, *, pretrained: bool = False) -> nn.Module:
    """Build a classifier.

    The OLS study (arXiv 2510.20011) trains `resnet50`, `mobilenetv2_100` and `vgg19`.

    Args:
        name: A name that timm knows, or `local-dir:<folder>` for an export of `ols` or timm.
        num_classes: Outputs K of the model.
        in_chans: Channels of its input: 1 for grayscale.
        pretrained: Start from timm's weights (needs the network), or from those in the folder.

    Returns:
        A module from images `[B, in_chans, H, W]` to logits `[B, K]`.

    Raises:
        ValueError: timm does not know the name; the message lists near matches.
    """
    if ":" not in name and not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
        raise ValueError(f"unknown model {name!r}; did you mean {', '.join(near) or 'one of timm.list_models()'}?")
    return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans)


def architecture(model: nn.Module) -> str | None:
    """Return timm's name of a model's architecture, without a tag of its weights; None where it does not say."""
    return getattr(model, "pretrained_cfg", {}).get("architecture")
