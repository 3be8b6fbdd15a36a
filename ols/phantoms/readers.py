"""Readers who disagree: which label an image is given, drawn from a known confusion matrix of its drawn class."""

import csv
import functools
import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ols.keyed import keyed_uniform
from ols.phantoms.classes import PHANTOM_CLASSES, SPLITS, PhantomConfig, draw_classes
from ols.phantoms.rendering import average_phantoms

FORMAT = 1
FILE = "reader_confusion.npz"
LEAST_CONFUSED, MOST_CONFUSED = 0.15, 0.30  # share of a class's images that is read as another, at full disagreement
OVERCALL_COST = 0.5  # seeing more than there is, over missing as much of what is there
TOLERANCE = 3  # pixels of 32 by which two lesions may lie apart and still look alike
STREAM = int.from_bytes(b"reader")  # keeps these draws apart from those of training


@functools.cache
def _full_disagreement() -> NDArray[np.float64]:
    """Confusion of readers at `reader_noise` 1, over all classes: `[165, 165]`."""
    images = average_phantoms(image_size=32)  # [165, 32, 32]
    anatomy = np.array([c.anatomy for c in PHANTOM_CLASSES])
    normal = np.array([c.lesion == "none" for c in PHANTOM_CLASSES])
    blur = np.exp(-0.5 * ((np.arange(32)[:, None] - np.arange(32)) / TOLERANCE) ** 2)
    weights = np.zeros((len(PHANTOM_CLASSES),) * 2)
    for prefix in np.unique(anatomy):
        members = np.flatnonzero(anatomy == prefix)
        lesions = images[members] - images[members[normal[members]]]  # the change against the normal of the anatomy
        lesions = (blur @ lesions @ blur).reshape(len(members), -1)
        distance = np.linalg.norm(lesions[:, None] - lesions, axis=-1)
        prominence = np.linalg.norm(lesions, axis=-1)
        cost = distance + OVERCALL_COST * np.maximum(prominence - prominence[:, None], 0)
        np.fill_diagonal(cost, np.inf)
        weights[np.ix_(members, members)] = np.exp(-cost / np.median(cost.min(axis=1)))
    total = weights.sum(axis=1)
    rank = np.argsort(np.argsort(total)) / (len(total) - 1)
    mass = LEAST_CONFUSED + (MOST_CONFUSED - LEAST_CONFUSED) * rank
    return weights * (mass / total)[:, None] + np.diag(1 - mass)


def reader_confusion(reader_noise: float, classes: ArrayLike | None = None) -> NDArray[np.float64]:
    """Probability that an image of one class is read as another.

    Args:
        reader_noise: Share of full disagreement, in [0, 1].
        classes: Positions in `PHANTOM_CLASSES` of the classes that exist, `[K]`; all 165 by default. What would have
            been read as an absent class goes to the others of the anatomy, in proportion.

    Returns:
        Row = class drawn, column = class read, rows sum to 1, zero across anatomies, `[K, K]`.

    Raises:
        ValueError: If `reader_noise` lies outside its interval.
    """
    if not 0 <= reader_noise <= 1:
        raise ValueError(f"reader_noise must lie in [0, 1], got {reader_noise}")
    classes = np.arange(len(PHANTOM_CLASSES)) if classes is None else np.asarray(classes)
    confusion = _full_disagreement()[np.ix_(classes, classes)]
    mass = 1 - confusion.diagonal()
    np.fill_diagonal(confusion, 0)
    total = confusion.sum(axis=1)
    confusion *= (reader_noise * mass / np.where(total > 0, total, 1))[:, None]  # a class alone in its anatomy is safe
    np.fill_diagonal(confusion, 1 - confusion.sum(axis=1))
    return confusion


def read_labels(latent: ArrayLike, indices: ArrayLike, confusion: NDArray[np.float64], *, seed: int) -> NDArray:
    """Draw the label that each image is given: a pure function of (seed, index, latent class).

    The draw of an image is the same number at every `reader_noise`, and right below the diagonal: more noise changes
    the labels of more images, and no label back.

    Args:
        latent: Class drawn, as a row of `confusion`, `[N]`.
        indices: Numbers of the images within the set, `[N]`.
        confusion: Distributions in rows, `[K, K]`.
        seed: Seed of the set.

    Returns:
        Class read, as a column of `confusion`, int64 `[N]`.
    """
    read = np.array(latent, dtype=np.int64)
    numbers = keyed_uniform(STREAM, seed, indices)
    for k in np.unique(read):
        possible = np.flatnonzero(confusion[k])
        possible = np.concatenate([[k], possible[possible != k]])
        at = np.flatnonzero(np.asarray(latent) == k)
        ends = np.cumsum(confusion[k, possible])[:-1]
        read[at] = possible[np.searchsorted(ends, numbers[at], side="right")]
    return read


