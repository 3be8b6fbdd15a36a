"""The forms in which a data set may lie on disk, and which of them is there."""

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from ols.data.packing import PLAN
from ols.data.sources.pack import MANIFEST, open_pack
from ols.data.sources.protocol import ImageSource
from ols.data.sources.radimagenet import TREE, ImageFiles, RadImageNet, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")


class ImageFolder(ImageFiles):
    """One split of a tree `root/{train,val,test}/<class>/.../<image>`, as torchvision's `ImageFolder` reads each.

    Class index = position among the sorted class folders of the *training* split; all classes are of one group, which
    is named as `root`.

    Args:
        root: Folder that contains the splits.
        split: Which of them.
        in_chans: 1 reads grayscale, 3 reads RGB, whatever the file holds.

    Raises:
        FileNotFoundError: The split is missing or without images.
        ValueError: It has a class that the training split lacks.
    """

    def __init__(self, root: str | Path, split: Split, *, in_chans: int = 1):
        from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset  # takes a second

        for part in ("train", split):
            if not (Path(root) / part).is_dir():
                raise FileNotFoundError(
                    f"{Path(root) / part} is missing: a tree of class folders needs train, val and test, each with "
                    "folders of the same classes; split it first, by patient"
                )
        folder = Path(root) / split
        self.classes = _subfolders(Path(root) / "train")
        self.groups = [Path(root).absolute().name] * len(self.classes)
        for name in _subfolders(folder):
            if name not in self.classes:
                raise ValueError(f"{folder / name}: class {name!r} does not occur in the training split")
        class_of = {name: index for index, name in enumerate(self.classes)}
        images = make_dataset(str(folder), class_of, IMG_EXTENSIONS, allow_empty=True) if class_of else []
        if not images:
            raise FileNotFoundError(f"{folder} has no class folders with images")
        filenames = [Path(path).relative_to(root).as_posix() for path, _ in images]
        super().__init__(root, filenames, np.array([target for _, target in images], np.int64), in_chans=in_chans)


class MedMNIST:
    """One split of a MedMNIST file, or of any `.npz` in its form (Yang et al. 2023, https://medmnist.com).

    Arrays `{train,val,test}_images` uint8 `[N, H, W]` or `[N, H, W, 3]`, and `{train,val,test}_labels` integers
    `[N, 1]` or `[N]`. Classes are named by their numbers, and are those of the *training* split.

    Args:
        path: The file; it is read whole.
        split: Which split.
        in_chans: 1 reads grayscale, 3 reads RGB, whatever the file holds.

    Raises:
        ValueError: The file is damaged, lacks an array, is three-dimensional or multi-label, or a split has a class
            that training lacks.
    """

    def __init__(self, path: str | Path, split: Split, *, in_chans: int = 1):
        self.path, self.split = Path(path), split
        self._mode = "L" if in_chans == 1 else "RGB"
        labels = {part: self._labels(part) for part in ("train", split)}
        known = np.unique(labels["train"])
        if len(unknown := np.setdiff1d(labels[split], known)):
            raise ValueError(f"{path}: label {unknown[0]} of {split} does not occur in the training split")
        self.classes = [str(label) for label in known.tolist()]
        self.groups = [self.path.stem] * len(known)
        self.targets = np.searchsorted(known, labels[split]).astype(np.int64)
        self._images = self._array(f"{split}_images")
        shape = self._images.shape
        if self._images.dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
            raise ValueError(
                f"{path}: {split}_images must be uint8 [N, H, W] or [N, H, W, 3], got {self._images.dtype} {shape}"
            )
        if len(self._images) != len(self.targets):
            raise ValueError(f"{path}: {len(self._images)} images and {len(self.targets)} labels of {split}")

    def __len__(self) -> int:
        return len(self.targets)

    def sample_id(self, index: int) -> str:
        """Return the split and the number of a sample in it."""
        return f"{self.split}/{index}"

    def read(self, index: int) -> Image.Image:
        """Return an image of mode `L` (`in_chans=1`) or `RGB` (`in_chans=3`)."""
        return Image.fromarray(self._images[index]).convert(self._mode)

    def _labels(self, split: str) -> np.ndarray:
        labels = self._array(f"{split}_labels")
        if labels.ndim == 2 and labels.shape[1] > 1:
            raise ValueError(f"{self.path} is multi-label: {split}_labels has {labels.shape[1]} columns instead of one")
        if not np.issubdtype(labels.dtype, np.integer) or not len(labels):
            raise ValueError(f"{self.path}: {split}_labels must be integers, one at least, got {labels.dtype}")
        return labels.reshape(-1)

    def _array(self, name: str) -> np.ndarray:
        try:
            with open(self.path, "rb") as file, np.load(file) as arrays:
                if name in arrays:
                    return arrays[name]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"cannot read {self.path}: {error}") from error
        raise ValueError(f"{self.path} has no array {name}")


def open_sources(
    root: str | Path, *, splits: str | Path | None = None, in_chans: int = 1
) -> tuple[dict[Split, ImageSource], str]:
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
        raise FileNotFoundError(f"{root} is an unfinished pack: run recipes/pack.py again, and it continues")
    if (root / TREE).is_dir() or root.name == TREE:
        train = RadImageNet(root, "train", splits=splits, in_chans=in_chans)
        others = {
            split: RadImageNet(root, split, splits=splits, in_chans=in_chans, classes_of=train)
            for split in ("val", "test")
        }
        return {"train": train, **others}, f"{root}, a tree in RadImageNet's form"
    if (root / "train").is_dir():
        folders = {split: ImageFolder(root, split, in_chans=in_chans) for split in SPLITS}
        return folders, f"{root}, a tree of class folders"
    raise FileNotFoundError(
        f"{root} is no data set: neither a pack ({MANIFEST}), nor a folder with {TREE}, nor one with train, val and "
        "test, nor a .npz file"
    )


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
