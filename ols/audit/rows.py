"""The rows of a data set as they stand, with what training would refuse: of split CSVs, or of class folders."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ols.data.sources.csv_rows import image_name
from ols.data.sources.folder import list_images
from ols.data.sources.opening import find_form
from ols.data.sources.protocol import SPLITS
from ols.data.sources.radimagenet import find_splits, iterate_csv


@dataclass(frozen=True)
class Rows:
    """Every usable row of the three splits.

    Args:
        root: Folder that file names are relative to.
        folder: Folder of the CSVs; None for class folders, which have none.
        filenames: Distinct file names, `[F]`.
        labels: Distinct labels, sorted, `[K]`.
        split: Index into `SPLITS` of each row, int64 `[R]`.
        file: Index into `filenames` of each row, int64 `[R]`.
        label: Index into `labels` of each row, int64 `[R]`.
        line: Line of each row in its CSV, int64 `[R]`; 0 where there is none.
        unusable: What cannot be read as a row or a CSV: CSV, line and reason.
        spaced: Cells with spaces around their text: CSV, line, and the cell in quotation marks.
    """

    root: Path
    folder: Path | None
    filenames: list[str]
    labels: list[str]
    split: np.ndarray
    file: np.ndarray
    label: np.ndarray
    line: np.ndarray
    unusable: list[tuple[str, int, str]]
    spaced: list[tuple[str, int, str]]

    def __len__(self) -> int:
        return len(self.file)


def read_rows(root: str | Path, splits: str | Path | None = None) -> Rows:
    """Read the rows of a data set.

    Args:
        root: Folder that contains `radiology_ai`, or `train`, `val` and `test` with class folders.
        splits: Folder with the CSVs of RadImageNet's form, where it is not one of the usual places.

    Raises:
        FileNotFoundError: There is no such tree, or no training CSV.
        ValueError: CSVs lie in several of the usual places, or there is no usable row.
    """
    if find_form(root) == "folders":
        return _rows_of_folders(Path(root))
    folder = find_splits(Path(root), None if splits is None else Path(splits))
    files: dict[str, int] = {}
    labels: dict[str, int] = {}
    rows: list[tuple[int, int, int, int]] = []
    unusable: list[tuple[str, int, str]] = []
    spaced: list[tuple[str, int, str]] = []
    for index, split in enumerate(SPLITS):
        path = folder / f"RadiologyAI_{split}.csv"
        before = len(rows)
        try:
            for line, cells, given in iterate_csv(path):
                label = cells["label"]
                try:
                    filename = image_name(path, line, cells["filename"])
                except ValueError as error:
                    unusable.append((path.name, line, str(error).partition(": ")[2]))
                    continue
                if filename and label:
                    spaced += [
                        (path.name, line, f"{name} {given[name]!r}") for name in cells if cells[name] != given[name]
                    ]
                    file = files.setdefault(filename, len(files))
                    rows.append((index, file, labels.setdefault(label, len(labels)), line))
                else:
                    unusable.append((path.name, line, "filename or label is empty"))
        except (FileNotFoundError, ValueError) as error:
            unusable.append((path.name, 1, str(error)))
        else:
            if len(rows) == before:
                unusable.append((path.name, 1, "no usable rows"))
    if not rows:
        raise ValueError(f"the CSVs in {folder} have no usable row: {unusable[0][2]}")
    return _build_rows(Path(root), folder, rows, list(files), list(labels), unusable, spaced)


def _rows_of_folders(root: Path) -> Rows:
    files: list[str] = []
    labels: dict[str, int] = {}
    rows = []
    for index, split in enumerate(SPLITS):
        for filename, label in zip(*list_images(root, split), strict=True):
            rows.append((index, len(files), labels.setdefault(label, len(labels)), 0))
            files.append(filename)
    if not rows:
        raise ValueError(f"no class folder of {root} has an image")
    return _build_rows(root, None, rows, files, list(labels), [], [])


def _build_rows(
    root: Path,
    folder: Path | None,
    rows: list[tuple[int, int, int, int]],
    files: list[str],
    labels: list[str],
    unusable: list[tuple[str, int, str]],
    spaced: list[tuple[str, int, str]],
) -> Rows:
    split, file, label, line = np.array(rows, np.int64).T
    names = sorted(labels)
    position = {name: index for index, name in enumerate(names)}
    sorted_index = np.array([position[name] for name in labels], np.int64)
    return Rows(root, folder, files, names, split, file, sorted_index[label], line, unusable, spaced)
