from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit
from sklearn.metrics import brier_score_loss, roc_auc_score

from ols.evaluation.measures import measures_of
from ols.metrics.auc import auc_difference
from ols.studies.findings.differences import compare_along
from ols.studies.findings.trainings import choose_ways
from ols.tasks import build_task


def _scores(cells):
    logits = np.concatenate([cell.test.logits.numpy() for cell in cells])
    return np.concatenate([cell.test.targets.numpy() for cell in cells]), logits[:, 1] - logits[:, 0]


def _of(cells, source, **labels):
    return [c for c in cells if c.labels["source"] == source and labels.items() <= c.labels.items()]


def test_differences_are_those_of_scikit_learn_on_all_folds_within_them_and_over_seeds(make_cells):
    cells = make_cells({"imagenet": 0.4, "radimagenet": 1.0}, seeds=2)
    found = {one.measure: one for one in compare_along(choose_ways(cells), "source", resamples=200)}
    assert list(found) == ["auc", "ece", "brier_positive", "aurc"]
    pooled = {
        source: np.mean([roc_auc_score(*_scores(_of(cells, source, seed=seed))) for seed in "01"])
        for source in ("imagenet", "radimagenet")
    }
    one = found["auc"]
    assert one.values == pytest.approx((pooled["radimagenet"], pooled["imagenet"]))
    assert one.together.difference == pytest.approx(pooled["radimagenet"] - pooled["imagenet"])
    each = np.array([[roc_auc_score(*_scores([cell])) for cell in _of(cells, s)] for s in ("radimagenet", "imagenet")])
    differences = each[0] - each[1]
    assert one.within.difference == pytest.approx(differences.mean())
    assert one.trainings.difference == pytest.approx(differences.mean())
    assert one.trainings.pairs == 10
    of_folds = differences.reshape(5, 2).mean(1)
    t = of_folds.mean() / np.sqrt((1 / 5 + 0.2 / 0.8) * of_folds.var(ddof=1))
    assert one.p_trainings == pytest.approx(2 * stats.t.sf(abs(t), 4))
    brier = []
    for source in ("radimagenet", "imagenet"):
        of_seeds = [_scores(_of(cells, source, seed=seed)) for seed in "01"]
        brier.append(np.mean([brier_score_loss(y, expit(score)) for y, score in of_seeds]))
    assert found["brier_positive"].values == pytest.approx(tuple(brier))
    assert one.together.low < one.together.difference < one.together.high
    assert one.better


def test_of_several_labels_every_known_one_is_an_answer_and_counts_as_often_as_its_image():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(30, 2)), rng.integers(0, 2, (30, 2)).astype(float)
    labels[rng.random((30, 2)) < 0.2] = np.nan
    task = build_task("multilabel", ["a", "b"], ["x", "x"])
    found = measures_of(task, torch.tensor(scores), torch.tensor(labels), "mean_auc")
    assert list(found) == ["mean_auc", "ece", "brier_positive", "aurc"]
    counts = rng.integers(0, 3, 30)
    known = ~np.isnan(labels)
    times = np.repeat(counts[:, None], 2, 1)[known]
    truth, score = np.repeat(labels[known], times), np.repeat(scores[known], times)
    at = {name: part(counts[None].astype(float))[0] for name, part in found.items()}
    assert at["brier_positive"] == pytest.approx(brier_score_loss(truth, expit(score)))
    confidence, wrong = expit(np.abs(score)), (score > 0) != truth
    of_most_confident = np.cumsum(wrong[np.argsort(-confidence)])
    assert at["aurc"] == pytest.approx(np.mean(of_most_confident / np.arange(1, len(score) + 1)))
    bins = np.ceil(confidence * 15)
    gaps = [abs((confidence[bins == b] - ~wrong[bins == b]).sum()) for b in np.unique(bins)]
    assert at["ece"] == pytest.approx(sum(gaps) / len(score))


