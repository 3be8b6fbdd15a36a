"""Small made-up downloads in the published forms."""

from pathlib import Path

import numpy as np
from PIL import Image

from ols.data.preparation.prepared import Prepared
from ols.data.sources.table import Table


def write_image(path: Path, value: int = 90, *, size: tuple[int, int] = (6, 4), mode: str = "L") -> None:
    """Write an image of one value, but for the pixel at the upper left: 0."""
    pixels = np.full(size[::-1], value, np.uint8)
    pixels[0, 0] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def write_lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def left_out(prepared: Prepared) -> dict[str, str]:
    """Return why each name was left out."""
    return dict(prepared.left_out)


def written_table(prepared: Prepared, kind: str, *targets: str) -> Table:
    """Write the table and open it as every run does."""
    prepared.write()
    return Table(prepared.folder / "targets.csv", kind=kind, targets=list(targets) or None)
