"""What a study can show: pairs over folds and seeds, relations over networks, and effects over all cells at once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ols.metrics.auc import Z
from ols.metrics.resampling import corrected_t_test, holm, sign_flip_floor, sign_flip_test
from ols.studies.labels import SEED

EXACT_UP_TO = 8  # pairs of a rank correlation: 40,320 orders


@dataclass(frozen=True)
class TrainedCell:
    """A trained cell: where it stands on each axis, and how it did.

    Args:
        labels: Label on each axis, by its name.
        validation: Measure that choices are made by, on the validation split.
        test: The same on the test split.
    """

    labels: Mapping[str, str]
    validation: float
    test: float


class Paired(NamedTuple):
    """A difference over pairs of trainings.

    Args:
        pairs: Number of pairs n.
        difference: Mean of first less second.
        p_sign_flip: Two-sided p by flipping signs, exact up to 12 pairs: of other seeds on these very patients. It says
            nothing of others: of two sources that are worth the same for patients at large, one may suit these better
            in every pair.
        p_corrected: Two-sided p of the t-test that knows that training folds overlap, of differences that are averaged
            over repeats: of other patients, too. NaN for a single fold, so also where all folds test the same images.
        floor: The smallest p that so many pairs can give by flipping signs.
    """

    pairs: int
    difference: float
    p_sign_flip: float
    p_corrected: float
    floor: float

    @property
    def can_show(self) -> bool:
        """Whether so many pairs can give a p below 0.05 at all."""
        return self.floor < 0.05


def paired_trainings(
    cells: Sequence[TrainedCell],
    axis: str,
    first: str,
    second: str,
    *,
    test_share: float,
    free: Sequence[str] = (),
    repeats: Sequence[str] = (SEED,),
) -> Paired:
    """Compare two values of an axis over the cells that agree on all other axes.

    Args:
        cells: TrainedCell cells.
        axis: Name of the axis.
        first: Label of a value.
        second: Label of the value that is subtracted.
        test_share: Part of all samples that one test fold holds, in (0, 1): 0.2 for five folds.
        free: Axes on which cells of a pair may differ, as they were chosen by validation.
        repeats: Axes along which the test images stay the same. Their pairs are one to the corrected t-test, which
            would else take an accident of one fold for several agreeing ones.

    Raises:
        ValueError: No two cells make a pair, or several cells stand at one place.
    """
    places: tuple[dict, dict] = ({}, {})
    for cell in cells:
        for label, of_label in zip((first, second), places, strict=True):
            if cell.labels[axis] == label:
                place = tuple(item for item in cell.labels.items() if item[0] not in (axis, *free))
                if place in of_label:
                    raise ValueError(f"two cells of {axis} {label} at {dict(place)}: average or choose them first")
                of_label[place] = cell.test
    shared = [place for place in places[0] if place in places[1]]
    if not shared:
        raise ValueError(f"no cell of {axis} {first} has a partner of {axis} {second}")
    differences = [places[0][place] - places[1][place] for place in shared]
    by_fold: dict[tuple, list[float]] = {}
    for place, difference in zip(shared, differences, strict=True):
        by_fold.setdefault(tuple(item for item in place if item[0] not in repeats), []).append(difference)
    return Paired(
        len(shared),
        float(np.mean(differences)),
        sign_flip_test(differences),
        corrected_t_test([float(np.mean(there)) for there in by_fold.values()], test_share=test_share),
        sign_flip_floor(len(shared)),
    )


@dataclass(frozen=True)
class Choice:
    """What comes of choosing on validation, beside what else could be reported.

    Args:
        chosen: The cell that validation chose at each place, such as in each fold.
        mean: Mean of the test measure of the chosen cells.
        mean_of_all: Mean over all cells, however they did.
        deviation_of_all: Standard deviation over all cells, with n - 1; NaN for a single one.
        flattery: How much better the mean would look, had the test split itself been used to choose.
    """

    chosen: list[TrainedCell]
    mean: float
    mean_of_all: float
    deviation_of_all: float
    flattery: float


def choose_on_validation(cells: Sequence[TrainedCell], free: Sequence[str], *, higher_is_better: bool = True) -> Choice:
    """Choose, at each place on the other axes, the cell that did best on validation.

    Args:
        cells: TrainedCell cells, at least one.
        free: Axes to choose on, such as the learning rate.
        higher_is_better: Which way the measure is better.

    Raises:
        ValueError: There is no cell, or one of them lacks an axis to choose on.
    """
    if not cells:
        raise ValueError("there is no cell to choose from")
    places: dict[tuple, list[TrainedCell]] = {}
    for cell in cells:
        if missing := [axis for axis in free if axis not in cell.labels]:
            raise ValueError(f"a cell lacks the axis {missing[0]}: {dict(cell.labels)}")
        places.setdefault(tuple(item for item in cell.labels.items() if item[0] not in free), []).append(cell)
    sign = 1 if higher_is_better else -1
    chosen = [max(there, key=lambda cell: _or_worst(sign * cell.validation)) for there in places.values()]
    by_test = [max(there, key=lambda cell: _or_worst(sign * cell.test)) for there in places.values()]
    tests = np.array([cell.test for cell in cells])
    mean = float(np.mean([cell.test for cell in chosen]))
    return Choice(
        chosen,
        mean,
        float(tests.mean()),
        float(tests.std(ddof=1)) if len(tests) > 1 else math.nan,
        sign * (float(np.mean([cell.test for cell in by_test])) - mean),
    )


def _or_worst(value: float) -> float:
    return -math.inf if math.isnan(value) else value


class Correlation(NamedTuple):
    """Spearman's rank correlation, its 95 % interval, its two-sided p, and of how many pairs."""

    value: float
    low: float
    high: float
    p_value: float
    pairs: int


