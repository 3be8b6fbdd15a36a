"""Statistics of studies against pencil, scipy, statsmodels' formulas, and simulated studies without an effect."""

import math
from itertools import permutations, product

import numpy as np
import pandas
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from ols.metrics.auc import auc_of_counts
from ols.metrics.resampling import bootstrap_interval, corrected_t_test, resample, sign_flip_test
from ols.studies.statistics import TrainedCell, choose_on_validation, mixed_model, paired_trainings, spearman


def _cells(**tests: list[float]) -> list[TrainedCell]:
    """One cell for each source and fold; validation is the test, reversed over folds."""
    return [
        TrainedCell({"source": source, "fold": str(fold)}, -value, value)
        for source, values in tests.items()
        for fold, value in enumerate(values)
    ]


def test_cells_are_paired_by_all_other_axes_whatever_their_order():
    cells = _cells(ours=[0.9, 0.8, 0.7], theirs=[0.7, 0.7, 0.7])[::-1]
    more = [*cells, TrainedCell({"source": "ours", "fold": "9"}, 0, 1.0)]
    found = paired_trainings(more, "source", "ours", "theirs", test_share=0.2)
    assert found.pairs == 3
    assert found.difference == pytest.approx(0.1)
    assert found.p_sign_flip == 0.5  # by hand: of .2, .1, 0 with 8 sign patterns, 4 have a sum of at least .3
    assert found.p_corrected == corrected_t_test([0.2, 0.1, 0], test_share=0.2)
    assert found.floor == 0.25
    assert not found.can_show


def test_seeds_of_one_fold_are_one_difference_to_the_test_of_other_patients():
    values = {("0", "0"): 0.3, ("0", "1"): 0.1, ("1", "0"): 0.2, ("1", "1"): 0.0, ("2", "0"): 0.4, ("2", "1"): 0.0}
    cells = [
        TrainedCell({"source": source, "fold": fold, "seed": seed}, 0.0, 0.5 + gain * value)
        for (fold, seed), value in values.items()
        for source, gain in (("ours", 1), ("theirs", 0))
    ]
    found = paired_trainings(cells, "source", "ours", "theirs", test_share=0.25)
    # By hand: means of folds .2, .1, .2 have variance 1 / 300; t = (1 / 6) / sqrt((1 / 3 + 1 / 3) / 300)
    assert found.p_corrected == pytest.approx(2 * stats.t.sf(1 / 6 / math.sqrt(2 / 900), 2))
    assert found.pairs == 6
    assert found.floor == 1 / 32
    one_fold = paired_trainings(cells[:4], "source", "ours", "theirs", test_share=0.25)
    assert math.isnan(one_fold.p_corrected)


def test_two_cells_at_one_place_are_no_pair():
    with pytest.raises(ValueError, match="two cells of source ours"):
        paired_trainings(_cells(ours=[1], theirs=[1]) + _cells(ours=[1]), "source", "ours", "theirs", test_share=0.2)
    with pytest.raises(ValueError, match="no cell of source ours has a partner"):
        paired_trainings(_cells(ours=[1]), "source", "ours", "theirs", test_share=0.2)


def test_validation_chooses_and_the_test_split_would_flatter():
    cells = [
        TrainedCell({"fold": fold, "lr": lr}, validation, test)
        for fold, lr, validation, test in [
            ("0", "high", 0.9, 0.6), ("0", "low", 0.8, 0.8), ("1", "high", 0.5, 0.4), ("1", "low", 0.7, 0.9)
        ]
    ]  # fmt: skip
    choice = choose_on_validation(cells, ["lr"])
    assert [cell.labels["lr"] for cell in choice.chosen] == ["high", "low"]
    assert choice.mean == pytest.approx(0.75)
    assert choice.mean_of_all == pytest.approx(0.675)
    assert choice.deviation_of_all == pytest.approx(np.std([0.6, 0.8, 0.4, 0.9], ddof=1))
    assert choice.flattery == pytest.approx(0.1)
    errors = choose_on_validation(cells, ["lr"], higher_is_better=False)
    assert [cell.labels["lr"] for cell in errors.chosen] == ["low", "high"]
    assert errors.flattery == pytest.approx(0.6 - 0.5)


def test_a_cell_without_a_number_is_never_chosen():
    cells = [TrainedCell({"lr": "high"}, math.nan, 0.9), TrainedCell({"lr": "low"}, 0.1, 0.2)]
    assert choose_on_validation(cells, ["lr"]).mean == 0.2
    with pytest.raises(ValueError, match="lacks the axis freeze"):
        choose_on_validation(cells, ["freeze"])


