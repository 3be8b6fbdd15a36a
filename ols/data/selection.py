"""Which samples of each split a run uses."""

from collections.abc import Mapping

import numpy as np

from ols.data.sources.protocol import Split
from ols.keyed import keyed_order

SUBSET = int.from_bytes(b"subset")  # keys the draw of a subset, apart from every seed


def select(
    pools: Mapping[Split, np.ndarray],
    *,
    train_images: int | None = None,
    limit: int | None = None,
    overfit: int | None = None,
    seed: int = 0,
) -> dict[Split, np.ndarray]:
    """Choose the samples of each split.

    Args:
        pools: Indices of each split's samples, int64.
        train_images: Train on so many, the same ones for every seed; the other splits stay whole.
        limit: Use at most so many of each split, drawn by the seed: a dry run.
        overfit: Use at most so many of training, drawn by the seed, for all splits: the indices are those of training.
        seed: Seed of the run.

    Returns:
        Indices of each split's samples, int64 `[N]`.

    Raises:
        ValueError: The training split has not so many images.
    """
    pools = dict(pools)
    if train_images is not None:
        pools["train"] = pools["train"][draw_subset(len(pools["train"]), train_images)]
    if limit is not None:
        pools = {split: draw_first(pool, limit, seed) for split, pool in pools.items()}
    if overfit is not None:
        pools = dict.fromkeys(pools, draw_first(pools["train"], overfit, seed))
    return pools


def draw_subset(available: int, train_images: int) -> np.ndarray:
    """Draw `train_images` of so many indices, the same ones for every seed, in ascending order; int64 `[N]`.

    Raises:
        ValueError: There are not so many.
    """
    if not 1 <= train_images <= available:
        raise ValueError(f"train_images must lie in [1, {available}], the images of the split, got {train_images}")
    return np.sort(keyed_order(SUBSET, 0, available)[:train_images])


def draw_first(pool: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return the first `size` of a pool in the order of the seed's first epoch, int64 `[N]`; all, if it has fewer."""
    return pool[keyed_order(seed, 0, len(pool))[:size]]
