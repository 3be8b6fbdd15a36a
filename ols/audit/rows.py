"""The rows of the split CSVs as they stand, with what a data set would refuse."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ols.data.sources.protocol import SPLITS
from ols.data.sources.radimagenet import find_splits, iterate_csv


@dataclass(frozen=True)
class Rows:
    """Every usable row of the three CSVs.

    Args:
        root: Folder that file names are relative to.
        folder: Folder of the CSVs.
        filenames: Distinct file names, `[F]`.
        labels: Distinct labels, sorted, `[K]`.
        split: Index into `SPLITS` of each row, int64 `[R]`.
        file: Index into `filenames` of each row, int64 `[R]`.
        label: Index into `labels` of each row, int64 `[R]`.
        line: Line of each row in its CSV, int64 `[R]`.
        unusable: What cannot be read as a row or a CSV: CSV, line and reason.
    """

    root: Path
    folder: Path
    filenames: list[str]
    labels: list[str]
    split: np.ndarray
    file: np.ndarray
    label: np.ndarray
    line: np.ndarray
    unusable: list[tuple[str, int, str]]

    def __len__(self) -> int:
        return len(self.file)


def read_rows(root: str | Path, splits: str | Path | None = None) -> Rows:
    """Read the CSVs of a data set in RadImageNet's form.

    Args:
        root: Folder that contains `radiology_ai`.
        splits: Folder with the CSVs, where it is not one of the usual places.

    Raises:
        FileNotFoundError: There is no such tree, or no training CSV.
        ValueError: CSVs lie in several of the usual places, or none has a usable row.
    """
    folder = find_splits(Path(root), None if splits is None else Path(splits))
    files: dict[str, int] = {}
    labels: dict[str, int] = {}
    rows: list[tuple[int, int, int, int]] = []
    unusable: list[tuple[str, int, str]] = []
    for index, split in enumerate(SPLITS):
        path = folder / f"RadiologyAI_{split}.csv"
        before = len(rows)
        try:
            for filename, label, line in iterate_csv(path):
                if filename and label:
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
    split, file, label, line = np.array(rows, np.int64).T
    names = sorted(labels)
    position = {name: index for index, name in enumerate(names)}
    sorted_index = np.array([position[name] for name in labels], np.int64)
    return Rows(Path(root), folder, list(files), names, split, file, sorted_index[label], line, unusable)
