"""From the features of a classifier to a class of each pixel."""

from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (256, 128, 64, 32, 16)  # channels of the decoder from its deepest block


class UNet(nn.Module):
    """A U-Net (Ronneberger et al., MICCAI 2015) whose contracting path is a timm model.

    The features of each resolution, the deepest of each, go through blocks that bring the coarser to the size of the
    finer (nearest neighbour), put both side by side and convolve twice. Logits are brought to the size of the image.

    Args:
        name: A name that timm knows, of a model with `forward_intermediates`.
        num_outputs: Logits K of a pixel.
        arguments: Of `timm.create_model`, such as `in_chans`.

    Raises:
        ValueError: The model gives no features to decode.

    Attributes:
        encoder: The timm model without its head: weights of a classifier fit by name.
    """

    def __init__(self, name: str, num_outputs: int, **arguments: Any):
        super().__init__()
        encoder: Any = timm.create_model(name, **{**arguments, "num_classes": 0})
        features = getattr(encoder, "feature_info", None)
        if not features or not hasattr(encoder, "prune_intermediate_layers"):
            raise ValueError(f"{name} gives no features of several resolutions, which a decoder needs")
        last = {feature["reduction"]: number for number, feature in enumerate(features)}  # of each resolution
        self.levels = sorted(last.values())
        encoder.prune_intermediate_layers(self.levels, prune_norm=True, prune_head=True)
        self.encoder = encoder
        channels = [features[level]["num_chs"] for level in self.levels]
        self.num_features = channels[-1]
        blocks, width = [], channels[-1]
        for number, skip in enumerate([*channels[-2::-1], 0]):
            out = WIDTHS[min(number, len(WIDTHS) - 1)]
            blocks.append(_convolve_twice(width + skip, out))
            width = out
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Conv2d(width, num_outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `[B, K, H, W]` of images `[B, C, H, W]`."""
        encoder: Any = self.encoder
        *skips, x = encoder.forward_intermediates(
            images, indices=self.levels, norm=False, output_fmt="NCHW", intermediates_only=True
        )
        for number, block in enumerate(self.blocks, 1):
            if number <= len(skips):
                skip = skips[-number]
                x = torch.cat([F.interpolate(x, size=skip.shape[2:], mode="nearest"), skip], dim=1)
            else:
                size = [min(2 * side, whole) for side, whole in zip(x.shape[2:], images.shape[2:], strict=True)]
                x = F.interpolate(x, size=size, mode="nearest")
            x = block(x)
        logits = self.head(x)
        if logits.shape[2:] != images.shape[2:]:
            logits = F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)
        return logits


def trunk(model: nn.Module) -> nn.Module:
    """Return the timm model in a model: its encoder where it has a decoder, else itself."""
    return model.encoder if isinstance(model, UNet) else model


def _convolve_twice(in_chans: int, out_chans: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_chans, out_chans):
        layers += [nn.Conv2d(channels, out_chans, 3, padding=1, bias=False), nn.BatchNorm2d(out_chans), nn.ReLU()]
    return nn.Sequential(*layers)
