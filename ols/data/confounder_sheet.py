"""A contact sheet: what each confounder does to a few images at each strength."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from ols.data.confounding import CONFOUNDERS, pixel_key
from ols.data.options import CONFOUNDER_STRENGTHS
from ols.data.sources.protocol import ImageSource
from ols.data.transforms import Preprocessing, fit, to_array, to_image

LABEL_WIDTH, GAP = 110, 4  # pixels
PAPER, INK = "#ffffff", "#1c2430"


def contact_sheet(
    source: ImageSource,
    indices: Sequence[int],
    preprocessing: Preprocessing,
    strengths: Mapping[str, Sequence[float]] = CONFOUNDER_STRENGTHS,
) -> Image.Image:
    """Draw images as they are, and below once for each confounder and strength; a column is an image.

    Args:
        source: Data set.
        indices: Which images.
        preprocessing: Size and aspect to which they are brought first; its central square is shown.
        strengths: Strengths of each confounder, by its name.

    Returns:
        The sheet, RGB.

    Raises:
        ValueError: There is no image to draw, or one cannot be read.
    """
    if not indices:
        raise ValueError("a contact sheet needs an image")
    rows = [("as it is", "", 0.0)]
    rows += [(f"{name} {strength:g}", name, strength) for name, row in strengths.items() for strength in row]
    images = [to_array(fit(source.read(i), preprocessing.resize_size, preprocessing.aspect)) for i in indices]
    keys = [pixel_key(source.sample_id(i)) for i in indices]
    side = preprocessing.image_size
    sheet = Image.new("RGB", (LABEL_WIDTH + len(indices) * (side + GAP), len(rows) * (side + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (label, name, strength) in enumerate(rows):
        draw.text((6, row * (side + GAP) + side // 2 - 6), label, fill=INK)
        for column, (image, key) in enumerate(zip(images, keys, strict=True)):
            shown = CONFOUNDERS[name](image, key, strength) if name else image
            sheet.paste(_centre(shown, side), (LABEL_WIDTH + column * (side + GAP), row * (side + GAP)))
    return sheet


def _centre(image: np.ndarray, side: int) -> Image.Image:
    top, left = ((extent - side) // 2 for extent in image.shape[1:])
    return to_image(image[:, top : top + side, left : left + side]).convert("RGB")
