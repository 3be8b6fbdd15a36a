"""Rows of a table of targets: what is to be predicted of each image, and what else is known of it."""

from pathlib import Path

import numpy as np

from ols.data.sources.csv_rows import CsvRow, image_name, read_csv

FILENAME, PATIENT, MASK = "filename", "patient", "mask"  # columns
KINDS = ("class", "multilabel", "regression", "mask", "none")
LABEL_CELLS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "": np.nan}  # an empty one is unknown


class TableRows:
    """What a CSV says of each image; no image is looked at.

    Args:
        path: The CSV.
        name: What the table is called; by default the name of the CSV.
        kind: What the targets are, see `Table`; `none` reads none.
        targets: Target columns.
        patient: Column that says which images belong together.
        mask: Column with the file of each image's mask.
        side: Columns with what a head takes beside the image.

    Attributes:
        names: File name of each image, `[N]`.
        masks: File name of each mask, `[N]`; empty where masks are not the targets.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        kind: str = "class",
        targets: list[str] | None = None,
        patient: str | None = None,
        mask: str | None = None,
        side: list[str] | None = None,
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
        self.names = [image_name(self.path, row.line, row.cells[FILENAME]) for row in rows]
        self._check_names(self.names)
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
        self.targets, self.classes = self._read_targets(rows, columns, targets)
        self.groups = [name or self.path.stem] * len(self.classes)
        self.masks: list[str] = []
        if kind == "mask":
            self.masks = [image_name(self.path, row.line, row.cells[mask]) for row in rows]
            without = np.array([not name for name in self.masks])
            self._refuse(without, f"{mask} is empty: an empty mask is an image of zeros")

    def sample_group(self, index: int) -> str:
        """Return the patient of a sample; where none is known, the sample itself."""
        return str(self._patients[index]) if self.has_patients else self.names[index]

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
        if self.kind in ("mask", "none"):
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

    def _refuse(self, faulty: np.ndarray, message: str) -> None:
        if faulty.any():
            raise ValueError(f"{self._where(int(faulty.argmax()))}: {message}")

    def _where(self, index: int) -> str:
        return f"{self.path}, line {self._lines[index]}"


def _by_number(name: str) -> tuple[bool, float, str]:
    """Sort numbers by size, before names in their order."""
    is_number = name.lstrip("-").isdecimal()
    return not is_number, float(name) if is_number else 0.0, name