def test_a_rank_correlation_of_few_is_tested_over_all_orders():
    x, y = [1, 2, 3, 4, 5], [2, 1, 4, 3, 5]
    found = spearman(x, y)
    assert found.value == pytest.approx(1 - 6 * 4 / (5 * 24))
    as_far = [abs(stats.spearmanr(x, order).statistic) >= found.value - 1e-12 for order in permutations(y)]
    assert found.p_value == pytest.approx(np.mean(as_far))
    assert found.low < 0 < found.value < found.high < 1


def test_a_rank_correlation_that_does_not_exist_is_nan():
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]).value)
    assert math.isnan(
        spearman([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]).low
    )  # the same order says nothing of how far off it may be
    with pytest.raises(ValueError, match="two finite quantities"):
        spearman([1, 2], [1, math.nan])


@pytest.mark.filterwarnings("ignore:The MLE may be on the boundary", "ignore:Random effects covariance is singular")
def test_the_mixed_model_is_that_of_a_formula():
    rng = np.random.default_rng(0)
    effects = {"none": 0.0, "photographs": 0.05, "radiology": 0.08}
    targets = {f"target{i}": rng.normal(0, 0.1) for i in range(6)}
    cells = [
        TrainedCell({"source": s, "lr": lr, "target": t}, 0.0, 0.7 + effects[s] + targets[t] + rng.normal(0, 0.02))
        for s, lr, t in product(effects, ["high", "low"], targets)
    ]
    found = mixed_model(cells, "source", reference="none", within="target")
    table = pandas.DataFrame([{**cell.labels, "test": cell.test} for cell in cells])
    fit = smf.mixedlm("test ~ C(source, Treatment('none')) + lr", table, groups=table["target"]).fit()
    for effect in found:
        name = f"C(source, Treatment('none'))[T.{effect.label}]"
        assert effect.difference == pytest.approx(fit.params[name], abs=1e-6)
        assert (effect.low, effect.high) == pytest.approx(tuple(fit.conf_int().loc[name]), abs=1e-4)
    assert [effect.label for effect in found] == ["photographs", "radiology"]


@pytest.mark.slow
def test_tests_over_folds_reject_no_true_null_too_often():
    """2,000 studies of a ridge regression on 5 folds, two starts that do not differ."""
    rng = np.random.default_rng(0)
    rejected = np.zeros(2)
    for _ in range(2000):
        x, y = rng.normal(size=(100, 3)), rng.normal(size=100)
        folds, differences = rng.permutation(100).reshape(5, 20), []
        noise = rng.normal(size=(2, 100, 3))  # two sets of features that are worth the same
        for fold in folds:
            rest = np.setdiff1d(np.arange(100), fold)
            errors = []
            for features in x + noise:
                weights = np.linalg.lstsq(features[rest], y[rest], rcond=None)[0]
                errors.append(np.mean((features[fold] @ weights - y[fold]) ** 2))
            differences.append(errors[0] - errors[1])
        rejected += corrected_t_test(differences, test_share=0.2) < 0.05, sign_flip_test(differences) < 0.05
    assert rejected[0] / 2000 < 0.06
    assert rejected[1] == 0  # five pairs give no p below 0.0625


@pytest.mark.slow
def test_the_interval_over_patients_covers_where_that_over_images_does_not():
    """2,000 sets of 60 patients with 5 images each; a patient's images share most of what decides the score."""
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(1 / 2**0.5)  # two normal scores, one apart
    covered = np.zeros(2)
    patients = np.repeat(np.arange(60), 5)
    positive = patients < 30
    for study in range(2000):
        own, shared = rng.normal(size=300), rng.normal(size=60)[patients]
        score = positive + 0.8**0.5 * shared + 0.2**0.5 * own
        area = auc_of_counts(score, positive, np.ones((1, 300)))[0]
        for i, clusters in enumerate((patients, None)):
            resampled = resample(
                lambda counts, score=score: auc_of_counts(score, positive, counts),
                300, resamples=400, seed=study, clusters=clusters,
            )  # fmt: skip
            low, high = bootstrap_interval(area, resampled)
            covered[i] += low <= truth <= high
    assert covered[0] / 2000 > 0.91
    assert covered[1] / 2000 < 0.75
