"""Packing a table of targets: its images, its masks as they are named, and the CSV itself."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ols.data.options import Aspect
from ols.data.packing import UNFINISHED, write_pack
from ols.data.sources.csv_rows import read_csv
from ols.data.sources.pack import MANIFEST, MASKS, PLAN, TABLE, WHOLE
from ols.data.sources.table import Table
from ols.data.sources.table_rows import FILENAME, MASK
from ols.files import write_file


class MaskImages:
    """The masks of a table as images; the target of each is whether it has any foreground."""

    def __init__(self, table: Table):
        self.table = table
        self.classes, self.groups = ["empty", "foreground"], ["mask", "mask"]
        self.targets = np.array([table.has_foreground(index) for index in range(len(table))], np.int64)

    def __len__(self) -> int:
        return len(self.table)

    def read(self, index: int) -> Image.Image:
        """Return a mask."""
        return self.table.mask(index)

    def sample_id(self, index: int) -> str:
        """Return the name of the image that a mask is of."""
        return self.table.sample_id(index)

    def sample_group(self, index: int) -> str:
        """Return the patient of a mask."""
        return self.table.sample_group(index)

    def content(self) -> str:
        """Return what is known of the table."""
        return self.table.content()


def write_table_pack(
    path: str | Path,
    output: str | Path,
    *,
    mask: str | None = None,
    in_chans: int = 1,
    size: int = 256,
    aspect: Aspect = "shorter",
    shard_images: int = 4096,
    workers: int = 1,
) -> dict[str, Any]:
    """Write a pack of a table of targets, which is then opened with the columns that the CSV would be opened with.

    Masks are packed where every image has one. See `ols.data.packing.write_pack` for what a second call does.

    Args:
        path: The CSV.
        output: Folder of the pack.
        mask: Column with the file of each image's mask; by default `mask`, where there is such a column.
        in_chans: 1 for grayscale, 3 for RGB.
        size: What images are resized to, in pixels.
        aspect: Which side that is: see `ols.data.transforms.fit`.
        shard_images: Images of a shard.
        workers: Processes that read and write.

    Returns:
        The manifest.

    Raises:
        FileNotFoundError: An image or a mask is missing; the message has the line.
        ValueError: The CSV is refused, an image cannot be read, or `output` holds something else.
    """
    path, output = Path(path), Path(output)
    column = _mask_column(path, mask)
    table = Table(path, kind="mask" if column else "none", mask=column, in_chans=in_chans)
    found = set(output.iterdir()) if output.exists() else set()
    known = {output / MASKS, output / TABLE, *output.glob(UNFINISHED)}
    if not found <= known and not any((output / name).exists() for name in (MANIFEST, PLAN)):
        raise ValueError(f"{output} is not empty, and holds no pack: choose another folder")
    arguments: dict[str, Any] = {"size": size, "aspect": aspect, "shard_images": shard_images, "workers": workers}
    if column:
        write_pack({WHOLE: MaskImages(table)}, output / MASKS, resampling="nearest", **arguments)
    text = path.read_bytes()
    said = {"name": path.stem, "crc32": f"{zlib.crc32(text):08x}", "mask": column}
    if not (output / TABLE).exists():
        write_file(output / TABLE, text)
    return write_pack({WHOLE: table}, output, table=said, **arguments)


def _mask_column(path: Path, mask: str | None) -> str | None:
    """Return the column that names a mask for every image; None where there is none."""
    rows = list(read_csv(path, [FILENAME, *([mask] if mask else [])]))
    column = mask or MASK
    return column if rows and all(row.cells.get(column) for row in rows) else None
