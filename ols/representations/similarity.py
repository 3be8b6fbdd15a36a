"""How alike two representations of the same samples are: canonical correlations and centred kernel alignment.

All in float64 on the CPU; rows are samples in the same order, columns are features. Neither of the families needs the
features to be in any order: all measures are unchanged by an orthogonal map and by scaling of either side, and mean
CCA by every invertible linear map.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ols.metrics.arguments import real_number, whole_number

ROWS_PER_FEATURE = 10  # fewer rows correlate by chance: 64 independent features show .27 in 640 rows, .07 in 10,000


class Similarity(NamedTuple):
    """A similarity beside what chance gives.

    Args:
        value: Of the two representations.
        null: Mean over permutations of the rows of one of them.
        null_high: 95 % quantile over permutations.
    """

    value: float
    null: float
    null_high: float


def canonical_correlations(x: ArrayLike, y: ArrayLike, *, rows_per_feature: float = ROWS_PER_FEATURE) -> NDArray:
    """Return the canonical correlations (Hotelling 1936), by SVD of orthonormal bases (Bjoerck and Golub 1973).

    Args:
        x: One representation `[n, d1]`.
        y: The other `[n, d2]`.
        rows_per_feature: Rows that are needed for each feature that is left; 0 needs no more rows than features.

    Returns:
        In descending order, each in [0, 1], float64 `[r]`: r is the smaller rank of the two.

    Raises:
        ValueError: Shapes differ, a value is not finite, a side does not vary, or there are too few rows.
    """
    first, second = _bases(*_centred(x, y), rows_per_feature)
    return np.linalg.svd(first.T @ second, compute_uv=False).clip(0, 1)


def mean_cca(x: ArrayLike, y: ArrayLike, *, rows_per_feature: float = ROWS_PER_FEATURE) -> float:
    """Return the mean canonical correlation, in [0, 1] (Raghu et al. 2019, Transfusion)."""
    return float(canonical_correlations(x, y, rows_per_feature=rows_per_feature).mean())


def svcca(x: ArrayLike, y: ArrayLike, *, variance: float = 0.99, rows_per_feature: float = ROWS_PER_FEATURE) -> float:
    """Return the mean canonical correlation of each side's leading principal components (Raghu et al. 2017).

    Args:
        x: One representation `[n, d1]`.
        y: The other `[n, d2]`.
        variance: Share of each side's variance that is kept, in (0, 1].
        rows_per_feature: Rows that are needed for each component that is left.

    Raises:
        ValueError: As for `canonical_correlations`, or the share does not lie in (0, 1].
    """
    variance = real_number("variance", variance)
    if not 0 < variance <= 1:
        raise ValueError(f"variance must lie in (0, 1], got {variance}")
    x, y = _centred(x, y)
    return mean_cca(_components(x, variance), _components(y, variance), rows_per_feature=rows_per_feature)


def pwcca(x: ArrayLike, y: ArrayLike, *, rows_per_feature: float = ROWS_PER_FEATURE) -> float:
    """Return the canonical correlations weighted by what each direction explains of x (Morcos et al. 2018, section 3).

    The weight of a direction h of x is the sum over the features z of x of |<h, z>|. Not symmetric.

    Args:
        x: The representation whose features give the weights `[n, d1]`.
        y: The other `[n, d2]`.
        rows_per_feature: As in `canonical_correlations`.

    Raises:
        ValueError: As for `canonical_correlations`.
    """
    x, y = _centred(x, y)
    first, second = _bases(x, y, rows_per_feature)
    left, correlations, _ = np.linalg.svd(first.T @ second, full_matrices=False)
    weights = np.abs((first @ left).T @ x).sum(axis=1)
    return float(weights @ correlations.clip(0, 1) / weights.sum())


def linear_cka(x: ArrayLike, y: ArrayLike) -> float:
    """Return the unbiased linear CKA (Kornblith et al. 2019, with the HSIC of Song et al. 2012, equation 5).

    The usual, biased one is far above 0 for independent data of few rows. This one is about 0 and may be negative.
    Memory is that of the features: no matrix of all pairs of rows is made.

    Args:
        x: One representation `[n, d1]`, at least 4 rows.
        y: The other `[n, d2]`.

    Returns:
        At most 1; 1 for the same representation.

    Raises:
        ValueError: Shapes differ, a value is not finite, a side does not vary, or there are fewer than 4 rows.
    """
    alignment = CkaSums()
    alignment.update(x, y)
    return alignment.compute()


class CkaSums:
    """Unbiased linear CKA over minibatches (Nguyen, Raghu and Kornblith 2021, equation 2), in constant memory.

    The three HSIC are averaged over batches, and their ratio is taken at last: an estimate of what all rows together
    give, whatever the size of the batches.
    """

    def __init__(self):
        self._sums = np.zeros(3)

    def update(self, x: ArrayLike, y: ArrayLike) -> None:
        """Add a batch of at least 4 rows, `[n, d1]` and `[n, d2]`."""
        x, y = _centred(x, y)
        if len(x) < 4:
            raise ValueError(f"an unbiased CKA needs batches of at least 4 rows, got {len(x)}")
        self._sums += _hsic(x, y), _hsic(x, x), _hsic(y, y)

    def compute(self) -> float:
        """Return the CKA of the batches; NaN without one."""
        between, of_x, of_y = self._sums
        return float(between / np.sqrt(of_x * of_y)) if of_x > 0 and of_y > 0 else float("nan")


def against_chance(
    measure: Callable[[NDArray, NDArray], float], x: ArrayLike, y: ArrayLike, *, permutations: int = 20, seed: int = 0
) -> Similarity:
    """Return a similarity beside that of the same features whose rows do not belong together.

    Args:
        measure: Such as `mean_cca` or `linear_cka`.
        x: One representation `[n, d1]`.
        y: The other `[n, d2]`.
        permutations: How often the rows of `y` are permuted, at least 1.
        seed: Of the permutations.

    Raises:
        ValueError: As of the measure, or there is no permutation.
    """
    if whole_number("permutations", permutations) < 1:
        raise ValueError(f"expected at least one permutation, got {permutations}")
    x, y = np.asarray(x), np.asarray(y)
    rng = np.random.default_rng(seed)
    value = measure(x, y)
    nulls = [measure(x, y[rng.permutation(len(y))]) for _ in range(permutations)]
    return Similarity(value, float(np.mean(nulls)), float(np.quantile(nulls, 0.95)))


def _centred(x: ArrayLike, y: ArrayLike) -> tuple[NDArray, NDArray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"expected features [n, d] of the same rows, got {list(x.shape)} and {list(y.shape)}")
    for side in (x, y):
        if not np.isfinite(side).all():
            raise ValueError("features must be finite")
        if len(side) == 0 or (side == side[:1]).all():
            raise ValueError("features must vary from row to row")
    return x - x.mean(axis=0), y - y.mean(axis=0)


def _bases(x: NDArray, y: NDArray, rows_per_feature: float) -> tuple[NDArray, NDArray]:
    """Return orthonormal bases of the columns of both, of which there are not too many for their rows."""
    first, second = _basis(x), _basis(y)
    _check_rows(len(x), max(first.shape[1], second.shape[1]), rows_per_feature)
    return first, second


def _basis(centred: NDArray) -> NDArray:
    """Return an orthonormal basis of the columns `[n, rank]`: constant and repeated features add nothing."""
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, values > values[0] * max(centred.shape) * np.finfo(np.float64).eps]


def _components(centred: NDArray, variance: float) -> NDArray:
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    explained = np.cumsum(values**2) / np.sum(values**2)
    kept = int(np.searchsorted(explained, variance * (1 - 1e-12))) + 1
    return left[:, :kept] * values[:kept]


def _check_rows(rows: int, features: int, rows_per_feature: float) -> None:
    needed = max(real_number("rows_per_feature", rows_per_feature) * features, features + 1)
    if rows < needed:
        raise ValueError(
            f"canonical correlations of {features} features need {needed:.0f} rows, got {rows}: "
            "with fewer, independent features correlate by chance"
        )


def _hsic(x: NDArray, y: NDArray) -> float:
    """Return the unbiased HSIC of the linear kernels, whose diagonals count as 0."""
    n = len(x)
    own_x, own_y = (x * x).sum(axis=1), (y * y).sum(axis=1)  # [n], the diagonals
    rows_x, rows_y = x @ x.sum(axis=0) - own_x, y @ y.sum(axis=0) - own_y  # [n], sums of rows without the diagonal
    trace = ((x.T @ y) ** 2).sum() - own_x @ own_y
    corrected = trace + rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2)) - 2 * (rows_x @ rows_y) / (n - 2)
    return corrected / (n * (n - 3))
