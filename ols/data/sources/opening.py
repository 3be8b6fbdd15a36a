"""Which form of a data set lies at a place, and its splits."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ols.data.options import SourceOptions, SplitOptions
from ols.data.sources.folder import ImageFolder
from ols.data.sources.medmnist import MedMNIST
from ols.data.sources.pack import MANIFEST, PLAN, TABLE, open_pack
from ols.data.sources.packed_table import PackedTable
from ols.data.sources.protocol import SPLITS, ImageSource, Split
from ols.data.sources.radimagenet import TREE, RadImageNet
from ols.data.sources.table import Table
from ols.data.splits import load_folds

Form = Literal["npz", "pack", "radimagenet", "folders", "table"]
WHOLE = SplitOptions()
MOST_NAMES = 6  # of folders in a message


def find_form(root: str | Path) -> Form:
    """Return which form of a data set lies at a place, by a look at its folders; no image is opened.

    Raises:
        FileNotFoundError: It is none; the message says what is there instead, and what to do.
    """
    root = Path(root)
    if root.is_file() and root.suffix == ".npz":
        return "npz"
    if root.is_file() and root.suffix == ".csv":
        return "table"
    if (root / MANIFEST).is_file():
        return "table" if (root / TABLE).is_file() else "pack"
    if (root / PLAN).is_file():
        raise FileNotFoundError(f"{root} is an unfinished pack: pack again, and it continues")
    if (root / TREE).is_dir() or (root.name == TREE and root.is_dir()):
        return "radimagenet"
    if all((root / split).is_dir() for split in SPLITS):
        return "folders"
    raise FileNotFoundError(
        f"{root} is no data set: neither a pack ({MANIFEST}), nor a folder with {TREE}, nor one with train, val and "
        f"test, nor a .npz file, nor a .csv of targets; {_what_is_there(root)}"
    )


def _what_is_there(root: Path) -> str:
    if not root.exists():
        return "there is nothing of that name"
    if not root.is_dir():
        return "it is a file"
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        return "it has no folders"
    names = ", ".join(folders[:MOST_NAMES]) + (", ..." if len(folders) > MOST_NAMES else "")
    splits = {name: _split_of(name) for name in folders if _split_of(name)}
    if not splits:
        return f"it has the folders {names}: if these are classes, split each, by patient, into train, val and test"
    renamed = ", ".join(f"{name} to {split}" for name, split in splits.items() if name != split)
    missing = ", ".join(split for split in SPLITS if split not in splits.values())
    advice = [f"rename {renamed}"] * bool(renamed) + [f"split off {missing} by patient"] * bool(missing)
    return f"it has the folders {names}: {', and '.join(advice)}"


def _split_of(name: str) -> Split | None:
    """Return the split that the name of a folder means, such as train for Training."""
    name = name.lower()
    starts: dict[Split, str] = {"train": "train", "val": "val", "test": "test"}
    return next((split for split, start in starts.items() if name.startswith(start)), None)


@dataclass(frozen=True)
class DataSet:
    """A data set that is open.

    Args:
        sources: Each split; of a table of targets the whole table, three times.
        pools: Indices of the samples of each split in its source, int64.
        description: A sentence that says what was found.
    """

    sources: Mapping[Split, ImageSource]
    pools: Mapping[Split, np.ndarray]
    description: str


def open_data(
    options: SourceOptions, split: SplitOptions = WHOLE, *, kind: str = "class", in_chans: int = 1
) -> DataSet:
    """Open a data set, whichever form it has, and find which of its images train, validate and test.

    Args:
        options: Where it lies, and the columns of a table.
        split: Split file, fold and share, for a table.
        kind: What the targets of a table are, see `Table`; other forms have classes.
        in_chans: 1 for grayscale, 3 for RGB.

    Raises:
        FileNotFoundError: There is no such data set or split file, or something of it is missing.
        ValueError: Something of it is wrong, the split file is of other images, or it does not fit the form.
    """
    if find_form(options.root) != "table":
        if split != WHOLE:
            raise ValueError(f"split.* divides a table of targets; {options.root} has splits of its own")
        sources, description = open_sources(options.root, splits=options.splits, in_chans=in_chans)
        return DataSet(sources, {name: np.arange(len(source)) for name, source in sources.items()}, description)
    if split.file is None:
        raise ValueError(f"split.file is missing: make folds of {options.root} with recipes/split.py")
    if split.fold == "all":
        raise ValueError("split.fold all is a run for each fold: open one of them")
    table = open_table(options, kind=kind, in_chans=in_chans)
    folds = load_folds(Path(split.file)).aligned_with(table)
    pools = folds.pools(split.fold, share=split.share)
    share = "" if split.share == 1 else f", {split.share:.0%} of its training images"
    patients = "" if table.has_patients else "; patients are not known, and one may lie in several splits"
    description = f"{options.root}, a table; fold {split.fold} of {len(folds.folds)}{share}{patients}"
    return DataSet(dict.fromkeys(SPLITS, table), pools, description)


def open_table(options: SourceOptions, *, kind: str = "class", in_chans: int = 1) -> Table | PackedTable:
    """Open a table of targets, in files or packed; raises what `Table` or `PackedTable` does."""
    form = PackedTable if Path(options.root).is_dir() else Table
    return form(
        options.root,
        kind=kind,
        targets=options.targets,
        patient=options.patient,
        mask=options.mask,
        side=options.side,
        in_chans=in_chans,
    )


def open_sources(
    root: str | Path, *, splits: str | Path | None = None, in_chans: int = 1
) -> tuple[Mapping[Split, ImageSource], str]:
    """Open a data set, whichever form it has.

    Args:
        root: A pack, a `.npz` in MedMNIST's form, a folder that contains `radiology_ai`, or one that contains
            `train`, `val` and `test` with class folders.
        splits: Folder with the split CSVs of RadImageNet, where it is not one of the usual places.
        in_chans: 1 for grayscale, 3 for RGB.

    Returns:
        The splits, and a sentence that says what was found.

    Raises:
        FileNotFoundError: `root` is none of these, or something of it is missing.
        ValueError: Something of it is wrong, or a pack has another number of channels.
    """
    root = Path(root)
    if in_chans not in (1, 3):
        raise ValueError(f"in_chans must be 1 (grayscale) or 3 (RGB), got {in_chans}")
    form = find_form(root)
    if form == "table":
        raise ValueError(f"{root} is a table of targets: it has no splits of its own")
    if form == "npz":
        return {split: MedMNIST(root, split, in_chans=in_chans) for split in SPLITS}, f"{root}, a MedMNIST file"
    if form == "pack":
        packs = open_pack(root)
        pack = packs["train"]
        if pack.in_chans != in_chans:
            raise ValueError(f"{root} is a pack of {pack.in_chans} channels; in_chans asks for {in_chans}")
        return packs, f"{root}, a pack of {pack.size} px ({pack.aspect})"
    if form == "folders":
        folders = {split: ImageFolder(root, split, in_chans=in_chans) for split in SPLITS}
        return folders, f"{root}, a tree of class folders"
    train = RadImageNet(root, "train", splits=splits, in_chans=in_chans)
    trees = dict.fromkeys(SPLITS, train)
    for split in SPLITS[1:]:
        trees[split] = RadImageNet(root, split, splits=splits, in_chans=in_chans, classes_of=train)
    return trees, f"{root}, a tree in RadImageNet's form"
