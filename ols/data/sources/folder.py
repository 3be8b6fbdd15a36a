"""A tree of class folders, as torchvision reads it."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ols.data.sources.files import ImageFiles
from ols.data.sources.protocol import Split

# What torchvision takes, and DICOM; the last three Pillow reads, too.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".dcm", ".gif", ".jp2", ".avif")


class ImageFolder(ImageFiles):
    """One split of a tree `root/{train,val,test}/<class>/.../<image>`, as torchvision's `ImageFolder` reads each.

    Class index = position among the sorted class folders of the *training* split; all classes are of one group, which
    is named as `root`.

    Args:
        root: Folder that contains the splits.
        split: Which of them.
        in_chans: 1 reads grayscale, 3 reads RGB, whatever the file holds.

    Raises:
        FileNotFoundError: The split is missing or without images, or a class is without any in training.
        ValueError: It has a class that the training split lacks, or see `list_images`.
    """

    def __init__(self, root: str | Path, split: Split, *, in_chans: int = 1):
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
        filenames, labels = list_images(Path(root), split)
        if not filenames:
            raise FileNotFoundError(f"{folder} has no class folders with images")
        if split == "train" and (empty := sorted(set(self.classes) - set(labels))):
            raise FileNotFoundError(
                f"{folder / empty[0]} has no image (a name that ends in {', '.join(ENDINGS)}): a class needs some"
            )
        class_of = {name: index for index, name in enumerate(self.classes)}
        targets = np.array([class_of[label] for label in labels], np.int64)
        super().__init__(root, filenames, targets, in_chans=in_chans)


def list_images(root: Path, split: Split) -> tuple[list[str], list[str]]:
    """Return the images of a split, relative to the root, and the class folder of each, `[N]` both; sorted.

    Names that begin with a dot are hidden: what systems and editors leave, such as macOS's `._image.png`. Links to
    folders are followed.

    Raises:
        ValueError: A link leads to a folder that it lies in, so that every image would be there again and again.
    """
    names, labels = [], []
    for label in _subfolders(root / split):
        found = sorted(_walk(root / split / label, ()))  # by folder, then by name
        names += [(folder / name).relative_to(root).as_posix() for folder, name in found]
        labels += [label] * len(found)
    return names, labels


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, str]]:
    """Yield folder and name of each image in a folder and those below; `above` has the folders that it lies in."""
    above = (*above, folder.resolve())
    for entry in list(os.scandir(folder)):  # closed when a link is refused
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry.is_symlink() and Path(entry.path).resolve() in above:
                raise ValueError(f"{entry.path} is a link to a folder that it lies in: remove the link")
            yield from _walk(Path(entry.path), above)
        elif entry.name.lower().endswith(ENDINGS):
            yield folder, entry.name


def _subfolders(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    spaced = [name for name in names if name != name.strip()]
    if spaced:
        raise ValueError(f"{folder}: the name of the class folder {spaced[0]!r} begins or ends with a space: rename it")
    return names