def draw_readings(config: PhantomConfig) -> dict[str, NDArray[np.int64]]:
    """Read class of every image: its label, in the order of `draw_classes`.

    Where no training image is read as one of the classes drawn (in sets of a few hundred images), the first training
    image of that class is read right, so that training knows every label; validation and test are drawn all the same.

    Args:
        config: The set.

    Returns:
        For each split the positions in `PHANTOM_CLASSES`, `[num_train]`, `[num_val]`, `[num_test]`.
    """
    readings = draw_classes(config)
    if config.reader_noise == 0:
        return readings
    classes, first = np.unique(readings["train"], return_index=True)
    confusion = reader_confusion(config.reader_noise, classes)
    start = 0
    for split, latent in readings.items():
        indices = np.arange(start, start + len(latent))
        read = read_labels(np.searchsorted(classes, latent), indices, confusion, seed=config.seed)
        readings[split] = classes[read]
        start += len(latent)
    while len(lost := np.flatnonzero(~np.isin(classes, readings["train"]))):  # setting one right may lose another
        readings["train"][first[lost]] = classes[lost]
    return readings


def save_reader_confusion(root: Path, config: PhantomConfig) -> None:
    """Write the confusion of a set's readers, over the classes of its training split, beside its CSVs."""
    classes = np.unique(draw_classes(config)["train"])
    labels = [PHANTOM_CLASSES[k].label for k in classes]
    confusion = reader_confusion(config.reader_noise, classes)
    np.savez(root / FILE, format=FORMAT, classes=labels, confusion=confusion)


def load_reader_confusion(root: str | os.PathLike[str]) -> tuple[list[str], NDArray[np.float64]]:
    """Read the confusion of a set's readers: P(label | image) is its row of the image's latent class.

    Args:
        root: Folder that `write_phantoms` wrote with a `reader_noise` above 0.

    Returns:
        Label of each class `[K]`, in the order of class indices; and the matrix Q `[K, K]`, row = class drawn, column =
        class read, rows sum to 1.

    Raises:
        FileNotFoundError: The set has no such file; its readers agree, or it is no set of phantoms.
        ValueError: The file is of another format.
    """
    path = Path(root) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; write the phantoms with reader_noise above 0")
    with np.load(path) as file:
        if file["format"] != FORMAT:
            raise ValueError(f"{path} has format {file['format']}, expected {FORMAT}")
        return file["classes"].tolist(), file["confusion"]


def load_latent_classes(root: str | os.PathLike[str], split: str) -> NDArray[np.int64]:
    """Read which class was drawn in each image of a split.

    Args:
        root: Folder that `write_phantoms` wrote with a `reader_noise` above 0.
        split: `train`, `val` or `test`.

    Returns:
        Rows of `load_reader_confusion`'s matrix, in the order of the split's CSV, `[N]`.

    Raises:
        FileNotFoundError: As `load_reader_confusion`.
        ValueError: No such split.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    rows = {label: row for row, label in enumerate(load_reader_confusion(root)[0])}
    with open(Path(root) / f"RadiologyAI_{split}.csv", newline="", encoding="utf-8") as file:
        return np.array([rows[row["latent"]] for row in csv.DictReader(file)], np.int64)


def known_posterior(config: PhantomConfig, split: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the true P(label | image) of a set, from its description alone.

    Args:
        config: The set.
        split: `train`, `val` or `test`.

    Returns:
        The confusion Q `[K, K]` over the classes of the training split, row = class drawn, and the row of each image
        of the split `[N]`: the posterior of image n is `Q[rows[n]]`.
    """
    drawn = draw_classes(config)
    classes = np.unique(drawn["train"])
    return reader_confusion(config.reader_noise, classes), np.searchsorted(classes, drawn[split])
