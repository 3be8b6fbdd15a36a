"""How far a difference is chance: bootstrap over images or patients, tests over folds and seeds, many comparisons."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ols.metrics.arguments import real_number, whole_number

Statistic = Callable[[NDArray], NDArray]
"""From how often each of N samples counts, float64 `[R, N]`, to results `[R, ...]`."""

EXACT_UP_TO = 12  # pairs: 4,096 sign patterns
CELLS = 2**22  # of a block of resamples: 32 MB


class PairedDifference(NamedTuple):
    """A difference of two statistics on the same samples.

    Args:
        difference: First less second.
        low: Lower end of its interval.
        high: Upper end.
        p_value: Two-sided, of no difference.
    """

    difference: float
    low: float
    high: float
    p_value: float

    @classmethod
    def of_draws(cls, estimate: float, drawn: NDArray) -> "PairedDifference":
        """Return a difference with the basic interval and the p of 0; a draw where it is undefined does not count.

        Args:
            estimate: The difference; where it is undefined, so is the rest.
            drawn: That of each resample `[R]`.
        """
        drawn = drawn[~np.isnan(drawn)]
        if not len(drawn) or math.isnan(estimate):
            return cls(float(estimate), math.nan, math.nan, math.nan)
        low, high = bootstrap_interval(estimate, drawn)
        return cls(float(estimate), float(low), float(high), float(bootstrap_p(estimate, drawn)))


def enough_resamples(comparisons: int) -> int:
    """Return how many resamples leave a p that can be below .05 when it is adjusted for so many comparisons.

    No `bootstrap_p` is below 2 / (R + 1), and `holm` multiplies the smallest by their number: 50 a comparison are
    enough; never less than 2,000, which intervals need.
    """
    return max(2000, 50 * comparisons)


def resample(
    statistic: Callable[[NDArray], ArrayLike],
    num_samples: int,
    *,
    resamples: int,
    seed: int,
    clusters: ArrayLike | None = None,
) -> NDArray:
    """Return a statistic of samples drawn anew with replacement (Efron 1979).

    Samples of one cluster, such as images of one patient, are drawn together: they say less than as many independent
    ones, and an interval that takes them for independent is too narrow (Davison and Hinkley 1997, section 3.8).

    Args:
        statistic: From how often each sample was drawn, float64 `[R, N]`, to results `[R, ...]`.
        num_samples: N, at least 1.
        resamples: Number of resamples, at least 1.
        seed: Of the draws.
        clusters: Name or number of the cluster of each sample `[N]`; by default each sample is one of its own.

    Returns:
        float64 `[resamples, ...]`.

    Raises:
        ValueError: There are no samples, or no resamples; or there is not one cluster a sample.
    """
    num_samples, seed = whole_number("num_samples", num_samples), whole_number("seed", seed)
    resamples = whole_number("resamples", resamples)
    if num_samples < 1 or resamples < 1:
        raise ValueError(f"expected samples and resamples, got {num_samples} and {resamples}")
    num_clusters, member_of = num_samples, None
    if clusters is not None:
        names = np.asarray(clusters)
        if names.shape != (num_samples,):
            raise ValueError(f"expected a cluster of each of {num_samples} samples, got {list(names.shape)}")
        distinct, member_of = np.unique(names, return_inverse=True)
        num_clusters = len(distinct)
    rng = np.random.default_rng(seed)
    block = max(1, CELLS // num_samples)
    results = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(num_clusters, size=(rows, num_clusters)) + num_clusters * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * num_clusters).reshape(rows, num_clusters)
        counts = counts if member_of is None else counts[:, member_of]
        results.append(np.asarray(statistic(counts.astype(np.float64)), np.float64))
    return np.concatenate(results)


def mean_of_counts(values: ArrayLike, sizes: ArrayLike | None = None) -> Callable[[NDArray], NDArray]:
    """Return the mean of values that count several times or not at all, for `resample`.

    Args:
        values: Of each sample `[N]`; NaN has no part in the mean, infinity makes it infinite where it counts.
        sizes: Of how many answers each value is the mean, such as pixels, so that each answer counts alike `[N]`; by
            default 1.

    Returns:
        A function from how often each sample counts `[R, N]` to the mean `[R]`, NaN where no value counts.
    """
    array = np.asarray(values, np.float64)
    defined = np.flatnonzero(~np.isnan(array))
    array = array[defined]
    weights = np.ones(len(defined)) if sizes is None else np.asarray(sizes, np.float64)[defined]
    infinite = np.isinf(array)
    sums = np.where(infinite, 0, array) * weights  # 0 times infinity is no number

    def mean(counts: NDArray) -> NDArray:
        chosen = counts[:, defined]
        with np.errstate(invalid="ignore"):
            found = chosen @ sums / (chosen @ weights)
        return np.where(chosen @ infinite > 0, np.inf, found) if infinite.any() else found

    return mean


def bootstrap_interval(estimate: ArrayLike, resampled: ArrayLike, *, level: float = 0.95) -> tuple[NDArray, NDArray]:
    """Return the basic bootstrap interval (Davison and Hinkley 1997, equation 5.6).

    `[2 estimate - q_high, 2 estimate - q_low]` of the resamples' quantiles. A statistic that chance inflates, as it
    does an ECE, is inflated twice in a resample; this interval takes the second inflation for the first, where the
    percentile interval lies too high by both.

    Args:
        estimate: Statistic of the samples `[...]`.
        resampled: What `resample` returns `[R, ...]`.
        level: Coverage, in (0, 1).

    Returns:
        Lower and upper end `[...]`.

    Raises:
        ValueError: `level` does not lie in (0, 1).
    """
    low, high = percentile_interval(resampled, level=level)
    return 2 * np.asarray(estimate) - high, 2 * np.asarray(estimate) - low


def percentile_interval(resampled: ArrayLike, *, level: float = 0.95) -> tuple[NDArray, NDArray]:
    """Return the percentile interval (Efron 1979): quantiles of the resamples.

    Unlike the basic interval it stays where the statistic can lie, such as an AUC in [0, 1].

    Args:
        resampled: What `resample` returns `[R, ...]`.
        level: Coverage, in (0, 1).

    Returns:
        Lower and upper end `[...]`.

    Raises:
        ValueError: `level` does not lie in (0, 1).
    """
    level = real_number("level", level)
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(resampled), [tail, 1 - tail], axis=0)
    return low, high


def bootstrap_p(difference: ArrayLike, resampled: ArrayLike) -> NDArray:
    """Return the two-sided p of no difference, the test that belongs to `bootstrap_interval`.

    A resample deviates from the difference as the difference from the truth: p is twice the smaller share of resamples
    that deviate, to either side, by the difference itself; never below 2 / (R + 1).

    Args:
        difference: Difference on the samples `[...]`.
        resampled: Difference on the resamples `[R, ...]`.
    """
    resampled = np.asarray(resampled)
    beyond = 2 * np.asarray(difference)
    smaller = np.minimum((resampled >= beyond).sum(axis=0), (resampled <= beyond).sum(axis=0))
    return np.minimum(2 * (smaller + 1) / (len(resampled) + 1), 1.0)


def paired_bootstrap(
    first: ArrayLike, second: ArrayLike, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> PairedDifference:
    """Compare the means of two values of the same samples: samples are drawn anew, and both values go with them.

    Args:
        first: A value of each sample `[N]`.
        second: Another `[N]`, in the same order.
        resamples: Number of resamples.
        level: Coverage of the interval.
        seed: Of the draws.

    Raises:
        ValueError: The values are not as many.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"expected two values [N] of the same samples, got {first.shape} and {second.shape}")
    differences = first - second
    resampled = resample(
        lambda counts: counts @ differences / len(differences), len(differences), resamples=resamples, seed=seed
    )
    estimate = differences.mean()
    low, high = bootstrap_interval(estimate, resampled, level=level)
    return PairedDifference(float(estimate), float(low), float(high), float(bootstrap_p(estimate, resampled)))


