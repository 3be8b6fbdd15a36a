"""What should have been looked at: masks or boxes of images, read from a CSV that names them."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from ols.data.sources.csv_rows import CsvRow, image_name, read_csv
from ols.data.sources.files import open_image, upright
from ols.data.sources.protocol import ImageSource, Split

CORNERS, SIZES = ("x0", "y0", "x1", "y1"), ("x", "y", "width", "height")
SLACK = 1.0  # pixels that a box may reach out of its image, by rounding


class Regions(Protocol):
    """Masks of some images."""

    def names(self) -> list[str]:
        """Return the file name of each image that has one, as a data set names it."""

    def where(self, name: str) -> str:
        """Return file and line where an image stands first."""

    def mask(self, name: str, size: tuple[int, int]) -> Image.Image:
        """Return the mask of an image, of mode L: 255 in the lesion and 0 beside it.

        Args:
            name: One of `names`.
            size: Width and height of the image.

        Raises:
            ValueError: It does not fit the image or cannot be read; the message has the line.
        """


class Box(NamedTuple):
    """A rectangle, in pixels of the image as it lies on the disk; (0, 0) is the corner at the upper left.

    Args:
        x0: Left edge.
        y0: Upper edge.
        x1: Right edge.
        y1: Lower edge.
        where: File and line that it stands in.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    where: str


class Boxes:
    """Boxes of a CSV; a mask is where the centre of a pixel lies in one of its image's boxes.

    Several rows of one image are several boxes; a row with four empty cells has none.

    Args:
        path: A CSV with `filename`, relative to the data set's folder, and `x0, y0, x1, y1` or `x, y, width, height`.
        findings: Take those alone whose column `finding` is one of these; by default all.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has other columns, a cell is no number or a box has no area; the message has the line. Or no box
            is of one of the findings.
    """

    def __init__(self, path: Path, *, findings: Collection[str] = ()):
        self.boxes: dict[str, list[Box]] = {}
        seen = set()
        for row in read_csv(path, ["filename", *(["finding"] if findings else [])]):
            seen.add(row.cells.get("finding", ""))
            if not findings or row.cells["finding"] in findings:
                name, box = image_name(path, row.line, row.cells["filename"]), _box(path, row)
                if box is not None:
                    self.boxes.setdefault(name, []).append(box)
        unknown = sorted(set(findings) - seen)
        if unknown:
            raise ValueError(f"{path} has no finding {unknown[0]!r}; it has {', '.join(sorted(seen)) or 'no boxes'}")
        if not self.boxes:
            raise ValueError(f"{path} has no boxes")

    def names(self) -> list[str]:
        """Return the file name of each image that has a box."""
        return list(self.boxes)

    def where(self, name: str) -> str:
        """Return file and line of the first box of an image."""
        return self.boxes[name][0].where

    def mask(self, name: str, size: tuple[int, int]) -> Image.Image:
        """Return the mask of an image, see `Regions`.

        Raises:
            ValueError: A box reaches more than a pixel out of the image.
        """
        width, height = size
        mask = np.zeros((height, width), np.uint8)
        for x0, y0, x1, y1, where in self.boxes[name]:
            if min(x0, y0) < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
                raise ValueError(
                    f"{where}: a box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}) reaches out of its image of "
                    f"{width} x {height} pixels: is it of another size?"
                )
            across, down = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
            mask[(x0 <= across) & (across < x1) & (y0 <= down) & (down < y1)] = 255
        return Image.fromarray(mask)


class MaskFiles:
    """Mask files that a CSV names, such as a table of targets with a column for them.

    Several rows of one image are several lesions; a row without a mask has none.

    Args:
        path: A CSV with `filename`, relative to the data set's folder, and a column of masks, relative to its own.
        column: Name of that column.

    Raises:
        FileNotFoundError: There is no such CSV, or a mask is missing; the message has the line.
        ValueError: The CSV has no such columns, or no row has a mask.
    """

    def __init__(self, path: Path, *, column: str = "mask"):
        self.files: dict[str, list[tuple[Path, str]]] = {}
        for row in read_csv(path, ["filename", column]):
            where = f"{path}, line {row.line}"
            if not row.cells[column]:
                continue
            file = path.parent / image_name(path, row.line, row.cells[column])
            if not file.exists():
                raise FileNotFoundError(f"{where}: no such mask: {file}")
            name = image_name(path, row.line, row.cells["filename"])
            self.files.setdefault(name, []).append((file, where))
        if not self.files:
            raise ValueError(f"{path} has no mask: its column {column} is empty")

    def names(self) -> list[str]:
        """Return the file name of each image that has a mask."""
        return list(self.files)

    def where(self, name: str) -> str:
        """Return file and line of the first mask of an image."""
        return self.files[name][0][1]

    def mask(self, name: str, size: tuple[int, int]) -> Image.Image:
        """Return the mask of an image, see `Regions`: all that is not 0 is lesion.

        Raises:
            ValueError: A file cannot be read, has several channels, or has another size than the image.
        """
        whole = np.zeros(size[::-1], np.uint8)
        for file, where in self.files[name]:
            try:
                with open_image(file) as image:
                    mask = upright(image)
                    mask.load()
            except (OSError, ValueError) as error:
                raise ValueError(f"{where}: cannot read {file}: {error}") from error
            if mask.mode not in ("L", "P", "1"):
                raise ValueError(f"{where}: a mask has one channel of 8 bits, mode {mask.mode!r} of {file} has not")
            if mask.size != size:
                found, wanted = (f"{width} x {height}" for width, height in (mask.size, size))
                raise ValueError(f"{where}: the mask is {found} pixels, its image {wanted}")
            whole[np.asarray(mask) > 0] = 255
        return Image.fromarray(whole)


def marked_images(
    regions: Regions, sources: Mapping[Split, ImageSource], pools: Mapping[Split, np.ndarray]
) -> dict[Split, np.ndarray]:
    """Return which images of each split are marked, indices int64 `[N]` in ascending order.

    Args:
        regions: Masks, by the names of their images.
        sources: Where the images of each split are.
        pools: Indices of those that are the split's, int64.

    Raises:
        ValueError: An image that is marked is in none of the sources; the message has its line.
    """
    marked, known = set(regions.names()), set[str]()
    found = {}
    for split, source in sources.items():
        names = [source.sample_id(index) for index in range(len(source))]
        known.update(names)
        found[split] = np.array([index for index in np.sort(pools[split]).tolist() if names[index] in marked], np.int64)
    lost = [name for name in regions.names() if name not in known]
    if lost:
        raise ValueError(f"{regions.where(lost[0])}: the data set has no image {lost[0]}")
    return found


def _box(path: Path, row: CsvRow) -> Box | None:
    where = f"{path}, line {row.line}"
    columns = next((names for names in (CORNERS, SIZES) if set(names) <= row.cells.keys()), None)
    if columns is None:
        raise ValueError(
            f"{path}, line 1: expected the columns {', '.join(CORNERS)} or {', '.join(SIZES)}; the header has "
            f"{', '.join(row.cells)}"
        )
    if not any(row.cells[column] for column in columns):
        return None
    left, top, right, bottom = (_number(row.cells[column], column, where) for column in columns)
    if columns == SIZES:
        right, bottom = left + right, top + bottom
    if not (left < right and top < bottom):
        raise ValueError(f"{where}: a box from ({left:g}, {top:g}) to ({right:g}, {bottom:g}) has no area")
    return Box(left, top, right, bottom, where)


def _number(cell: str, column: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {column} is {cell!r}, expected a number of pixels")
    return value