def spearman(x: ArrayLike, y: ArrayLike) -> Correlation:
    """Return how far two quantities rise together, such as ImageNet accuracy and AUC over networks.

    The interval is that of Fisher's z with the standard error of Bonett and Wright (2000, equation 3),
    sqrt((1 + r^2 / 2) / (n - 3)). p is exact up to 8 pairs, over all orders; beyond, that of scipy. A dozen networks
    are few: the interval then spans half of what is possible.

    Args:
        x: One quantity `[n]`.
        y: The other `[n]`.

    Returns:
        All NaN where one does not vary; the interval NaN with less than four pairs, or where the order is the same.

    Raises:
        ValueError: Shapes differ, there are less than two pairs, or a value is not finite.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2 or not np.isfinite([x, y]).all():
        raise ValueError(f"expected two finite quantities [n] of at least two pairs, got {x.tolist()} and {y.tolist()}")
    n = len(x)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(math.nan, math.nan, math.nan, math.nan, n)
    found = stats.spearmanr(x, y)
    value, p_value = float(found.statistic), float(found.pvalue)
    if n <= EXACT_UP_TO:
        ranks, others = stats.rankdata(x) - (n + 1) / 2, stats.rankdata(y) - (n + 1) / 2
        of_orders = np.array(list(permutations(others))) @ ranks
        p_value = float(np.mean(np.abs(of_orders) >= abs(others @ ranks) - 1e-9))
    if n < 4 or math.isclose(abs(value), 1):
        return Correlation(value, math.nan, math.nan, p_value, n)
    half = Z * math.sqrt((1 + value**2 / 2) / (n - 3))
    low, high = math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)
    return Correlation(value, low, high, p_value, n)


class Effect(NamedTuple):
    """What a value of an axis adds, over all cells at once: less its reference, 95 % interval, p adjusted by Holm."""

    label: str
    difference: float
    low: float
    high: float
    p_value: float


def mixed_model(cells: Sequence[TrainedCell], axis: str, *, reference: str, within: str) -> list[Effect]:
    """Fit `test ~ all axes + (1 | within)`: a linear model with a random intercept, by restricted maximum likelihood.

    All axes are fixed effects without interactions. Needs statsmodels.

    Args:
        cells: TrainedCell cells.
        axis: Name of the axis whose effects are returned.
        reference: Label of the value that the others are compared with.
        within: Axis whose values are a sample of many, such as the target or the fold.

    Raises:
        ModuleNotFoundError: statsmodels is not installed; the message says how to.
        ValueError: An axis or the reference is not there, or the axis has one value.
    """
    try:
        from statsmodels.regression.mixed_linear_model import MixedLM
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a mixed model needs statsmodels: pip install statsmodels") from error
    for name in (axis, within):
        if name not in cells[0].labels:
            raise ValueError(f"no axis {name!r} among {', '.join(cells[0].labels)}")
    labels = {name: list(dict.fromkeys(cell.labels[name] for cell in cells)) for name in cells[0].labels}
    if reference not in labels[axis] or len(labels[axis]) < 2:
        raise ValueError(f"{axis} needs {reference!r} and another value, has {', '.join(labels[axis])}")
    others = [label for label in labels[axis] if label != reference]
    columns = [np.ones(len(cells)), *([cell.labels[axis] == label for cell in cells] for label in others)]
    for name, values in labels.items():
        if name not in (axis, within):
            columns += [[cell.labels[name] == label for cell in cells] for label in values[1:]]
    design = np.array(columns, np.float64).T
    groups = [cell.labels[within] for cell in cells]
    fit = MixedLM(np.array([cell.test for cell in cells]), design, groups=groups).fit(reml=True)
    ends, p_values = fit.conf_int(), holm(list(fit.pvalues[1 : len(others) + 1]))
    return [
        Effect(label, float(fit.params[i]), float(ends[i][0]), float(ends[i][1]), p)
        for i, (label, p) in enumerate(zip(others, p_values, strict=True), 1)
    ]
