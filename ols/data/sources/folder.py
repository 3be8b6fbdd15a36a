"""A tree of class folders, as torchvision reads it."""

from pathlib import Path

import numpy as np

from ols.data.sources.files import ImageFiles
from ols.data.sources.protocol import Split


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
        class_of = {name: index for index, name in enumerate(self.classes)}
        targets = np.array([class_of[label] for label in labels], np.int64)
        super().__init__(root, filenames, targets, in_chans=in_chans)


def list_images(root: Path, split: Split) -> tuple[list[str], list[str]]:
    """Return the images of a split, relative to the root, and the class folder of each, `[N]` both; sorted.

    Names that begin with a dot are hidden: what systems and editors leave, such as macOS's `._image.png`.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset  # takes a second

    folder = root / split
    classes = _subfolders(folder)
    class_of = {name: index for index, name in enumerate(classes)}
    found = make_dataset(str(folder), class_of, IMG_EXTENSIONS, allow_empty=True) if class_of else []
    images = [pair for pair in found if not any(part[0] == "." for part in Path(pair[0]).relative_to(folder).parts)]
    return [Path(path).relative_to(root).as_posix() for path, _ in images], [classes[target] for _, target in images]


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
