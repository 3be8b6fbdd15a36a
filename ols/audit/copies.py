"""Near-copies among the images of a table, whatever split they will be in."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ols.audit import near
from ols.audit.scan import read_comparable, scan_files

COMPARED_AT_ONCE = 256  # pairs


def near_copies(
    root: Path, filenames: Sequence[str], *, log: Path, workers: int | None = None
) -> list[tuple[int, int, float]]:
    """Find images that are copies of each other but for noise, brightness or a small shift, see `ols.audit.near`.

    Args:
        root: Folder that file names are relative to.
        filenames: Distinct file names, `[N]`.
        log: File for the results of each image; a second call does not open unchanged files again.
        workers: Processes; by default one for each core, fewer for a small set.

    Returns:
        Positions of two images, the smaller first, and their correlation.
    """
    names = list(filenames)
    files, _, _ = scan_files(root, names, log, workers=workers)
    plain = np.flatnonzero((files["fault"] == "") & (files["low"] < files["high"]))
    pairs = [np.empty((0, 2), np.int64)]
    for i, j in near.hash_pairs(files["phash"][plain], np.arange(len(plain))):
        i, j = i[i < j], j[i < j]  # each pair comes twice
        kept = near.alike(files["thumbnail"][plain], i, j)
        pairs.append(plain[np.stack([i[kept], j[kept]], 1)])
    first, second = np.concatenate(pairs).T
    correlation = confirm(root, names, first, second, workers=workers)
    sure = correlation >= near.CORRELATION
    return sorted(zip(first[sure].tolist(), second[sure].tolist(), correlation[sure].tolist(), strict=True))


def confirm(
    root: Path, filenames: Sequence[str], first: np.ndarray, second: np.ndarray, *, workers: int | None = None
) -> np.ndarray:
    """Return the correlation of pairs of images, `[P]`, given by their positions among the names, int64 `[P]` each."""
    if not len(first):
        return np.empty(0)
    wanted, position = np.unique(np.concatenate([first, second]), return_inverse=True)
    images = read_comparable(root, [filenames[index] for index in wanted], workers=workers)
    a, b = position.reshape(2, -1)
    chunks = [slice(start, start + COMPARED_AT_ONCE) for start in range(0, len(a), COMPARED_AT_ONCE)]
    return np.concatenate([near.best_correlation(images[a[chunk]], images[b[chunk]]) for chunk in chunks])


def joined_groups(groups: Sequence[str], copies: Sequence[tuple[int, int, float]]) -> list[str]:
    """Return the group of each image where near-copies count as images of one patient, and their patients as one.

    Args:
        groups: Patient of each image, `[N]`.
        copies: What `near_copies` returned.
    """
    names, member = np.unique(np.array(groups), return_inverse=True)
    edges = np.array([(member[first], member[second]) for first, second, _ in copies], np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(len(names), len(names)))
    _, component = connected_components(graph, directed=False)
    first_of: dict[int, str] = {}
    for name, number in zip(names.tolist(), component.tolist(), strict=True):
        first_of.setdefault(number, name)
    return [first_of[component[index]] for index in member.tolist()]
