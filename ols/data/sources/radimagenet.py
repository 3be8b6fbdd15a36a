"""RadImageNet as it lies on disk: split CSVs and a tree of images, checked before the first image is read."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ols.data.sources.csv_rows import CsvRow, image_name, read_csv
from ols.data.sources.files import ImageFiles
from ols.data.sources.protocol import Split

TREE = "radiology_ai"


class RadImageNet(ImageFiles):
    """One split of RadImageNet, or of any data set in its form (Mei et al. 2022, https://www.radimagenet.com).

    `root` holds the tree `radiology_ai/<modality>/.../<class folder>/<image>`; modality names and depth are free.
    `RadiologyAI_{train,val,test}.csv` have the columns `filename` (relative to `root`) and `label`, and lie beside
    `radiology_ai`, inside it, or in a folder `RadImageNet_split` at either place. Class index = position among the
    sorted unique labels of the *training* split.

    Args:
        root: Folder that contains `radiology_ai`.
        split: Which of the three CSVs.
        splits: Folder with the CSVs, where they lie elsewhere.
        in_chans: 1 reads grayscale, 3 reads RGB, whatever the file holds.
        classes_of: The training split, where it is open already: its class table is taken, and its CSV not read again.

    Attributes:
        classes: Label of each class, `[K]`.
        groups: Modality and anatomy of each class, `[K]`: the folders above the class folder, such as `MR/knee`.
        targets: Class index of each sample, int64 `[N]`.

    Raises:
        FileNotFoundError: A CSV or an image is missing; the message names it, and the line that asked for it.
        ValueError: A CSV is empty, lacks a column or a value, cannot be read strictly (see `read_csv`), names a file
            outside `root`, or has a label that the training split lacks.
    """

    def __init__(
        self,
        root: str | Path,
        split: Split,
        *,
        splits: str | Path | None = None,
        in_chans: int = 1,
        classes_of: "RadImageNet | None" = None,
    ):
        self.split = split
        folder = find_splits(Path(root), None if splits is None else Path(splits))
        self._csv = folder / f"RadiologyAI_{split}.csv"
        filenames, labels, self._lines = _read_csv(self._csv)
        if classes_of is not None:
            self.classes, self.groups = classes_of.classes, classes_of.groups
        elif split == "train":
            self.classes, self.groups = class_table(filenames, labels)
        else:
            self.classes, self.groups = class_table(*_read_csv(folder / "RadiologyAI_train.csv")[:2])
        class_of = {label: index for index, label in enumerate(self.classes)}
        for label, line in zip(labels, self._lines, strict=True):
            if label not in class_of:
                raise ValueError(f"{self._csv}, line {line}: label {label!r} does not occur in the training split")
        targets = np.array([class_of[label] for label in labels], np.int64)
        super().__init__(root, filenames, targets, in_chans=in_chans)
        self._check_files(filenames)

    def _where(self, index: int) -> str:
        return f"{self._csv}, line {self._lines[index]}"

    def _check_files(self, filenames: list[str]) -> None:
        """Name the first missing image now, not after hours: one listing a folder, not one call a file."""
        listings: dict[str, set[str]] = {}
        for index, filename in enumerate(filenames):
            folder, name = os.path.split(filename)
            if folder not in listings:
                path = self.root / folder
                listings[folder] = set(os.listdir(path)) if path.is_dir() else set()
            if name not in listings[folder]:
                raise FileNotFoundError(f"{self._where(index)}: no such image: {self.root / filename}")


def find_splits(root: Path, splits: Path | None) -> Path:
    """Return the folder that holds the split CSVs.

    Args:
        root: Folder that contains `radiology_ai`.
        splits: That folder, where it is none of the usual places.

    Raises:
        FileNotFoundError: `root` does not contain `radiology_ai`, or there is no training CSV.
        ValueError: CSVs lie in several of the usual places.
    """
    if not (root / TREE).is_dir():
        hint = f"; did you mean {root.parent}?" if root.name == TREE and root.is_dir() else ""
        raise FileNotFoundError(f"{root} does not contain the folder {TREE}{hint}")
    if splits is not None:
        places = [splits]
    else:
        places = [root, root / TREE, root / "RadImageNet_split", root / TREE / "RadImageNet_split"]
    found = [place for place in places if (place / "RadiologyAI_train.csv").is_file()]
    if not found:
        raise FileNotFoundError(f"RadiologyAI_train.csv not found in {', '.join(map(str, places))}")
    if len(found) > 1:
        raise ValueError(f"RadiologyAI_train.csv lies in {' and '.join(map(str, found))}: say which by `splits`")
    return found[0]


def _read_csv(path: Path) -> tuple[list[str], list[str], list[int]]:
    """Return file names, labels and line numbers of a split."""
    filenames, labels, lines = [], [], []
    for line, cells, _ in iterate_csv(path):
        if not cells["filename"] or not cells["label"]:
            raise ValueError(f"{path}, line {line}: filename or label is empty")
        filenames.append(image_name(path, line, cells["filename"]))
        labels.append(cells["label"])
        lines.append(line)
    if not filenames:
        raise ValueError(f"{path} has a header but no rows")
    return filenames, labels, lines


def iterate_csv(path: Path) -> Iterator[CsvRow]:
    """Yield the rows of a split, whose name and label may be empty; raises what `read_csv` does."""
    return read_csv(path, ("filename", "label"))


def class_table(filenames: list[str], labels: list[str]) -> tuple[list[str], list[str]]:
    """Return classes and their groups; a class in several folders belongs to the group of most of its images."""
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for filename, label in zip(filenames, labels, strict=True):
        groups[label]["/".join(filename.split("/")[1:-2])] += 1
    classes = sorted(groups)
    return classes, [groups[label].most_common(1)[0][0] for label in classes]
