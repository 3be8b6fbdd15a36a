"""How alike two representations of the same samples are: canonical correlations and centred kernel alignment.

All in float64 on the CPU; rows are samples in the same order, columns are features. None of the measures depends on
the order of the features, or on the scale of a side. Mean CCA is unchanged by every invertible linear map of either
side, SVCCA and CKA by an orthogonal one, and PWCCA, which weights by the features of the first side as they are, by
every invertible one of the second.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ols.metrics.arguments import real_number

MEASURES = ("mean_cca", "svcca", "pwcca", "cka")
ROWS_PER_FEATURE = 10  # fewer rows correlate by chance: 64 independent features show .27 in 640 rows, .07 in 10,000


class Similarity(NamedTuple):
    """A similarity beside what chance gives; all NaN where there are too few rows for it.

    Args:
        value: Of the two representations.
        null: Mean over draws in which the rows of one do not belong to those of the other.
        null_low: Smallest of the draws.
        null_high: Largest of them.
    """

    value: float
    null: float
    null_low: float
    null_high: float


class Representation:
    """Features of samples, decomposed once to be compared with many others by all measures.

    It takes `n (r + 3)` numbers of float64; while it is made, about three times that.

    Args:
        features: `[n, d]`. What their precision rounds away is no direction: features that others give, or that do not
            vary, add nothing.
        variance: Share of the variance that the components of SVCCA hold, in (0, 1].

    Raises:
        ValueError: It is no matrix, a value is not finite, no feature varies, or the share does not lie in (0, 1].

    Attributes:
        directions: Orthonormal basis of the centred features, the one that explains most first, `[n, r]`.
        scales: Singular value of each `[r]`.
        loadings: Each direction's part in each feature `[r, d]`: features = directions * scales @ loadings.
        components: How many directions hold so much of the variance.
    """

    def __init__(self, features: ArrayLike, *, variance: float = 0.99):
        variance = real_number("variance", variance)
        if not 0 < variance <= 1:
            raise ValueError(f"variance must lie in (0, 1], got {variance}")
        features = np.asarray(features)
        precision = np.finfo(features.dtype if features.dtype.kind == "f" else np.float64).eps
        centred = _centred(features)
        left, scales, right = np.linalg.svd(centred, full_matrices=False)
        rounding = 10 * precision * np.linalg.norm(features.astype(np.float64, copy=False))
        kept = max(1, int((scales > rounding).sum()))
        self.directions, self.scales, self.loadings = left[:, :kept], scales[:kept], right[:kept]
        explained = np.cumsum(self.scales**2) / np.sum(self.scales**2)
        self.components = int(np.searchsorted(explained, variance * (1 - 1e-12))) + 1
        self._kernel = _kernel_sums(centred)  # [n] each
        self._own_hsic = _hsic(len(centred), (self.scales**4).sum(), self._kernel, self._kernel)

    def __len__(self) -> int:
        return len(self.directions)

    @property
    def rank(self) -> int:
        """Number of directions r."""
        return len(self.scales)

    def likeness(
        self, other: "Representation", order: NDArray | None = None, *, rows_per_feature: float = ROWS_PER_FEATURE
    ) -> dict[str, float]:
        """Return each of `MEASURES` of this representation and another of the same samples.

        Args:
            other: The other one.
            order: Rows of the other that are taken for those of this one, int64 `[n]`; by default its own.
            rows_per_feature: A canonical correlation of fewer rows for each direction, or component of SVCCA, is NaN.

        Raises:
            ValueError: They are not of as many rows, or of fewer than 4.
        """
        n = len(self)
        order = np.arange(n) if order is None else order
        if n != len(other) or n < 4:
            raise ValueError(f"expected representations of the same 4 rows or more, got {n} and {len(other)} rows")
        cross = self.directions.T @ other.directions[order]  # [r, other's r]
        found = dict.fromkeys(MEASURES, math.nan)
        if not _too_few(n, max(self.rank, other.rank), rows_per_feature):
            left, correlations, _ = np.linalg.svd(cross, full_matrices=False)
            correlations = correlations.clip(0, 1)
            weights = np.abs((left.T * self.scales) @ self.loadings).sum(axis=1)
            found["mean_cca"] = float(correlations.mean())
            found["pwcca"] = float(weights @ correlations / weights.sum())
        if not _too_few(n, max(self.components, other.components), rows_per_feature):
            leading = cross[: self.components, : other.components]
            found["svcca"] = float(np.linalg.svd(leading, compute_uv=False).clip(0, 1).mean())
        between = ((self.scales[:, None] * cross * other.scales) ** 2).sum()
        kernel = tuple(part[order] for part in other._kernel)
        found["cka"] = _alignment(_hsic(n, between, self._kernel, kernel), self._own_hsic, other._own_hsic)
        return found

    def against_chance(
        self, other: "Representation", orders: Sequence[NDArray], *, rows_per_feature: float = ROWS_PER_FEATURE
    ) -> dict[str, Similarity]:
        """Return each of `MEASURES` beside what rows give that do not belong together.

        Args:
            other: Another representation of the same samples.
            orders: Permutations of the rows, at least one.
            rows_per_feature: As of `likeness`.

        Raises:
            ValueError: As of `likeness`, or there is no permutation.
        """
        if not orders:
            raise ValueError("expected at least one permutation")
        values = self.likeness(other, rows_per_feature=rows_per_feature)
        nulls = [self.likeness(other, order, rows_per_feature=rows_per_feature) for order in orders]
        found = {}
        for name, value in values.items():
            draws = np.array([null[name] for null in nulls])
            found[name] = Similarity(value, float(draws.mean()), float(draws.min()), float(draws.max()))
        return found


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
    first, second = _pair(x, y)
    _check_rows(len(first), max(first.rank, second.rank), rows_per_feature)
    return np.linalg.svd(first.directions.T @ second.directions, compute_uv=False).clip(0, 1)


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
    first, second = _pair(x, y, variance=variance)
    _check_rows(len(first), max(first.components, second.components), rows_per_feature)
    return first.likeness(second, rows_per_feature=0)["svcca"]


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
    first, second = _pair(x, y)
    _check_rows(len(first), max(first.rank, second.rank), rows_per_feature)
    return first.likeness(second, rows_per_feature=0)["pwcca"]


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
        x, y = _same_rows(x, y)
        x, y = _centred(x), _centred(y)
        if len(x) < 4:
            raise ValueError(f"an unbiased CKA needs batches of at least 4 rows, got {len(x)}")
        sides = ((x, y), (x, x), (y, y))
        self._sums += [_hsic(len(x), ((a.T @ b) ** 2).sum(), _kernel_sums(a), _kernel_sums(b)) for a, b in sides]

    def compute(self) -> float:
        """Return the CKA of the batches; NaN without one."""
        return _alignment(*self._sums)


def _same_rows(x: ArrayLike, y: ArrayLike) -> tuple[NDArray, NDArray]:
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(f"expected features [n, d] of the same rows, got {list(x.shape)} and {list(y.shape)}")
    return x, y


def _pair(x: ArrayLike, y: ArrayLike, *, variance: float = 0.99) -> tuple[Representation, Representation]:
    x, y = _same_rows(x, y)
    return Representation(x, variance=variance), Representation(y, variance=variance)


def _centred(features: NDArray) -> NDArray:
    if features.ndim != 2:
        raise ValueError(f"expected features [n, d], got {list(features.shape)}")
    features = features.astype(np.float64, copy=False)
    if not np.isfinite(features).all():
        raise ValueError("features must be finite")
    if len(features) == 0 or (features == features[:1]).all():
        raise ValueError("features must vary from row to row")
    return features - features.mean(axis=0)


def _too_few(rows: int, features: int, rows_per_feature: float) -> bool:
    return rows < max(real_number("rows_per_feature", rows_per_feature) * features, features + 1)


def _check_rows(rows: int, features: int, rows_per_feature: float) -> None:
    if _too_few(rows, features, rows_per_feature):
        raise ValueError(
            f"canonical correlations of {features} features need {max(rows_per_feature * features, features + 1):.0f} "
            f"rows, got {rows}: with fewer, independent features correlate by chance"
        )


def _kernel_sums(x: NDArray) -> tuple[NDArray, NDArray]:
    """Return the diagonal of the linear kernel of centred features, and sums of its rows without the diagonal."""
    own = (x * x).sum(axis=1)
    return own, x @ x.sum(axis=0) - own


def _hsic(n: int, between: float, x: tuple[NDArray, ...], y: tuple[NDArray, ...]) -> float:
    """Return the unbiased HSIC of linear kernels, whose diagonals count as 0.

    Args:
        n: Rows.
        between: Squared Frobenius norm of `x.T @ y`, the trace of the product of both kernels with their diagonals.
        x: What `_kernel_sums` returns of one side.
        y: The same of the other.
    """
    (own_x, rows_x), (own_y, rows_y) = x, y
    trace = between - own_x @ own_y
    corrected = trace + rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2)) - 2 * (rows_x @ rows_y) / (n - 2)
    return float(corrected / (n * (n - 3)))


def _alignment(between: float, of_x: float, of_y: float) -> float:
    """Return the CKA of three HSIC; NaN where that of a side is not positive."""
    return float(between / math.sqrt(of_x * of_y)) if of_x > 0 and of_y > 0 else math.nan
