"""A table of targets: one CSV that names images, what is to be predicted of each, and what else is known."""

from pathlib import Path

import numpy as np
from PIL import Image

from ols.data.sources.files import ImageFiles, open_image, orientation, upright
from ols.data.sources.table_rows import TableRows


class Table(TableRows, ImageFiles):
    """Images and targets of a CSV; which of them are trained on, a split file says (`ols.data.splits`).

    Each row has an image, `filename`, relative to the folder of the CSV. Target columns hold, as `kind` says: names of
    classes (`class`, one column); 0, 1 or nothing for unknown (`multilabel`); numbers (`regression`, one column); none
    is needed for `mask`. All other columns are attributes, such as sex or view.

    Args:
        path: The CSV.
        kind: What the targets are: `class`, `multilabel`, `regression` or `mask`.
        targets: Target columns; of masks the names of the foreground classes, pixel values 1, 2, and so on, by default
            one foreground whose pixels are all that are not 0.
        patient: Column that says which images belong together; by default `patient`, where there is such a column.
        mask: Column with the file of each image's mask; by default `mask`.
        side: Columns with what a head takes beside the image: numbers, or of two words the first in their order is 0.
        in_chans: 1 reads grayscale, 3 reads RGB, whatever the file holds.

    Attributes:
        classes: Classes in the order of their names, numbers by size; or the target columns, or foregrounds, `[K]`.
        groups: Name of the CSV, `[K]`.
        targets: Class indices int64 `[N]`, labels float32 `[N, L]` with NaN for unknown, numbers float32 `[N]`; of
            masks 0, int64 `[N]`.
        attributes: Text of every other column, `[N]` each.
        side: float32 `[N, S]`; None without such columns.
        has_patients: Whether patients are known.

    Raises:
        FileNotFoundError: The CSV, an image or a mask is missing; the message has the line.
        ValueError: The CSV cannot be read strictly (see `read_csv`), lacks a column, names an image twice, a cell is no
            target of this kind, or a mask has another size than its image; the message has the line.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        kind: str = "class",
        targets: list[str] | None = None,
        patient: str | None = None,
        mask: str | None = None,
        side: list[str] | None = None,
        in_chans: int = 1,
    ):
        TableRows.__init__(self, path, kind=kind, targets=targets, patient=patient, mask=mask, side=side)
        ImageFiles.__init__(self, self.path.parent, self.names, self.targets, in_chans=in_chans)
        self._refuse_missing(self.names, "image")
        if kind == "mask":
            self._refuse_missing(self.masks, "mask")
            self._masks = np.array([name.encode() for name in self.masks])
            for index in range(len(self)):
                self._check_mask(index)

    def content(self) -> str:
        """Return a checksum of the sizes in bytes of images and masks, see `ImageFiles.content`."""
        masks = "" if self.kind != "mask" else f" and {self._content_of(lambda index: self._masks[index].decode())}"
        return super().content() + masks

    def has_foreground(self, index: int) -> bool:
        """Return whether the mask of an image is not empty."""
        return bool(np.asarray(self.mask(index)).any())

    def mask(self, index: int) -> Image.Image:
        """Return the classes of an image's pixels, of mode L and of its size.

        Raises:
            ValueError: The mask cannot be decoded, or is no image of bytes; the message has the line.
        """
        path = self.root / self._masks[index].decode()
        try:
            with open_image(path) as image:
                if image.mode not in ("L", "P", "1"):
                    raise ValueError(f"a mask has one channel of 8 bits, mode {image.mode!r} has not")
                mask = upright(image)
                return mask.convert("L") if mask.mode == "1" else Image.fromarray(np.asarray(mask))  # P: its indices
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # decoders of many formats, each with errors of its own
            raise ValueError(f"{self._where(index)}: cannot read {path}: {error}") from error

    def _refuse_missing(self, names: list[str], what: str) -> None:
        for index, name in enumerate(names):
            if not (self.root / name).exists():
                raise FileNotFoundError(f"{self._where(index)}: no such {what}: {self.root / name}")

    def _check_mask(self, index: int) -> None:
        """Compare the size of a mask with that of its image: only headers are read."""
        sizes = []
        for name in (self.sample_id(index), self._masks[index].decode()):
            try:
                with open_image(self.root / name) as image:
                    sizes.append(image.size[:: -1 if orientation(image) > 4 else 1])
            except (OSError, ValueError) as error:
                raise ValueError(f"{self._where(index)}: cannot read {self.root / name}: {error}") from error
        if sizes[0] != sizes[1]:
            wanted, found = (f"{width} x {height}" for width, height in sizes)
            raise ValueError(f"{self._where(index)}: the mask is {found} pixels, its image {wanted}")
