import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

from ols.metrics.curves import (
    average_precision_of_counts,
    precision_recall_band,
    precision_recall_points,
    roc_band,
)
from ols.metrics.resampling import mean_of_counts, percentile_interval, resample

RNG = np.random.default_rng(0)
POSITIVE = RNG.random(60) < 0.4
SCORE = np.round(POSITIVE + RNG.normal(0, 1, 60), 1)  # with equal scores


def test_precision_over_recall_is_that_of_scikit_learn_without_its_made_up_point():
    precision, recall, _ = precision_recall_curve(POSITIVE, SCORE)
    points = precision_recall_points(SCORE, POSITIVE)
    np.testing.assert_allclose(points, np.stack([recall, precision], axis=1)[-2::-1][: len(points)])
    assert len(points) == len(np.unique(SCORE))
    assert precision_recall_points(SCORE, np.zeros(60, bool)).shape == (0, 2)


def test_average_precision_of_samples_that_count_several_times_is_that_of_their_copies():
    counts = RNG.integers(0, 3, (5, 60))
    found = average_precision_of_counts(SCORE, POSITIVE, counts)
    copies = [np.repeat(np.arange(60), row) for row in counts]
    expected = [average_precision_score(POSITIVE[chosen], SCORE[chosen]) for chosen in copies]
    np.testing.assert_allclose(found, expected)
    assert np.isnan(average_precision_of_counts(SCORE, POSITIVE, np.where(POSITIVE, 0, counts))).all()


def _curves_of_copies(counts):
    """Heights of scikit-learn's curves at two places, of samples that are copied as often as they count."""
    heights = []
    for row in counts.astype(int):
        chosen = np.repeat(np.arange(60), row)
        false, true, _ = roc_curve(POSITIVE[chosen], SCORE[chosen], drop_intermediate=False)
        precision, recall, _ = precision_recall_curve(POSITIVE[chosen], SCORE[chosen])
        reached = [precision[np.flatnonzero(recall >= place - 1e-12)[-1]] for place in (0.2, 0.5)]
        heights.append([np.interp([0.2, 0.5], false, true), reached])
    return heights


def test_bands_hold_the_curves_that_scikit_learn_has_of_samples_drawn_anew():
    clusters = np.arange(60) // 6
    drawn = resample(_curves_of_copies, 60, resamples=60, seed=0, clusters=clusters)  # [60, 2, 2]
    roc, precision = np.quantile(drawn, [0.025, 0.975], axis=0).transpose(1, 2, 0)
    for band, expected in ((roc_band, roc), (precision_recall_band, precision)):
        found = band(SCORE, POSITIVE, resamples=60, clusters=clusters)
        assert found[[20, 50], 0].tolist() == [0.2, 0.5]
        np.testing.assert_allclose(found[[20, 50], 1:], expected)
        assert ((found >= 0) & (found <= 1)).all()
        assert band(SCORE, np.ones(60, bool), resamples=2).shape == (0, 3)


def test_the_percentile_interval_is_the_quantiles_and_the_mean_leaves_out_what_is_undefined():
    low, high = percentile_interval(np.arange(1001.0))
    assert (low, high) == (pytest.approx(25), pytest.approx(975))
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\), got 1"):
        percentile_interval([1.0], level=1)
    mean = mean_of_counts([1.0, np.nan, 4.0])
    np.testing.assert_array_equal(mean(np.array([[1.0, 5, 1], [2, 0, 1], [0, 3, 0]])), [2.5, 2.0, np.nan])