def sign_flip_test(differences: Sequence[float], *, draws: int = 100_000, seed: int = 0) -> float:
    """Return the two-sided p of differences whose signs would be chance if there were none (Fisher 1935).

    The share of sign patterns whose mean is at least as far from 0. All 2^n patterns up to 12 pairs; beyond, random
    ones, the observed counted among them.

    Args:
        differences: Of pairs `[n]`, such as two losses under the same seed.
        draws: Random patterns beyond 12 pairs.
        seed: Of the random patterns.

    Returns:
        p in [`sign_flip_floor(n)`, 1].

    Raises:
        ValueError: There is no pair, or a difference is not finite.
    """
    draws, seed = whole_number("draws", draws), whole_number("seed", seed)
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"expected finite differences [n] of at least one pair, got {differences}")
    exact = len(values) <= EXACT_UP_TO
    if exact:
        signs = np.array(list(product((1.0, -1.0), repeat=len(values))))
    else:
        signs = np.random.default_rng(seed).choice((1.0, -1.0), (draws, len(values)))
    # Sums of the same numbers in another order may round apart.
    as_far = np.abs(signs @ values) >= abs(values.sum()) - 1e-12 * np.abs(values).sum()
    return float(as_far.mean() if exact else (as_far.sum() + 1) / (draws + 1))


def sign_flip_floor(pairs: int) -> float:
    """Return the smallest p that so many pairs can give: 2 / 2^n."""
    return 2.0 / 2 ** whole_number("pairs", pairs)


def corrected_t_test(differences: Sequence[float], *, test_share: float) -> float:
    """Return the two-sided p of differences over folds or repeated splits (Nadeau and Bengio 2003, section 3.4).

    The training sets of two folds overlap, so their differences are not independent, and the usual t-test rejects too
    often. The variance of the mean is taken as (1 / n + test / train) times that of a difference.

    Args:
        differences: Of pairs `[n]`: folds times seeds.
        test_share: Part of all samples that one test fold holds, in (0, 1): 0.2 for five folds.

    Returns:
        p in [0, 1]; 1 where all differences are 0, and NaN for a single one, or where all are the same, as those of
        small test folds may be: how far others would lie apart is then not known.

    Raises:
        ValueError: A difference is not finite, or the share does not lie in (0, 1).
    """
    test_share = real_number("test_share", test_share)
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must lie in (0, 1), got {test_share}")
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"expected finite differences [n], got {differences}")
    n = len(values)
    if n < 2:
        return math.nan
    if not values.any():
        return 1.0
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        return math.nan
    variance = (1 / n + test_share / (1 - test_share)) * values.var(ddof=1)
    return float(2 * stats.t.sf(abs(values.mean()) / math.sqrt(variance), n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number (Holm 1979), in the order given; NaN stands for no test.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none is less than one before it, or above 1.
    """
    p = np.asarray(p_values, np.float64)
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return adjusted.tolist()
