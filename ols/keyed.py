"""Randomness by key: what is drawn for (seed, epoch, index, stream) is a hash of that key, not the state of a stream.

So nothing that is drawn depends on the number of workers or processes, or on where a run was interrupted.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import ArrayLike

# One stream for each thing that is drawn, so that no two draws of a sample are correlated.
ORDER, CROP_Y, CROP_X, FLIP, CLASS_ORDER, BALANCED_ORDER, AUGMENT, MIX = range(8)


def keyed_bits(*key: ArrayLike) -> np.ndarray:
    """Hash integer keys to 64 uniform bits.

    Each part of the key is mixed in by one round of splitmix64 (Steele, Lea and Flood 2014).

    Args:
        key: Integers or integer arrays, broadcast against each other. Negative integers wrap modulo 2^64.

    Returns:
        uint64 array of the broadcast shape.
    """
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is the point
        for part in key:
            state = state ^ np.asarray(part).astype(np.uint64)
            state = state + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state)


def keyed_uniform(*key: ArrayLike) -> np.ndarray:
    """Hash integer keys to float64 numbers, uniform in [0, 1), of the keys' broadcast shape."""
    return (keyed_bits(*key) >> np.uint64(11)) * 2.0**-53


def keyed_order(seed: int, epoch: int, size: int, stream: int = ORDER) -> np.ndarray:
    """Return the order of `size` samples in an epoch: a random permutation, int64 `[size]`."""
    return np.argsort(keyed_bits(seed, epoch, np.arange(size), stream), kind="stable")


@contextmanager
def kept_generators() -> Iterator[None]:
    """Leave the global generators of Python and NumPy, from which timm draws, as they were found."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def seed_generators(bits: int) -> None:
    """Key what is drawn next from the global generators of Python and NumPy by 64 bits."""
    random.seed(bits)
    np.random.seed([bits >> 32, bits & 0xFFFFFFFF])
