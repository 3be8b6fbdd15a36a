"""MedMNIST files: a whole data set in one `.npz`."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from PIL import Image

from ols.data.sources.protocol import Split


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
        if self._images.dtype != np.uint8 or 0 in shape or len(shape) not in (3, 4) or shape[3:] not in ((), (3,)):
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

    def sample_group(self, index: int) -> str:
        """Return the name of a sample: nothing is known of its patient."""
        return self.sample_id(index)

    def content(self) -> str:
        """Return the shape of the array, and a checksum of every pixel."""
        pixels = hashlib.blake2b(np.ascontiguousarray(self._images).data, digest_size=8).hexdigest()
        return f"an array {list(self._images.shape)} of pixels {pixels}"

    def read(self, index: int) -> Image.Image:
        """Return an image of mode `L` (`in_chans=1`) or `RGB` (`in_chans=3`)."""
        return Image.fromarray(self._images[index]).convert(self._mode)

    def _labels(self, split: str) -> np.ndarray:
        labels = self._array(f"{split}_labels")
        if labels.ndim == 2 and labels.shape[1] > 1:
            raise ValueError(f"{self.path} is multi-label: {split}_labels has {labels.shape[1]} columns instead of one")
        if not np.issubdtype(labels.dtype, np.integer) or not labels.size or labels.ndim not in (1, 2):
            raise ValueError(
                f"{self.path}: {split}_labels must be integers [N] or [N, 1], one at least, "
                f"got {labels.dtype} {labels.shape}"
            )
        return labels.reshape(-1)

    def _array(self, name: str) -> np.ndarray:
        try:
            with open(self.path, "rb") as file, NpzFile(file) as arrays:
                if name in arrays:
                    return arrays[name]
        except Exception as error:  # of the archive, its compression, or NumPy, each with errors of its own
            raise ValueError(f"cannot read {self.path}: {error}") from error
        raise ValueError(f"{self.path} has no array {name}")
