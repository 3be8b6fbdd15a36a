"""What a data set offers, whatever form it has on disk."""

from typing import Protocol

import numpy as np
from PIL import Image


class ImageSource(Protocol):
    """One split of a data set."""

    classes: list[str]
    groups: list[str]
    targets: np.ndarray

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image.Image:
        """Return an 8-bit image, of mode L or RGB throughout the data set; ValueError names what cannot be read."""

    def sample_id(self, index: int) -> str:
        """Return a name that is unique, and the same on every machine."""
