"""Masks in the form that a table of targets takes: 8 bits, 255 in the foreground, as large as their image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def merge_masks(paths: Sequence[Path], size: tuple[int, int], *, resize: bool = False) -> Image.Image:
    """Return where any of several masks is brighter than half of white.

    Args:
        paths: Files of the masks, of any mode.
        size: Width and height of the image.
        resize: Whether masks of another size are brought to that of the image, by the nearest pixel.

    Raises:
        ValueError: A mask has another size, or cannot be read.
    """
    merged = np.zeros(size[::-1], bool)
    for path in paths:
        with open_plain(path) as image:
            mask = image.convert("L")
        if mask.size != size:
            if not resize:
                raise ValueError(f"mask of {mask.width} x {mask.height} pixels, image of {size[0]} x {size[1]}")
            mask = mask.resize(size, Image.Resampling.NEAREST)
        merged |= np.asarray(mask) > 127
    return Image.fromarray(merged.astype(np.uint8) * 255)


def fill_outlines(outlines: Sequence[Sequence[tuple[float, float]]], size: tuple[int, int]) -> Image.Image:
    """Return what lies inside of closed outlines.

    Args:
        outlines: Points x, y in pixels of each.
        size: Width and height of the image.
    """
    mask = Image.new("L", size, 0)
    draw = ImageDraw.Draw(mask)
    for points in outlines:
        draw.polygon([(float(x), float(y)) for x, y in points], fill=255, outline=255)
    return mask


def open_plain(path: Path) -> Image.Image:
    """Open an image.

    Raises:
        ValueError: It cannot be decoded.
    """
    try:
        image = Image.open(path)
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError("cannot be read") from error
    return image
