import math
import re

import numpy as np
import pytest
import torch

from ols.losses import LOSSES, build_loss
from ols.metrics.measures import MEASURES
from ols.tasks import TASKS, build_task

CASES = [("multiclass", 3), ("binary", 2)]


def _task(name: str, num_classes: int):
    return build_task(name, [f"class {k}" for k in range(num_classes)], ["CT"] * num_classes)


def _measured(task, *, thorough: bool = False, select_by: str | None = None):
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(60) % len(task.classes)
    logits = torch.randn(60, task.num_outputs, generator=generator) + 2 * torch.eye(task.num_outputs)[target]
    metric = task.build_metric(thorough=thorough, select_by=select_by)
    metric.update(logits, target)
    return metric


def test_every_task_of_classes_is_tried_here():
    assert [name for name, _ in CASES] == [name for name, task in TASKS.items() if task.kind == "class"]


@pytest.mark.parametrize(("name", "num_classes"), CASES)
def test_a_task_names_measures_that_its_metric_gives_and_that_are_known(name, num_classes):
    task = _task(name, num_classes)
    found, thorough = _measured(task).compute(), _measured(task, thorough=True).compute()
    selective = {"aurc", "e_aurc", "failure_auroc", "coverage_at_risk_1", "coverage_at_risk_5", "macro_auc"}
    # which need all predictions
    named = {measure for part in task.report.values() for measure in part}
    for measure in (*task.line, *task.table):
        assert measure in found, measure
    for measure in task.selects:
        assert measure in _measured(task, select_by=measure).compute(), measure
    assert named - selective - thorough.keys() == set()
    assert (named | {*task.selects, *task.line, *task.table}) - MEASURES.keys() == set()
    assert (found["count"], found["nonfinite"]) == (60, 0)


@pytest.mark.parametrize(("name", "num_classes"), CASES)
def test_a_measure_has_an_interval_where_it_says_so_and_nowhere_else(name, num_classes):
    task = _task(name, num_classes)
    found = _measured(task, thorough=True).compute()
    given = {measure for measure in MEASURES if f"{measure}_low" in found and f"{measure}_high" in found}
    assert given == {measure for measure in found if measure in MEASURES and MEASURES[measure].interval}
    assert given == {"multiclass": {"ece"}, "binary": {"auc", "ece"}}[name]


@pytest.mark.parametrize(("name", "num_classes"), CASES)
def test_whatever_chooses_an_epoch_has_a_better_side(name, num_classes):
    task = _task(name, num_classes)
    assert all(MEASURES[measure].higher_is_better is not None for measure in task.selects)
    assert task.selecting(None) == {"multiclass": "top1", "binary": "auc"}[name]
    assert task.selecting("nll") == "nll"
    with pytest.raises(ValueError, match=f"top7 chooses no epoch of a {name} task; known: {task.selects[0]}, "):
        task.selecting("top7")


@pytest.mark.parametrize(("name", "num_classes"), CASES)
@pytest.mark.parametrize("loss_name", LOSSES)
def test_every_loss_fits_a_task_of_as_many_classes_and_no_other(name, num_classes, loss_name):
    task = _task(name, num_classes)
    task.check_loss(build_loss(loss_name, num_classes=num_classes))
    other = build_loss(loss_name, num_classes=5)
    message = (
        f"a {name} task of {num_classes} outputs needs a loss of as many classes, got {type(other).__name__}, of 5"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        task.check_loss(other)
    with pytest.raises(ValueError, match="got MSELoss, no loss of labels"):
        task.check_loss(torch.nn.MSELoss())


def test_the_line_of_an_epoch_has_intervals_beside_what_has_some():
    values = {"top1": 0.5, "top5": 1.0, "balanced_accuracy": 0.25, "nll": 1.2345, "ece": 0.1}
    values |= {"ece_low": 0.05, "ece_high": 0.2, "ece_null": 0.0123}
    expected = "top1 50.0%  top5 100.0%  balanced_accuracy 25.0%  nll 1.234  ece 0.100 (0.050-0.200, null 0.012)"
    assert _task("multiclass", 3).epoch_text(values) == expected
    values |= {"auc": 0.75, "auc_low": 0.7, "auc_high": math.nan, "sensitivity": 0.5, "specificity": 0.25}
    values |= {"average_precision": 0.5, "brier_positive": 0.125}
    assert _task("binary", 2).epoch_text(values).startswith("auc 0.750 (0.700-n/a)  sensitivity 50.0%  specificity ")


def test_a_task_draws_what_its_metric_holds():
    drawn = _task("multiclass", 3).draw(_measured(_task("multiclass", 3)).tables(), title="val")
    assert list(drawn) == ["reliability"]
    task = _task("binary", 2)
    metric = _measured(task)
    figure = task.draw(metric.tables(), title="val")["roc"]
    line = figure.axes[0].lines[1]
    area = torch.trapezoid(torch.tensor(line.get_ydata()), torch.tensor(line.get_xdata()))
    assert float(area) == pytest.approx(float(metric.compute()["auc"]))


def test_an_unknown_task_and_three_classes_for_two_are_refused():
    with pytest.raises(ValueError, match="unknown task 'ranking'; known: multiclass, binary, "):
        build_task("ranking", ["a", "b"], ["CT", "CT"])
    with pytest.raises(
        ValueError, match="a binary task needs two classes, the data set has 3: class 0, class 1, class 2"
    ):
        _task("binary", 3)


@pytest.mark.parametrize(("name", "num_classes"), CASES)
def test_statistics_of_images_that_count_once_are_the_metrics_own_whatever_is_not_finite(name, num_classes):
    task, generator = _task(name, num_classes), torch.Generator().manual_seed(0)
    target = torch.arange(60) % num_classes
    logits = torch.randn(60, num_classes, generator=generator)
    logits[0, target[0]], logits[1, target[1]], logits[2] = torch.inf, torch.nan, -torch.inf
    metric = task.build_metric(select_by="macro_auc")
    metric.update(logits, target)
    values = metric.compute()
    statistics = task.statistics(logits, target)
    found = {measure: one(np.ones((1, 60)))[0] for measure, one in statistics.items()}
    found |= {measure: task.value(logits, target, measure) for measure in task.selects}
    assert found == {measure: pytest.approx(float(values[measure])) for measure in found}
    assert next(iter(statistics)) == task.selects[0]
    with pytest.raises(ValueError, match=f"top7 chooses no epoch of a {name} task"):
        task.of_draws(logits, target, "top7")


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_built_again_from_the_classes_of_its_outputs(name):
    classes = ["age"] if name == "regression" else ["a", "b"]
    state = {"mean": 40.0, "std": 20.0} if name == "regression" else {}
    task = build_task(name, classes, ["CT"] * len(classes), **state)
    again = TASKS[name].from_outputs(task.classes, task.groups, **task.state)
    assert (again.classes, again.groups, again.num_outputs) == (task.classes, task.groups, task.num_outputs)
    assert again.state == task.state
