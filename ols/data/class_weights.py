"""Weights against class imbalance."""

from typing import Literal

import numpy as np

EFFECTIVE_BETA = 0.9999


def class_weights(counts: np.ndarray, kind: Literal["none", "inverse", "effective"]) -> np.ndarray | None:
    """Return the weight of each class in the loss.

    Args:
        counts: Training images of each class, int64 `[K]`, none of them 0.
        kind: `inverse` to the count, or to the `effective` number (1 - beta^n) / (1 - beta) of Cui et al. 2019
            with beta = 0.9999.

    Returns:
        float64 `[K]`, scaled so that the mean weight over training images is 1; None for `none`.

    Raises:
        ValueError: A class has no training image.
    """
    if kind == "none":
        return None
    if (counts == 0).any():
        raise ValueError(f"class_weights {kind!r}: class {int(np.argmin(counts))} has no training image")
    amount = counts if kind == "inverse" else (1 - EFFECTIVE_BETA**counts) / (1 - EFFECTIVE_BETA)
    return (counts.sum() / (counts / amount).sum()) / amount
