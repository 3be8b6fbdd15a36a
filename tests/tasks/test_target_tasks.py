import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from ols.losses import build_loss
from ols.metrics.measures import MEASURES
from ols.tasks import TASKS, build_task, build_task_for

RNG = np.random.default_rng(0)
SOURCES = {
    "multilabel": SimpleNamespace(
        kind="multilabel", classes=["a", "b"], groups=["X", "X"], targets=RNG.integers(0, 2, (60, 2)).astype(np.float32)
    ),
    "regression": SimpleNamespace(
        kind="regression", classes=["age"], groups=["X"], targets=RNG.uniform(20, 80, 60).astype(np.float32)
    ),
    "segmentation": SimpleNamespace(kind="mask", classes=["lesion"], groups=["US"], targets=np.zeros(60, np.int64)),
}


def _measured(task):
    generator = torch.Generator().manual_seed(0)
    shape = {"multilabel": (60, 2), "regression": (60, 1), "segmentation": (60, 2, 4, 4)}[task.name]
    target = torch.from_numpy(SOURCES[task.name].targets)
    if task.dense:
        target = torch.randint(0, 2, (60, 4, 4), generator=generator)
    metric = task.build_metric()
    metric.update(torch.randn(shape, generator=generator), target)
    return metric


def test_every_task_of_other_targets_is_tried_here():
    assert list(SOURCES) == [name for name, task in TASKS.items() if task.kind != "class"]


@pytest.mark.parametrize("name", SOURCES)
def test_a_task_of_other_targets_names_known_measures_that_its_metric_gives(name):
    task = build_task_for(name, SOURCES[name], np.arange(60))
    found = _measured(task).compute()
    named = {*task.selects, *task.line, *task.table, *(measure for part in task.report.values() for measure in part)}
    assert named - found.keys() == set()
    assert named - MEASURES.keys() == set()
    assert all(MEASURES[measure].higher_is_better is not None for measure in task.selects)
    intervals = {measure for measure in named if f"{measure}_low" in found}
    assert intervals == {measure for measure in named if MEASURES[measure].interval}
    assert (
        len(task.draw(_measured(task).tables(), title="val"))
        == {"multilabel": 3, "regression": 1, "segmentation": 2}[name]
    )


@pytest.mark.parametrize("name", SOURCES)
def test_a_task_is_built_again_from_the_json_of_its_state(name):
    source = SOURCES[name]
    task = build_task_for(name, source, np.arange(40))
    again = build_task(name, source.classes, source.groups, **json.loads(json.dumps(task.state)))
    assert (again.state, again.classes, again.groups) == (task.state, task.classes, task.groups)
    assert again.num_outputs == len(again.classes)


@pytest.mark.parametrize("name", SOURCES)
def test_the_losses_that_a_task_names_fit_it_and_others_do_not(name):
    task = build_task_for(name, SOURCES[name], np.arange(60))
    for loss in task.losses:
        task.check_loss(build_loss(loss, task.num_outputs, **task.loss_options()))
        task.check_loss_name(loss)
    other = "mse" if name != "regression" else "bce"
    with pytest.raises(ValueError, match=f"loss {other} does not fit a {name} task; those that do: {task.losses[0]}"):
        task.check_loss_name(other)
    with pytest.raises(ValueError, match=f"a {name} task "):
        task.check_loss(build_loss(other, 1))


def test_numbers_are_standardised_on_the_images_that_are_trained_on():
    source, pool = SOURCES["regression"], np.arange(0, 60, 3)
    state = build_task_for("regression", source, pool).state
    assert state == pytest.approx({"mean": source.targets[pool].mean(), "std": source.targets[pool].std()})
    alike = SimpleNamespace(kind="regression", classes=["age"], groups=["X"], targets=np.full(5, 3, np.float32))
    with pytest.raises(ValueError, match="needs training targets that differ, age has sd 0"):
        build_task_for("regression", alike, np.arange(5))


def test_the_first_of_two_classes_can_be_the_positive_one():
    task = build_task("binary", ["disease", "healthy"], ["X", "X"], positive="disease")
    assert (task.state, task.describe()) == ({"positive": "disease"}, "disease (positive) or healthy")
    generator = torch.Generator().manual_seed(3)
    logits, target = torch.randn(50, 2, generator=generator), torch.randint(0, 2, (50,), generator=generator)
    metric = task.build_metric()
    metric.update(logits, target)
    found, score, diseased = metric.compute(), logits[:, 0] - logits[:, 1], target == 0
    assert float(found["auc"]) == pytest.approx(roc_auc_score(diseased, score))
    assert float(found["average_precision"]) == pytest.approx(average_precision_score(diseased, score))
    assert found["positives"] == diseased.sum()
    assert float(found["sensitivity"]) == pytest.approx(float((score[diseased] > 0).double().mean()))
    with pytest.raises(ValueError, match="no class is named 'sick', the positive one; there are disease, healthy"):
        build_task("binary", ["disease", "healthy"], ["X", "X"], positive="sick")


@pytest.mark.parametrize("name", SOURCES)
def test_statistics_of_images_that_count_once_are_the_metrics_own_whatever_is_not_finite(name):
    task, generator = build_task_for(name, SOURCES[name], np.arange(60)), torch.Generator().manual_seed(0)
    outputs = torch.randn((60, 2, 4, 4) if task.dense else (60, task.num_outputs), generator=generator)
    outputs[0], outputs[1] = torch.nan, torch.inf
    target = torch.from_numpy(SOURCES[name].targets)
    if task.dense:
        target = torch.randint(0, 2, (60, 4, 4), generator=generator)
        target[::7] = 0
    elif name == "multilabel":
        target = torch.where(torch.rand(60, 2, generator=generator) < 0.2, torch.nan, target)
    metric = task.build_metric()
    metric.update(outputs, target)
    values = {measure: float(value) for measure, value in metric.compute().items()}
    if name == "regression":
        has = outputs[:, 0].isfinite()
        of_mean = (target[has].double() - task.mean).abs().mean()
        values["mae_less_of_mean"] = values["mae"] - float(of_mean)
    statistics = task.statistics(outputs, target)
    found = {measure: one(np.ones((1, 60)))[0] for measure, one in statistics.items()}
    found |= {measure: task.value(outputs, target, measure) for measure in task.selects}
    assert found == {measure: pytest.approx(values[measure]) for measure in found}
    assert next(iter(statistics)) == task.selects[0]
    with pytest.raises(ValueError, match=f"top7 chooses no epoch of a {name} task"):
        task.of_draws(outputs, target, "top7")
