"""Figures of single tasks, and that TensorBoard receives some of each."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ols.evaluation.evaluate import Evaluation
from ols.figures import (
    outlined,
    precision_recall_curve,
    precision_recall_of_labels,
    predicted_against_true,
    residuals_against_predicted,
    roc_curve,
)
from ols.tasks import TASKS, build_task
from ols.tracking.run_log import RunLog

BAND = np.array([[0.0, 0.0, 0.1], [0.5, 0.6, 0.9], [1.0, 1.0, 1.0]])


@pytest.mark.parametrize(
    "draw", [roc_curve, lambda *args, **options: precision_recall_curve(*args, prevalence=0.3, **options)]
)
def test_a_curve_lies_in_its_band_and_may_have_none(draw):
    points = np.array([[0.0, 0.0], [0.5, 0.7], [1.0, 1.0]])
    axes = draw(points, title="", band=BAND).axes[0]
    assert axes.lines[1].get_xydata().tolist() == points.tolist()
    corners = axes.collections[0].get_paths()[0].vertices.tolist()
    assert all(corner in corners for corner in ([0.5, 0.6], [0.5, 0.9]))
    assert not draw(np.empty((0, 2)), title="", band=np.empty((0, 3))).axes[0].collections


def test_each_label_has_a_field_and_one_without_a_curve_says_so():
    curves = [np.array([[0.5, 1.0], [1.0, 0.4]]), np.empty((0, 2)), np.array([[1.0, 1.0]]), np.array([[1.0, 0.5]])]
    labels = np.array([[np.nan, np.nan, np.nan, 0.7, np.nan, 8, 20]] * 4)
    labels[1, 5], labels[2, 5] = 0, 20  # without a positive, without a negative
    names = ["$a$", "b", "c", "d"]
    figure = precision_recall_of_labels(curves, labels, names, title="")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["\\$a\\$\n8 of 20", "b\n0 of 20", "c\n20 of 20", "d\n8 of 20"]
    assert [axes.texts[0].get_text() for axes in shown] == ["AP 0.700", "undefined", "undefined", "AP 0.700"]
    assert shown[0].lines[0].get_ydata() == [0.4, 0.4]  # chance
    assert shown[0].lines[1].get_xydata().tolist() == curves[0].tolist()


def test_numbers_are_points_beside_the_mean_and_the_bias():
    true, predicted = np.array([1.0, 3.0]), np.array([2.0, 3.0])
    axes = predicted_against_true(true, predicted, mean=2.5, name="age").axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[1, 2], [3, 3]]
    assert axes.lines[1].get_ydata() == [2.5, 2.5]
    axes = residuals_against_predicted(true, predicted, name="age").axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[2, 1], [3, 0]]
    assert axes.lines[1].get_ydata() == [0.5, 0.5]


def test_outlines_lie_on_the_edge_of_their_masks_and_leave_the_image_alone_elsewhere():
    image = np.full((1, 10, 8), 50, np.uint8)
    true, found = np.zeros((10, 8), bool), np.zeros((10, 8), bool)
    true[2:6, 0:4] = True  # at the border of the image
    found[7:9, 5:8] = True
    picture = np.asarray(outlined(image, true, found, side=40))
    assert picture.shape == (50, 40, 3)
    green, orange = ((picture == colour).all(axis=2) for colour in ((60, 220, 90), (255, 140, 40)))
    enlarged = true.repeat(5, axis=0).repeat(5, axis=1)
    assert not (green & ~enlarged).any()
    assert green[10:30, 0].all()
    assert not green[15:25, 5:15].any()
    assert orange[35, 25:40].all()
    assert (picture[~green & ~orange] == 50).all()


@pytest.mark.parametrize("name", TASKS)
def test_tensorboard_receives_the_figures_of_every_task(name):
    classes = ["a", "b"][: 1 if name in ("regression", "segmentation") else 2]
    task = build_task(
        name, classes, ["CT"] * len(classes), **({"mean": 0.0, "std": 1.0} if name == "regression" else {})
    )
    outputs = torch.randn(
        (24, 2, 4, 4) if task.dense else (24, task.num_outputs), generator=torch.Generator().manual_seed(0)
    )
    targets = {
        "multilabel": (torch.arange(48).view(24, 2) % 3 == 0).float(),
        "regression": torch.arange(24.0) / 12 - 1,
        "segmentation": (torch.arange(24 * 16).view(24, 4, 4) % 3 == 0).long(),
    }.get(name, torch.arange(24) % 2)
    metric = task.build_metric()
    metric.update(outputs, targets)
    figures = {}
    tracker = SimpleNamespace(
        enabled=True,
        log=lambda *_, **__: None,
        log_figure=lambda tag, figure, **_: figures.update({tag: figure}),
        log_reliability=lambda *_, **__: None,
        log_confusion=lambda *_, **__: None,
    )
    evaluation = Evaluation({key: float(value) for key, value in metric.compute().items()}, metric.tables())
    RunLog(tracker, task).epoch({"val": evaluation}, values={}, soft_labels=None, images_seen=1, epoch=1)
    drawn = {
        "multiclass": ["reliability"],
        "binary": ["reliability", "roc", "precision_recall"],
        "multilabel": ["reliability", "labels", "precision_recall"],
        "regression": ["residuals"],
        "segmentation": ["reliability", "overlap"],
    }
    assert list(figures) == [f"val/{figure}" for figure in drawn[name]]
    assert all(figure.axes for figure in figures.values())
