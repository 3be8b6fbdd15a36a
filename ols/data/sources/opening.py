"""Which form of a data set lies at a place, and its splits."""

from collections.abc import Mapping
from pathlib import Path

from ols.data.sources.folder import ImageFolder
from ols.data.sources.medmnist import MedMNIST
from ols.data.sources.pack import MANIFEST, PLAN, open_pack
from ols.data.sources.protocol import SPLITS, ImageSource, Split
from ols.data.sources.radimagenet import TREE, RadImageNet


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
    if root.is_file() and root.suffix == ".npz":
        return {split: MedMNIST(root, split, in_chans=in_chans) for split in SPLITS}, f"{root}, a MedMNIST file"
    if (root / MANIFEST).is_file():
        packs = open_pack(root)
        pack = packs["train"]
        if pack.in_chans != in_chans:
            raise ValueError(f"{root} is a pack of {pack.in_chans} channels; in_chans asks for {in_chans}")
        return packs, f"{root}, a pack of {pack.size} px ({pack.aspect})"
    if (root / PLAN).is_file():
        raise FileNotFoundError(f"{root} is an unfinished pack: pack again, and it continues")
    if (root / TREE).is_dir() or root.name == TREE:
        train = RadImageNet(root, "train", splits=splits, in_chans=in_chans)
        trees = dict.fromkeys(SPLITS, train)
        for split in SPLITS[1:]:
            trees[split] = RadImageNet(root, split, splits=splits, in_chans=in_chans, classes_of=train)
        return trees, f"{root}, a tree in RadImageNet's form"
    if (root / "train").is_dir():
        folders = {split: ImageFolder(root, split, in_chans=in_chans) for split in SPLITS}
        return folders, f"{root}, a tree of class folders"
    raise FileNotFoundError(
        f"{root} is no data set: neither a pack ({MANIFEST}), nor a folder with {TREE}, nor one with train, val and "
        "test, nor a .npz file"
    )
