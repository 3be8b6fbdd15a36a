"""What a data set offers, whatever form it has on disk."""

from typing import Literal, Protocol, get_args

import numpy as np
from PIL import Image

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class ImageSource(Protocol):
    """One split of a data set.

    Attributes:
        classes: Label of each class, `[K]`; those of the training split, whichever split this is.
        groups: Modality and anatomy of each class, `[K]`.
        targets: Class index of each sample, int64 `[N]`.
    """

    classes: list[str]
    groups: list[str]
    targets: np.ndarray

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image.Image:
        """Return an 8-bit image, of mode L or RGB throughout the data set; ValueError names what cannot be read."""

    def sample_id(self, index: int) -> str:
        """Return a name that is unique, and the same on every machine."""

    def sample_group(self, index: int) -> str:
        """Return what a sample belongs to, such as its patient; where nothing is known, its own name."""

    def content(self) -> str:
        """Return what was looked at of the images and its checksum: on every machine the same for the same images.

        It costs seconds at most, so that forms that would have to be read whole look at less, and say at what.
        """


def target_kind(source: ImageSource) -> str:
    """Return what the targets of a source are: `class` where it does not say, else its `kind`, such as `mask`."""
    return getattr(source, "kind", "class")