def test_of_a_fixed_test_models_are_averaged_and_patients_are_drawn_in_all_folds_together(make_cells):
    cells = make_cells({"imagenet": 0.4, "radimagenet": 1.0}, folds=2, images=80)
    fixed = [replace(cell, test=_of(cells, cell.labels["source"], fold="0")[0].test) for cell in cells]
    fixed[-1] = replace(fixed[-1], test=replace(fixed[-1].test, logits=100 * fixed[-1].test.logits))
    one, *_ = compare_along(choose_ways(fixed), "source", resamples=300)
    ours, theirs = (roc_auc_score(*_scores(_of(cells, s, fold="0"))) for s in ("radimagenet", "imagenet"))
    assert one.values == pytest.approx((ours, theirs))
    assert one.together == one.within
    assert np.isnan(one.trainings.p_corrected)  # which answers for other patients: these are the same in every fold
    assert one.p_trainings == one.trainings.p_sign_flip
    of_one = [cell for cell in cells if cell.labels["fold"] == "0"]
    alone, *_ = compare_along(choose_ways(of_one), "source", resamples=300)
    assert one.together == pytest.approx(alone.together)  # as wide as with one fold


def test_one_fold_has_delong_and_says_nothing_of_other_trainings(make_cells):
    cells = make_cells({"imagenet": 0.4, "none": 0.5}, folds=1, images=80)
    single = [c for c in cells if c.labels["fold"] == "0"]
    for cell in single:
        cell.test.patients[:] = cell.test.sample_ids  # an image a patient
    one = compare_along(choose_ways(single), "source", resamples=100)[0]
    (y, second), (_, first) = _scores(_of(single, "imagenet")), _scores(_of(single, "none"))
    assert one.delong == pytest.approx(auc_difference(first, second, y == 1))
    assert one.trainings.pairs == 1
    assert np.isnan(one.p_trainings)


def test_both_p_are_adjusted_over_all_targets_and_values(make_cells):
    cells = make_cells({"imagenet": 0.5, "radimagenet": 0.8, "none": 0.3}, targets=("thyroid", "breast"))
    alone = [c for c in cells if c.labels["target"] == "thyroid" and c.labels["source"] != "none"]
    (single, *_) = compare_along(choose_ways(alone), "source", resamples=200)
    of_four = [one for one in compare_along(choose_ways(cells), "source", resamples=200) if one.measure == "auc"]
    assert [one.family for one in of_four] == [4] * 4
    same = of_four[0]
    assert (same.first, same.setting["target"]) == ("radimagenet", "thyroid")
    assert same.together == single.together
    assert single.p_patients <= same.p_patients <= 4 * single.p_patients + 1e-12
    assert same.p_patients > single.p_patients


def test_values_that_were_tested_on_other_images_are_refused_by_name(make_cells):
    cells = make_cells({"imagenet": 0.5}) + make_cells({"none": 0.5}, images=140)
    with pytest.raises(ValueError, match=r"thyroid, lr 0\.01: none and imagenet: they were tested on other images"):
        compare_along(choose_ways(cells), "source", resamples=10)
    with pytest.raises(ValueError, match="source has no value 'photographs'; there are imagenet, none"):
        compare_along(choose_ways(cells), "source", reference="photographs")


@pytest.mark.slow
def test_studies_without_a_difference_reject_at_their_level(make_cells):
    rejected = np.zeros(2)
    for study in range(300):
        cells = make_cells({"imagenet": 0.5, "radimagenet": 0.5}, targets=("a", "b"), seed=study)
        own = [c for c in compare_along(choose_ways(cells), "source", resamples=200) if c.measure == "auc"]
        rejected += [min(c.p_patients for c in own) < 0.05, min(c.p_trainings for c in own) < 0.05]
    # One of two targets after Holm: 5 % of 300 is 15, and 27 is its 99.8 % quantile
    assert stats.binom.cdf(27, 300, 0.05) > 0.998
    assert (rejected <= 27).all()
