"""Precision over recall, and the bands in which other samples' curves would lie."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ols.metrics.auc import undefined_because
from ols.metrics.resampling import percentile_interval, resample

GRID = np.linspace(0, 1, 101)  # places at which a band is computed


def precision_recall_points(score: ArrayLike, positive: ArrayLike) -> NDArray:
    """Return recall and precision at each distinct score as the threshold, from the highest, float64 `[P, 2]`.

    Those of scikit-learn's `precision_recall_curve`, without the point of precision 1 at recall 0 that it adds; empty
    without a positive.

    Args:
        score: Higher for what is taken for positive `[N]`; may be infinite.
        positive: Which samples are positive `[N]`.
    """
    positive = np.asarray(positive, dtype=bool)
    if not positive.any():
        return np.empty((0, 2))
    hits, alarms = (steps[0] for steps in _steps(score, positive, np.ones((1, len(positive)))))
    return np.stack([hits / hits[-1], hits / (hits + alarms)], axis=1)


def average_precision_of_counts(score: ArrayLike, positive: ArrayLike, counts: ArrayLike) -> NDArray:
    """Return the average precision of samples that count several times or not at all, for `resample`.

    Args:
        score: Higher for what is taken for positive `[N]`.
        positive: Which samples are positive `[N]`.
        counts: How often each sample counts `[R, N]`.

    Returns:
        float64 `[R]`; NaN where no positive counts.
    """
    hits, alarms = _steps(score, positive, counts)
    with np.errstate(invalid="ignore"):
        precision = np.nan_to_num(hits / (hits + alarms))
        return (np.diff(hits, axis=1, prepend=0) * precision).sum(axis=1) / hits[:, -1]


def roc_band(
    score: ArrayLike, positive: ArrayLike, *, resamples: int, seed: int = 0, clusters: ArrayLike | None = None
) -> NDArray:
    """Return where 95 % of the ROC curves of samples drawn anew lie, at each rate of false alarms by itself.

    Args:
        score: Higher for what is taken for positive `[N]`; may be infinite.
        positive: Which samples are positive `[N]`.
        resamples: Number of draws.
        seed: Of the draws.
        clusters: What each sample belongs to `[N]`, see `resample`.

    Returns:
        False positive rate, lower and upper true positive rate, float64 `[101, 3]`; empty where there is no curve.
    """
    if undefined_because(positive):
        return np.empty((0, 3))

    def curves(counts: NDArray) -> NDArray:
        hits, alarms = _steps(score, positive, counts)
        with np.errstate(invalid="ignore"):
            rates = np.stack([alarms / alarms[:, -1:], hits / hits[:, -1:]], axis=1)  # [R, 2, P]
        return np.stack([np.interp(GRID, [0, *false], [0, *true]) for false, true in rates])

    return _band(curves, len(np.asarray(positive)), resamples=resamples, seed=seed, clusters=clusters)


def precision_recall_band(
    score: ArrayLike, positive: ArrayLike, *, resamples: int, seed: int = 0, clusters: ArrayLike | None = None
) -> NDArray:
    """Return where 95 % of the precisions of samples drawn anew lie, at each recall by itself.

    The precision at a recall is that of the highest threshold that reaches it.

    Args:
        score: Higher for what is taken for positive `[N]`; may be infinite.
        positive: Which samples are positive `[N]`.
        resamples: Number of draws.
        seed: Of the draws.
        clusters: What each sample belongs to `[N]`, see `resample`.

    Returns:
        Recall, lower and upper precision, float64 `[101, 3]`; empty where there is no curve.
    """
    if undefined_because(positive):
        return np.empty((0, 3))

    def curves(counts: NDArray) -> NDArray:
        hits, alarms = _steps(score, positive, counts)
        with np.errstate(invalid="ignore"):
            recall, precision = hits / hits[:, -1:], hits / (hits + alarms)
        precision[hits[:, -1] == 0] = np.nan
        wanted = GRID.clip(min=1e-9) * (1 - 1e-12)  # above 0, where there is no precision; reached in spite of rounding
        places = [np.searchsorted(row, wanted).clip(max=len(row) - 1) for row in recall]
        return np.take_along_axis(precision, np.stack(places), axis=1)

    return _band(curves, len(np.asarray(positive)), resamples=resamples, seed=seed, clusters=clusters)


def _band(
    curves: Callable[[NDArray], NDArray], num_samples: int, *, resamples: int, seed: int, clusters: ArrayLike | None
) -> NDArray:
    """Return grid, lower and upper end of curves over it; a draw that lacks a class has none."""
    drawn = resample(curves, num_samples, resamples=resamples, seed=seed, clusters=clusters)
    defined = drawn[~np.isnan(drawn).any(axis=1)]
    if not len(defined):
        return np.empty((0, 3))
    return np.stack([GRID, *percentile_interval(defined)], axis=1)


def _steps(score: ArrayLike, positive: ArrayLike, counts: ArrayLike) -> tuple[NDArray, NDArray]:
    """Return true and false positives `[R, P]` at each distinct score as the threshold, from the highest."""
    score, positive = np.asarray(score, np.float64), np.asarray(positive, bool)
    counts = np.asarray(counts, np.float64)
    order = np.argsort(-score, kind="stable")
    descending = score[order]
    starts = np.flatnonzero(np.append(True, descending[1:] != descending[:-1]))
    hits, alarms = (
        np.add.reduceat(np.where(chosen, counts, 0)[:, order], starts, axis=1) for chosen in (positive, ~positive)
    )
    return hits.cumsum(axis=1), alarms.cumsum(axis=1)
