"""AUC against scikit-learn, against pairs counted one by one, and against a bootstrap."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from ols.metrics.auc import (
    auc,
    auc_difference,
    auc_of_counts,
    average_precision,
    roc_points,
    sensitivity_at_specificity,
    undefined_because,
)


def _case(seed: int, positives: int, negatives: int, *, digits: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two overlapping classes, shuffled; few digits make ties."""
    rng = np.random.default_rng(seed)
    score = np.concatenate([rng.normal(1.0, 1.0, positives), rng.normal(0.0, 1.5, negatives)]).round(digits)
    positive = np.arange(positives + negatives) < positives
    order = rng.permutation(len(score))
    return score[order], positive[order]


CASES = [_case(0, 40, 60), _case(1, 7, 200, digits=1), _case(2, 150, 9, digits=0), _case(3, 2, 2)]


@pytest.mark.parametrize(("score", "positive"), CASES)
def test_areas_are_those_of_scikit_learn(score, positive):
    assert auc(score, positive).value == pytest.approx(roc_auc_score(positive, score), abs=1e-12)
    assert average_precision(score, positive) == pytest.approx(average_precision_score(positive, score), abs=1e-12)


@pytest.mark.parametrize(("score", "positive"), CASES)
def test_the_interval_is_that_of_delong_by_counting_every_pair(score, positive):
    m, n = int(positive.sum()), int((~positive).sum())
    kernel = np.zeros((m, n))
    for i, x in enumerate(score[positive]):
        for j, y in enumerate(score[~positive]):
            kernel[i, j] = 1.0 if x > y else 0.5 if x == y else 0.0
    area = kernel.mean()
    s10 = ((kernel.mean(1) - area) ** 2).sum() / (m - 1)
    s01 = ((kernel.mean(0) - area) ** 2).sum() / (n - 1)
    half = 1.959963984540054 * (s10 / m + s01 / n) ** 0.5
    found = auc(score, positive)
    assert found.low == pytest.approx(max(area - half, 0), abs=1e-12)
    assert found.high == pytest.approx(min(area + half, 1), abs=1e-12)


def test_the_interval_is_about_that_of_a_bootstrap():
    score, positive = _case(4, 120, 180)
    rng = np.random.default_rng(5)
    areas = []
    for _ in range(1000):
        chosen = np.concatenate(
            [rng.choice(np.flatnonzero(positive == label), (positive == label).sum()) for label in (0, 1)]
        )
        areas.append(roc_auc_score(positive[chosen], score[chosen]))
    found = auc(score, positive)
    assert (found.low, found.high) == pytest.approx(np.quantile(areas, [0.025, 0.975]), abs=0.012)
    assert found.high - found.low > 0.05  # so that the bound tells something


def test_the_interval_covers_the_true_area_about_as_often_as_it_says():
    """Scores of positives are normal with mean 1, of negatives with mean 0: the AUC is Phi(1 / sqrt 2)."""
    rng, truth, positive = np.random.default_rng(6), 0.5 * (1 + math.erf(0.5)), np.arange(100) < 40
    intervals = [auc(rng.normal(positive.astype(float), 1.0), positive) for _ in range(1000)]
    assert 0.92 <= np.mean([found.low <= truth <= found.high for found in intervals]) <= 0.97


def test_it_is_undefined_and_says_why_without_either_class():
    for positive, why in (([], "no sample"), ([False, False], "no positive"), ([True, True], "no negative")):
        assert all(math.isnan(value) for value in auc(np.zeros(len(positive)), positive))
        assert why in undefined_because(positive)
        assert len(roc_points(np.zeros(len(positive)), positive)) == 0
    assert undefined_because([True, False]) is None
    assert math.isnan(average_precision([0.0, 1.0], [False, False]))
    assert math.isnan(sensitivity_at_specificity([0.0, 1.0], [True, True], 0.9))


def test_one_positive_has_an_area_and_no_interval():
    found = auc([3.0, 1.0, 2.0, 4.0], [True, False, False, False])
    assert found.value == pytest.approx(2 / 3)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_infinite_scores_are_ordered_and_nan_is_refused():
    assert auc([math.inf, -math.inf, 0.0, 1.0], [True, True, False, False]).value == pytest.approx(0.5)
    with pytest.raises(ValueError, match="1 scores are NaN"):
        auc([math.nan, 0.0], [True, False])
    with pytest.raises(ValueError, match=r"expected score and positive \[N\], got \[2\] and \[3\]"):
        auc([0.0, 1.0], [True, False, True])


@pytest.mark.parametrize(("score", "positive"), CASES[:3])
def test_the_curve_and_its_points_are_those_of_scikit_learn(score, positive):
    false, true, _ = roc_curve(positive, score, drop_intermediate=False)
    np.testing.assert_allclose(roc_points(score, positive), np.stack([false, true], axis=1), atol=1e-12)
    for specificity in (0.5, 0.9, 1.0):
        expected = true[false <= 1 - specificity + 1e-9].max()
        assert sensitivity_at_specificity(score, positive, specificity) == pytest.approx(expected)


def test_sensitivity_at_a_specificity_by_pencil():
    """Ten negatives: at 90 % specificity one of them may be above the threshold, and so are three of four positives."""
    score = [9.0, 8.0, 6.0, 0.5] + [7.0, 5.0] + [0.0] * 8
    positive = [True] * 4 + [False] * 10
    assert sensitivity_at_specificity(score, positive, 0.9) == pytest.approx(0.75)
    assert sensitivity_at_specificity(score, positive, 1.0) == pytest.approx(0.5)


@pytest.mark.parametrize(("score", "positive"), CASES[:3])
def test_the_auc_of_counts_is_that_of_samples_written_down_as_often(score, positive):
    counts = np.random.default_rng(0).integers(0, 4, (6, len(score)))
    for row, area in zip(counts, auc_of_counts(score, positive, counts), strict=True):
        assert area == pytest.approx(roc_auc_score(positive.repeat(row), score.repeat(row)), abs=1e-12)


def test_the_auc_of_counts_ties_infinite_scores_and_knows_where_it_is_undefined():
    score, positive = np.array([np.inf, np.inf, 0.0]), np.array([True, False, True])
    one_each, no_negative = auc_of_counts(score, positive, [[1, 1, 0], [1, 0, 1]])
    assert one_each == 0.5
    assert math.isnan(no_negative)


def test_the_difference_of_two_aucs_is_that_of_delong_by_counting_every_pair():
    score, positive = CASES[0]
    other = score + np.random.default_rng(1).normal(0, 1.0, len(score))
    kernels = [
        (s[positive][:, None] > s[~positive]) + 0.5 * (s[positive][:, None] == s[~positive]) for s in (score, other)
    ]
    s10, s01 = np.cov([k.mean(1) for k in kernels]), np.cov([k.mean(0) for k in kernels])
    contrast = np.array([1, -1])
    variance = contrast @ (s10 / positive.sum() + s01 / (~positive).sum()) @ contrast
    found = auc_difference(score, other, positive)
    assert found.difference == pytest.approx(roc_auc_score(positive, score) - roc_auc_score(positive, other), abs=1e-12)
    assert (found.high - found.low) / 2 == pytest.approx(1.959963984540054 * variance**0.5, abs=1e-12)
    z = found.difference / variance**0.5
    assert found.p_value == pytest.approx(math.erfc(abs(z) / 2**0.5), abs=1e-12)
    assert auc_difference(score, score, positive) == (0, 0, 0, 1)


def test_a_single_positive_gives_no_difference_of_aucs():
    assert all(math.isnan(value) for value in auc_difference([1, 2, 3], [3, 1, 2], [True, False, False]))
