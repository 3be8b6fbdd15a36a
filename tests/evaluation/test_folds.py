"""Out-of-fold predictions together: against scikit-learn, and a bootstrap that draws patients by name."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, roc_auc_score

from ols.evaluation.folds import OutOfFold, compare
from ols.evaluation.predictions import Predictions
from ols.tasks import build_task


def _fold(task, start, outputs, targets, patients):
    count = len(targets)
    return Predictions(
        logits=outputs,
        targets=targets,
        indices=torch.arange(start, start + count),
        sample_ids=[f"{i}.png" for i in range(start, start + count)],
        patients=patients,
        classes=task.classes,
        groups=task.groups,
        task=task.name,
    )


def _binary(seed, signal=1.0, folds=(40, 60)):
    rng, task, made, start = np.random.default_rng(seed), build_task("binary", ["no", "yes"], ["", ""]), [], 0
    truth = np.random.default_rng(0).integers(0, 2, sum(folds))
    for count in folds:
        ill = truth[start : start + count]
        logits = torch.tensor(np.stack([np.zeros(count), signal * ill + rng.normal(size=count)], 1))
        patients = [f"p{i // 4}" for i in range(start, start + count)]
        made.append(_fold(task, start, logits, torch.tensor(ill), patients))
        start += count
    return OutOfFold(made, [task, task]), truth


def test_the_pooled_auc_and_that_of_each_fold_are_scikit_learns():
    found, truth = _binary(1)
    scores = (found.outputs[:, 1] - found.outputs[:, 0]).numpy()
    assert found.interval(resamples=50)[0] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert found.evaluation().metrics["auc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    parts = [roc_auc_score(truth[:40], scores[:40]), roc_auc_score(truth[40:], scores[40:])]
    assert found.by_fold() == pytest.approx(parts)
    estimate, low, high = found.interval(within_folds=True, resamples=500)
    assert estimate == pytest.approx(np.mean(parts))
    assert low < estimate < high


def test_within_folds_the_scale_of_a_folds_scores_has_no_part():
    found, _ = _binary(1)
    moved = replace(found.folds[1], logits=found.folds[1].logits * 100 + torch.tensor([0.0, 50.0]))
    scaled = OutOfFold([found.folds[0], moved], found.tasks)
    within = [training.interval(within_folds=True, resamples=20)[0] for training in (found, scaled)]
    assert within[0] == pytest.approx(within[1])
    assert scaled.interval(resamples=20)[0] < found.interval(resamples=20)[0] - 0.02
    assert compare(found, scaled, within_folds=True, resamples=20).difference == pytest.approx(0)


def test_the_interval_is_that_of_patients_drawn_by_name():
    found, truth = _binary(1)
    scores, patients = (found.outputs[:, 1] - found.outputs[:, 0]).numpy(), np.array(found.patients)
    rng, names, drawn = np.random.default_rng(5), sorted(set(patients)), []
    for _ in range(2000):
        rows = np.concatenate([np.flatnonzero(patients == name) for name in rng.choice(names, len(names))])
        drawn.append(roc_auc_score(truth[rows], scores[rows]))
    estimate, low, high = found.interval(resamples=4000)
    expected = 2 * estimate - np.quantile(drawn, [0.975, 0.025])
    assert (low, high) == pytest.approx(expected, abs=0.012)


def test_two_trainings_are_compared_image_by_image_in_any_order_of_folds():
    (one, truth), (other, _) = _binary(1, signal=2.0), _binary(2, signal=0.5)
    turned = OutOfFold(list(reversed(other.folds)), list(reversed(other.tasks)))
    found = compare(one, turned, resamples=500)
    difference = [roc_auc_score(truth, (arm.outputs[:, 1] - arm.outputs[:, 0]).numpy()) for arm in (one, other)]
    assert found.difference == pytest.approx(difference[0] - difference[1])
    assert found == pytest.approx(compare(one, other, resamples=500), abs=0.02)
    assert found.low < found.difference < found.high
    assert compare(one, one, resamples=100).p_value == 1


def test_outputs_of_folds_are_brought_to_the_units_of_the_first():
    tasks = [build_task("regression", ["age"], [""], mean=mean, std=std) for mean, std in ((50, 10), (20, 2))]
    ages = [torch.tensor([40.0, 60.0]), torch.tensor([20.0, 24.0])]
    outputs = [torch.tensor([[-1.2], [1.0]]), torch.tensor([[0.0], [3.0]])]  # 38, 60; 20, 26
    folds = [
        _fold(task, 2 * k, out, age, [f"{k}a", f"{k}b"])
        for k, (task, out, age) in enumerate(zip(tasks, outputs, ages, strict=True))
    ]
    found = OutOfFold(folds, tasks)
    expected = mean_absolute_error([40, 60, 20, 24], [38, 60, 20, 26])
    assert found.interval(resamples=20)[0] == pytest.approx(expected, abs=1e-5)
    assert found.evaluation().metrics["mae"] == pytest.approx(expected, abs=1e-5)
    assert found.by_fold() == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize("name", ["multiclass", "multilabel", "segmentation"])
def test_what_a_task_draws_is_what_its_metric_says_of_the_images_that_were_drawn(name):
    generator = torch.Generator().manual_seed(0)
    classes = ["a", "b", "c"]
    task = build_task(
        name, classes if name != "segmentation" else ["lesion"], [""] * (1 if name == "segmentation" else 3)
    )
    outputs, targets = {
        "multiclass": (torch.randn(60, 3, generator=generator), torch.randint(3, (60,), generator=generator)),
        "multilabel": (
            torch.randn(60, 3, generator=generator),
            torch.randint(2, (60, 3), generator=generator).float().masked_fill(torch.eye(60, 3).bool(), torch.nan),
        ),
        "segmentation": (
            torch.randn(12, 2, 4, 4, generator=generator),
            torch.randint(2, (12, 4, 4), generator=generator) * (torch.arange(12) > 2)[:, None, None],
        ),
    }[name]
    rows = torch.randint(len(targets), (3, len(targets)), generator=generator)
    counts = np.stack([np.bincount(row, minlength=len(targets)) for row in rows]).astype(float)
    for row, value in zip(rows, task.of_draws(outputs, targets)(counts), strict=True):
        metric = task.build_metric()
        metric.update(outputs[row], targets[row])
        assert value == pytest.approx(float(metric.compute()[task.selects[0]]), abs=1e-6)


def _scored(*folds):
    """Models of a fixed test: scores of two images that are well and two that are ill, of three patients."""
    task = build_task("binary", ["no", "yes"], ["", ""])
    made = [
        _fold(task, 0, torch.tensor([[0.0, s] for s in scores]), torch.tensor([0, 0, 1, 1]), ["a", "b", "b", "c"])
        for scores in folds
    ]
    return OutOfFold(made, [task] * len(made))


def test_of_a_fixed_test_each_folds_own_model_counts_whatever_the_scale_of_its_scores():
    found = _scored([-2.0, 1.0, -1.0, 3.0], [10.0, -90.0, 50.0, 60.0])  # 3 of 4 pairs in order, then all
    assert found.has_fixed_test
    assert found.by_fold() == [0.75, 1.0]
    for within_folds in (False, True):  # all eight scores in one would order 13 of 16 pairs
        assert found.interval(within_folds=within_folds, resamples=20)[0] == 0.875
    metrics = found.evaluation().metrics
    assert metrics["auc"] == 0.875
    assert metrics["top1"] == pytest.approx((2 / 4 + 3 / 4) / 2)
    assert metrics["count"] == 4


def test_twice_the_same_model_on_a_fixed_test_is_no_more_certain_than_once():
    (first, one), task = (_binary(seed)[0].pooled() for seed in (1, 2)), build_task("binary", ["no", "yes"], ["", ""])
    once, twice = (OutOfFold([first] * times, [task] * times) for times in (1, 2))
    assert twice.interval(resamples=200) == pytest.approx(once.interval(resamples=200))
    row = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    shuffled = replace(
        one, logits=one.logits[row], targets=one.targets[row], indices=one.indices[row],
        sample_ids=[one.sample_ids[i] for i in row], patients=[one.patients[i] for i in row],
    )  # fmt: skip
    other = OutOfFold([shuffled, one], [task] * 2)
    expected = compare(once, OutOfFold([one], [task]), resamples=200)
    assert compare(twice, other, resamples=200) == pytest.approx(expected)


def test_an_image_that_was_predicted_twice_and_other_images_are_refused():
    found, _ = _binary(1)
    both = found.pooled()
    with pytest.raises(ValueError, match="40 images were predicted in two folds"):
        OutOfFold([found.folds[0], both], found.tasks)
    with pytest.raises(ValueError, match="140 images were predicted in two folds"):
        OutOfFold([both, both, found.folds[0]], [*found.tasks, found.tasks[0]])
    with pytest.raises(ValueError, match="the trainings predict other images: 100 and 40"):
        compare(found, OutOfFold(found.folds[:1], found.tasks[:1]))
