"""How far two models are right and wrong on the same images, beyond what their accuracies make likely."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ols.metrics.resampling import bootstrap_interval, resample


class Agreement(NamedTuple):
    """How far two models agree in being right.

    Args:
        observed: Share of images on which both are right or both are wrong.
        chance: The same of independent errors, from the accuracies a and b of both: a b + (1 - a)(1 - b).
        kappa: (observed - chance) / (1 - chance): 0 for independent errors, 1 for the same ones.
        low: Lower end of the 95 % interval of kappa.
        high: Upper end.
    """

    observed: float
    chance: float
    kappa: float
    low: float
    high: float


def agreement(
    first: ArrayLike, second: ArrayLike, *, patients: ArrayLike | None = None, resamples: int = 2000, seed: int = 0
) -> Agreement:
    """Compare which images two models are right on (Cohen 1960; the interval draws patients anew).

    Two good models agree on most images whatever they have learned: the chance level takes both accuracies, not one.

    Args:
        first: Whether a model is right on each image, bool `[N]`.
        second: Whether the other is `[N]`.
        patients: Patient of each image `[N]`; by default each image is one of its own.
        resamples: Number of resamples.
        seed: Of the draws.

    Returns:
        kappa and its interval are NaN where chance is 1: both are always right, or always wrong.

    Raises:
        ValueError: Shapes differ, or there is no image.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(f"expected two [N] of the same images, got {list(first.shape)} and {list(second.shape)}")

    def parts(counts: NDArray) -> tuple[NDArray, NDArray]:
        of = counts.sum(axis=-1)
        a, b, same = counts @ first / of, counts @ second / of, counts @ (first == second) / of
        return same, a * b + (1 - a) * (1 - b)

    def kappa(counts: NDArray) -> NDArray:
        observed, chance = parts(counts)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)

    observed, chance = parts(np.ones(len(first)))
    value = kappa(np.ones(len(first)))
    resampled = resample(kappa, len(first), resamples=resamples, seed=seed, clusters=patients)
    low, high = bootstrap_interval(value, resampled[np.isfinite(resampled)]) if np.isfinite(value) else (value, value)
    return Agreement(float(observed), float(chance), float(value), float(low), float(high))
