"""How well a score separates positives from negatives: the area under the ROC curve, with an interval."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

from ols.metrics.arguments import real_number
from ols.metrics.resampling import PairedDifference

Z = 1.959963984540054  # the normal distribution's 97.5 % quantile


class Auc(NamedTuple):
    """An area under the ROC curve and its 95 % interval; NaN where undefined."""

    value: float
    low: float
    high: float


def auc(score: ArrayLike, positive: ArrayLike) -> Auc:
    """Return the AUC: the probability that a positive is scored above a negative, ties counting half.

    The value is that of scikit-learn's `roc_auc_score`. The interval is value +- 1.96 standard errors of DeLong, DeLong
    and Clarke-Pearson (1988), cut off at 0 and 1, computed from midranks as Sun and Xu (2014, equations 4 to 7) do in
    N log N steps. It is of samples that are independent: several images of one patient make it too narrow. It has no
    width where the classes are separated without an error, which says nothing of its certainty.

    Args:
        score: Higher for what is taken for positive `[N]`; may be infinite.
        positive: Which samples are positive `[N]`.

    Returns:
        All NaN without a positive or without a negative, see `undefined_because`; the interval NaN with only one of
        either, of which no variance can be estimated.

    Raises:
        ValueError: Shapes differ, or a score is NaN.
    """
    score, positive = _checked(score, positive)
    positives, negatives = score[positive], score[~positive]
    m, n = len(positives), len(negatives)
    if not (m and n):
        return Auc(math.nan, math.nan, math.nan)
    above, below = _placements(positives, negatives)
    value = float(above.mean())
    if m == 1 or n == 1:
        return Auc(value, math.nan, math.nan)
    half = Z * math.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n)
    return Auc(value, max(value - half, 0.0), min(value + half, 1.0))


def macro_auc(scores: ArrayLike, targets: ArrayLike) -> float:
    """Return the mean AUC of each class against the rest, over the classes that occur.

    As scikit-learn's `roc_auc_score` with `multi_class="ovr"`, which refuses targets that lack a class. A row with a
    score that is no number is as wrong as can be: of its class below, and of the others above, all others.

    Args:
        scores: Probabilities or their logarithms, of each class `[N, K]`.
        targets: Class indices `[N]`.

    Returns:
        NaN where no class has both a positive and a negative.
    """
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets)
    unusable = np.isnan(scores).any(axis=1)
    areas = []
    for k in range(scores.shape[1]):
        positive = targets == k
        score = np.where(unusable, np.where(positive, -np.inf, np.inf), scores[:, k])
        areas.append(auc(score, positive).value)
    known = [area for area in areas if not math.isnan(area)]
    return math.fsum(known) / len(known) if known else math.nan


def auc_difference(first: ArrayLike, second: ArrayLike, positive: ArrayLike) -> PairedDifference:
    """Compare the AUCs of two scores of the same samples (DeLong, DeLong and Clarke-Pearson 1988, equation 2).

    For independent samples; where a patient has several, draw patients anew instead (`auc_of_counts`).

    Args:
        first: A score of each sample `[N]`.
        second: Another `[N]`, in the same order.
        positive: Which samples are positive `[N]`.

    Returns:
        First less second, its 95 % interval, and the two-sided p; all NaN with fewer than two of either class.

    Raises:
        ValueError: Shapes differ, or a score is NaN.
    """
    (first, positive), (second, _) = _checked(first, positive), _checked(second, positive)
    if min(positive.sum(), (~positive).sum()) < 2:
        return PairedDifference(math.nan, math.nan, math.nan, math.nan)
    above_1, below_1 = _placements(first[positive], first[~positive])
    above_2, below_2 = _placements(second[positive], second[~positive])
    difference = float((above_1 - above_2).mean())
    variance = (above_1 - above_2).var(ddof=1) / len(above_1) + (below_1 - below_2).var(ddof=1) / len(below_1)
    half = Z * math.sqrt(variance)
    p_value = 1.0 if difference == 0 else 0.0 if variance == 0 else 2 * norm.sf(abs(difference) / math.sqrt(variance))
    return PairedDifference(difference, difference - half, difference + half, float(p_value))


def auc_of_counts(score: ArrayLike, positive: ArrayLike, counts: ArrayLike) -> NDArray:
    """Return the AUC of samples that count several times or not at all, for `resample`.

    Args:
        score: Higher for what is taken for positive `[N]`.
        positive: Which samples are positive `[N]`.
        counts: How often each sample counts `[R, N]`.

    Returns:
        float64 `[R]`; NaN where no positive or no negative counts.

    Raises:
        ValueError: Shapes differ, or a score is NaN.
    """
    score, positive = _checked(score, positive)
    counts = np.asarray(counts, np.float64)
    order = np.argsort(score, kind="stable")
    ascending = score[order]
    starts = np.flatnonzero(np.append(True, ascending[1:] != ascending[:-1]))  # of samples with the same score
    hits = np.add.reduceat(np.where(positive, counts, 0)[:, order], starts, axis=1)
    alarms = np.add.reduceat(np.where(positive, 0, counts)[:, order], starts, axis=1)
    below = alarms.cumsum(axis=1) - alarms / 2
    with np.errstate(invalid="ignore"):
        return (hits * below).sum(axis=1) / (hits.sum(axis=1) * alarms.sum(axis=1))


def _placements(positives: NDArray, negatives: NDArray) -> tuple[NDArray, NDArray]:
    """Return the share of negatives below each positive, and of positives above each negative; ties count half."""
    m, n = len(positives), len(negatives)
    together = rankdata(np.concatenate([positives, negatives]))
    return (together[:m] - rankdata(positives)) / n, 1 - (together[m:] - rankdata(negatives)) / m


def undefined_because(positive: ArrayLike) -> str | None:
    """Return why there is no AUC of these samples, such as "there is no positive"; None where there is one."""
    positive = np.asarray(positive, dtype=bool)
    if not len(positive):
        return "there is no sample"
    if not positive.any():
        return "there is no positive"
    return "there is no negative" if positive.all() else None


def average_precision(score: ArrayLike, positive: ArrayLike) -> float:
    """Return the mean precision over the positives, each at the threshold of its score; NaN without a positive.

    As scikit-learn's `average_precision_score`: no interpolation. A score that says nothing gives the prevalence.

    Args:
        score: Higher for what is taken for positive `[N]`; may be infinite.
        positive: Which samples are positive `[N]`.

    Raises:
        ValueError: Shapes differ, or a score is NaN.
    """
    score, positive = _checked(score, positive)
    if not positive.any():
        return math.nan
    hits, alarms = _at_thresholds(score, positive)
    return float(np.sum(np.diff(hits, prepend=0) * hits / (hits + alarms)) / hits[-1])


def sensitivity_at_specificity(score: ArrayLike, positive: ArrayLike, specificity: float) -> float:
    """Return the highest sensitivity that a threshold reaches at this specificity or more; NaN without either class.

    Args:
        score: Higher for what is taken for positive `[N]`; may be infinite.
        positive: Which samples are positive `[N]`.
        specificity: In [0, 1].

    Raises:
        ValueError: Shapes differ, a score is NaN, or the specificity does not lie in [0, 1].
    """
    specificity = real_number("specificity", specificity)
    if not 0 <= specificity <= 1:
        raise ValueError(f"specificity must lie in [0, 1], got {specificity}")
    score, positive = _checked(score, positive)
    if undefined_because(positive):
        return math.nan
    hits, alarms = _at_thresholds(score, positive)
    # By counts: 1 - alarms / negatives is not exactly 0.9 for 1 of 10
    allowed = alarms <= (1 - specificity) * alarms[-1] * (1 + 1e-12)
    return float(hits[allowed].max(initial=0) / hits[-1])


def roc_points(score: ArrayLike, positive: ArrayLike) -> NDArray:
    """Return the ROC curve from (0, 0) to (1, 1), false and true positive rate, float64 `[P, 2]`; empty if undefined.

    Args:
        score: Higher for what is taken for positive `[N]`; may be infinite.
        positive: Which samples are positive `[N]`.

    Raises:
        ValueError: Shapes differ, or a score is NaN.
    """
    score, positive = _checked(score, positive)
    if undefined_because(positive):
        return np.empty((0, 2))
    hits, alarms = _at_thresholds(score, positive)
    points = np.stack([alarms / alarms[-1], hits / hits[-1]], axis=1)
    return np.concatenate([np.zeros((1, 2)), points])


def _checked(score: ArrayLike, positive: ArrayLike) -> tuple[NDArray, NDArray]:
    score, positive = np.asarray(score, dtype=np.float64), np.asarray(positive, dtype=bool)
    if score.ndim != 1 or score.shape != positive.shape:
        raise ValueError(f"expected score and positive [N], got {list(score.shape)} and {list(positive.shape)}")
    if missing := int(np.isnan(score).sum()):
        raise ValueError(f"{missing} scores are NaN")
    return score, positive


def _at_thresholds(score: NDArray, positive: NDArray) -> tuple[NDArray, NDArray]:
    """Return true and false positives at each distinct score as the threshold, from the highest, float64 `[P]`."""
    values, place = np.unique(-score, return_inverse=True)
    hits = np.bincount(place, positive, len(values)).cumsum()
    alarms = np.bincount(place, ~positive, len(values)).cumsum()
    return hits, alarms
