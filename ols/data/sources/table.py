"""A table of targets: one CSV that names images, what is to be predicted of each, and what else is known."""

from pathlib import Path

import numpy as np
from PIL import Image

from ols.data.sources.csv_rows import CsvRow, image_name, read_csv
from ols.data.sources.files import ImageFiles, open_image, orientation, upright

FILENAME, PATIENT, MASK = "filename", "patient", "mask"  # columns
KINDS = ("class", "multilabel", "regression", "mask")
LABEL_CELLS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "": np.nan}  # an empty one is unknown


class Table(ImageFiles):
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
        self.path, self.kind = Path(path), kind
        self._check_columns(targets)
        mask = mask or MASK
        columns = list(targets or []) if kind != "mask" else [mask]
        needed = [FILENAME, *columns, *([patient] if patient else []), *(side or [])]
        rows = list(read_csv(self.path, needed))
        if not rows:
            raise ValueError(f"{self.path} has a header but no rows")
        self._lines = np.array([row.line for row in rows])
        names = [image_name(self.path, row.line, row.cells[FILENAME]) for row in rows]
        self._check_names(names)
        patient = patient or PATIENT
        self.has_patients = patient in rows[0].cells
        self.attributes = {
            name: np.array([row.cells[name] for row in rows])
            for name in rows[0].cells
            if name not in {FILENAME, mask, *columns}  # a side column stays an attribute
        }
        if self.has_patients:
            self._patients = self.attributes[patient]
            self._refuse(self._patients == "", f"{patient} is empty: every image needs a patient, or none does")
        self.side = np.stack([self._read_side(name) for name in side], axis=1) if side else None
        values, self.classes = self._read_targets(rows, columns, targets)
        self.groups = [self.path.stem] * len(self.classes)
        super().__init__(self.path.parent, names, values, in_chans=in_chans)
        self._refuse_missing(names, "image")
        if kind == "mask":
            masks = [image_name(self.path, row.line, row.cells[mask]) for row in rows]
            self._refuse(np.array([not name for name in masks]), f"{mask} is empty: an empty mask is an image of zeros")
            self._refuse_missing(masks, "mask")
            self._masks = np.array([name.encode() for name in masks])
            for index in range(len(self)):
                self._check_mask(index)

    def content(self) -> str:
        """Return a checksum of the sizes in bytes of images and masks, see `ImageFiles.content`."""
        masks = "" if self.kind != "mask" else f" and {self._content_of(lambda index: self._masks[index].decode())}"
        return super().content() + masks

    def sample_group(self, index: int) -> str:
        """Return the patient of a sample; where none is known, the sample itself."""
        return str(self._patients[index]) if self.has_patients else self.sample_id(index)

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

    def _check_columns(self, targets: list[str] | None) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        count = len(targets or [])
        if len(set(targets or [])) < count:
            raise ValueError(f"targets names a column twice: {', '.join(targets or [])}")
        if (self.kind in ("class", "regression") and count != 1) or (self.kind == "multilabel" and not count):
            wanted = "one or more columns" if self.kind == "multilabel" else "one column"
            raise ValueError(f"{self.path}: say by targets which {wanted} to predict, got {targets or 'none'}")

    def _check_names(self, names: list[str]) -> None:
        first: dict[str, int] = {}
        for index, name in enumerate(names):
            if not name:
                raise ValueError(f"{self._where(index)}: {FILENAME} is empty")
            if first.setdefault(name, index) != index:
                raise ValueError(f"{self._where(index)}: {name} stands in line {self._lines[first[name]]}, too")

    def _read_targets(
        self, rows: list[CsvRow], columns: list[str], names: list[str] | None
    ) -> tuple[np.ndarray, list[str]]:
        """Return targets and classes."""
        if self.kind == "mask":
            return np.zeros(len(rows), np.int64), list(names or ["foreground"])
        if self.kind == "class":
            cells = np.array([row.cells[columns[0]] for row in rows])
            self._refuse(cells == "", f"{columns[0]} is empty: leave out images whose class is unknown")
            classes = sorted(set(cells.tolist()), key=_by_number)
            class_of = {name: index for index, name in enumerate(classes)}
            return np.array([class_of[cell] for cell in cells.tolist()], np.int64), classes
        parsed = np.empty((len(rows), len(columns)), np.float32)
        for index, row in enumerate(rows):
            for position, column in enumerate(columns):
                try:
                    parsed[index, position] = self._parse(row.cells[column])
                except ValueError as error:
                    raise ValueError(f"{self._where(index)}: {column} {row.cells[column]!r} {error}") from None
        return (parsed if self.kind == "multilabel" else parsed[:, 0]), columns

    def _parse(self, cell: str) -> float:
        if self.kind == "multilabel":
            if cell not in LABEL_CELLS:
                raise ValueError("is no label: 0, 1, or nothing for unknown")
            return LABEL_CELLS[cell]
        return self._parse_number(cell)

    @staticmethod
    def _parse_number(cell: str) -> float:
        try:
            number = float(cell)
        except ValueError:
            number = np.nan
        if not np.isfinite(number):
            raise ValueError("is no number")
        return number

    def _read_side(self, column: str) -> np.ndarray:
        cells = self.attributes[column]
        self._refuse(cells == "", f"{column} is empty: the head needs it of every image")
        words = np.unique(cells)
        if len(words) == 2:
            return (cells == words[1]).astype(np.float32)
        for index, cell in enumerate(cells.tolist()):
            try:
                self._parse_number(cell)
            except ValueError as error:
                raise ValueError(
                    f"{self._where(index)}: {column} {cell!r} {error}, and there are not two words"
                ) from None
        return cells.astype(np.float32)

    def _refuse_missing(self, names: list[str], what: str) -> None:
        for index, name in enumerate(names):
            if not (self.root / name).exists():
                raise FileNotFoundError(f"{self._where(index)}: no such {what}: {self.root / name}")

    def _refuse(self, faulty: np.ndarray, message: str) -> None:
        if faulty.any():
            raise ValueError(f"{self._where(int(faulty.argmax()))}: {message}")

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

    def _where(self, index: int) -> str:
        return f"{self.path}, line {self._lines[index]}"


def _by_number(name: str) -> tuple[bool, float, str]:
    """Sort numbers by size, before names in their order."""
    is_number = name.lstrip("-").isdecimal()
    return not is_number, float(name) if is_number else 0.0, name
