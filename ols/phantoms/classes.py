"""The 165 classes, the configuration of a set, and how many images of which class it holds."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ols.phantoms.anatomy import ANATOMIES

SPLITS = ("train", "val", "test")


class PhantomClass(NamedTuple):
    """One of the 165 classes: what it is called, where it is stored, and what is painted."""

    label: str
    folder: str  # of its images, below radiology_ai
    modality: str
    anatomy: str  # the prefix of the label, unique over modalities
    site: str  # a shape of the anatomy; empty for normal
    lesion: str  # a key of LESIONS


def _list_classes() -> Iterator[PhantomClass]:
    for group in ANATOMIES:
        yield PhantomClass(f"{group.prefix}-normal", f"{group.folder}/normal", group.modality, group.prefix, "", "none")
        for site, entries in group.pathologies:
            for lesion, name in (entry.split("=") for entry in entries.split()):
                label, folder = f"{group.prefix}-{name}", f"{group.folder}/{name}"
                yield PhantomClass(label, folder, group.modality, group.prefix, site, lesion)


PHANTOM_CLASSES: tuple[PhantomClass, ...] = tuple(sorted(_list_classes()))  # by label: a position is the class index


@dataclass(frozen=True)
class PhantomConfig:
    """What a set of phantoms depends on, and nothing else.

    Args:
        num_train: Images in the training split, at least 1. A split of 165 images or more holds every class; a smaller
            one holds one image each of the commonest classes.
        num_val: Images in the validation split. Where training has fewer than 165 images, validation and test may not
            have more than training, so that no split names a class which training lacks.
        num_test: Images in the test split.
        image_size: Height and width in pixels, in [16, 1024].
        seed: Seed of everything random, in [0, 2**64).
        contrast: Brightness of a lesion against its site as a share of the display range, in (0, 1]. Less is harder.
        jitter: Spread of position, size, angle and brightness from one image to the next, in [0, 3]; 0 is one patient
            with different noise. More is harder.
        noise: Strength of noise and speckle, in [0, 3]; 1 is typical of the modality.
        imbalance: Size of the commonest class (a normal) over that of the rarest, in [1, 100000]; sizes fall
            geometrically.
        reader_noise: How much readers disagree, in [0, 1]: 0 labels every image by the class drawn, 1 reads 15 % of the
            least to 30 % of the most confusable class as others of the anatomy. The images do not depend on it.

    Raises:
        ValueError: If a field lies outside its interval; names the field.
    """

    num_train: int = 10_000
    num_val: int = 1_000
    num_test: int = 2_000
    image_size: int = 64
    seed: int = 0
    contrast: float = 0.45
    jitter: float = 1.0
    noise: float = 1.0
    imbalance: float = 10.0
    reader_noise: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("num_train", 1, 10**9),
            ("num_val", 1, 10**9),
            ("num_test", 1, 10**9),
            ("image_size", 16, 1024),
            ("seed", 0, 2**64 - 1),
            ("jitter", 0, 3),
            ("noise", 0, 3),
            ("imbalance", 1, 100_000),
            ("reader_noise", 0, 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie in [{low}, {high}], got {getattr(self, name)}")
        if not 0 < self.contrast <= 1:
            raise ValueError(f"contrast must lie in (0, 1], got {self.contrast}")
        for name in ("num_val", "num_test"):
            if self.num_train < min(len(PHANTOM_CLASSES), getattr(self, name)):
                raise ValueError(
                    f"{name} must not exceed num_train below {len(PHANTOM_CLASSES)} training images (it would name "
                    f"classes that training lacks), got {getattr(self, name)} and {self.num_train}"
                )


@functools.cache
def _frequency_rank() -> NDArray[np.int64]:  # [165], position in PHANTOM_CLASSES of the commonest class first
    """Normals first, then the pathologies of all anatomies in turn, so that each anatomy has common and rare ones."""
    depths = []
    for group in ANATOMIES:
        members = [c for c in _list_classes() if c.anatomy == group.prefix]
        depths += [(i / len(members) if i else -1, PHANTOM_CLASSES.index(c)) for i, c in enumerate(members)]
    return np.array([position for _, position in sorted(depths)])


def class_sizes(num_images: int, imbalance: float) -> NDArray[np.int64]:
    """Images per class of a long-tailed split.

    Sizes fall geometrically from the commonest class to the rarest, rounded by largest remainder. Every class keeps at
    least one image where there are 165; below that the commonest classes have one each.

    Args:
        num_images: Their sum.
        imbalance: Size of the commonest class over that of the rarest before rounding.

    Returns:
        Counts in the order of `PHANTOM_CLASSES`, `[165]`.
    """
    k = len(PHANTOM_CLASSES)
    if num_images < k:
        counts = (np.arange(k) < num_images).astype(np.int64)
    else:
        weights = imbalance ** -(np.arange(k) / (k - 1))
        excess = np.maximum(num_images * weights / weights.sum() - 1, 0) + 1e-9  # over one image each
        spare = (num_images - k) * excess / excess.sum()
        counts = 1 + np.floor(spare).astype(np.int64)
        counts[np.argsort(-(spare % 1), kind="stable")[: num_images - counts.sum()]] += 1
        counts = -np.sort(-counts)  # rounding may swap neighbours
    sizes = np.empty(k, dtype=np.int64)
    sizes[_frequency_rank()] = counts
    return sizes


def draw_classes(config: PhantomConfig) -> dict[str, NDArray[np.int64]]:
    """Latent class of every image: what is painted, in the order of the split's rows.

    Images are numbered through train, val and test in this order, and that number is the `index` of `render_phantoms`.

    Args:
        config: The set.

    Returns:
        For each split the positions in `PHANTOM_CLASSES`, `[num_train]`, `[num_val]`, `[num_test]`.
    """
    classes = {}
    for number, split in enumerate(SPLITS):
        sizes = class_sizes(getattr(config, f"num_{split}"), config.imbalance)
        rng = np.random.default_rng([config.seed, number])
        classes[split] = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return classes
