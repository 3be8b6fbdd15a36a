"""Boxes of findings, read from a CSV and drawn as masks of their images."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ols.data.sources.csv_rows import image_name, read_csv

CORNERS, SIZES = ("x0", "y0", "x1", "y1"), ("x", "y", "width", "height")
SLACK = 1.0  # pixels that a box may reach out of its image, by rounding


class Box(NamedTuple):
    """A rectangle, in pixels of the image as it lies on the disk; (0, 0) is the corner at the upper left.

    Args:
        x0: Left edge.
        y0: Upper edge.
        x1: Right edge.
        y1: Lower edge.
        where: File and line that it stands in, for messages.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    where: str


def read_boxes(path: Path, *, findings: Collection[str] = ()) -> dict[str, list[Box]]:
    """Read the boxes of each image.

    Args:
        path: A CSV with `filename`, relative to the data set's folder, and `x0, y0, x1, y1` or `x, y, width, height`.
        findings: Take those alone whose column `finding` is one of these; by default all.

    Returns:
        Boxes by file name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has other columns, a cell is no number or a box has no area; the message has the line. Or no box
            is of one of the findings.
    """
    boxes: dict[str, list[Box]] = {}
    seen = set()
    for row in read_csv(path, ["filename", *(["finding"] if findings else [])]):
        columns = next((names for names in (CORNERS, SIZES) if set(names) <= row.cells.keys()), None)
        if columns is None:
            raise ValueError(
                f"{path}, line 1: expected the columns {', '.join(CORNERS)} or {', '.join(SIZES)}; the header has "
                f"{', '.join(row.cells)}"
            )
        where = f"{path}, line {row.line}"
        if findings:
            seen.add(row.cells["finding"])
            if row.cells["finding"] not in findings:
                continue
        left, top, right, bottom = (_number(row.cells[column], column, where) for column in columns)
        if columns == SIZES:
            right, bottom = left + right, top + bottom
        if not (left < right and top < bottom):
            raise ValueError(f"{where}: a box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) has no area")
        name = image_name(path, row.line, row.cells["filename"])
        boxes.setdefault(name, []).append(Box(left, top, right, bottom, where))
    unknown = sorted(set(findings) - seen)
    if unknown:
        raise ValueError(f"{path} has no finding {unknown[0]!r}; it has {', '.join(sorted(seen)) or 'no boxes'}")
    if not boxes:
        raise ValueError(f"{path} has no boxes")
    return boxes


def check_names(boxes: Mapping[str, Sequence[Box]], names: Collection[str]) -> None:
    """Make sure that every box is of an image of the data set.

    Raises:
        ValueError: One is not; the message has its line.
    """
    known = set(names)
    for name, of_image in boxes.items():
        if name not in known:
            raise ValueError(f"{of_image[0].where}: the data set has no image {name}")


def box_mask(boxes: Sequence[Box], size: tuple[int, int]) -> Image.Image:
    """Return the mask of an image, of mode L: 255 where the centre of a pixel lies in one of its boxes.

    Args:
        boxes: Of the image.
        size: Its width and height.

    Raises:
        ValueError: A box reaches more than a pixel out of the image.
    """
    width, height = size
    mask = np.zeros((height, width), np.uint8)
    for box in boxes:
        if min(box.x0, box.y0) < -SLACK or box.x1 > width + SLACK or box.y1 > height + SLACK:
            raise ValueError(
                f"{box.where}: a box from ({box.x0:g}, {box.y0:g}) to ({box.x1:g}, {box.y1:g}) reaches out of its "
                f"image of {width} x {height} pixels: is it of another size?"
            )
        across = (np.arange(width) + 0.5 >= box.x0) & (np.arange(width) + 0.5 < box.x1)
        down = (np.arange(height) + 0.5 >= box.y0) & (np.arange(height) + 0.5 < box.y1)
        mask[down[:, None] & across] = 255
    return Image.fromarray(mask)


def _number(cell: str, column: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {column} is {cell!r}, expected a number of pixels")
    return value
