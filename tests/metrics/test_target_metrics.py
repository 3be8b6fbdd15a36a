"""Metrics of labels, numbers and masks, against scikit-learn and pencil."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from ols.metrics.multilabel import MultilabelMetrics
from ols.metrics.regression import RegressionMetrics
from ols.metrics.segmentation import SegmentationMetrics, found_foreground, order_by_dice


def _labels(count: int = 90):
    rng = np.random.default_rng(0)
    target = (rng.random((count, 3)) < [0.5, 0.3, 0.02]).astype(float)
    target[rng.random((count, 3)) < 0.2] = np.nan
    outputs = np.nan_to_num(target) + rng.normal(0, 1, (count, 3))
    return torch.tensor(outputs), torch.tensor(target)


def _fed(metric, outputs, target):
    for part in range(0, len(outputs), 32):
        metric.update(outputs[part : part + 32], target[part : part + 32])
    return metric


def test_each_label_is_measured_over_its_known_images_as_scikit_learn_does():
    outputs, target = _labels()
    metric = _fed(MultilabelMetrics(["a", "b", "rare"]), outputs, target)
    found, areas, precisions = metric.compute(), [], []
    for column, name in enumerate(["a", "b", "rare"]):
        known = ~target[:, column].isnan()
        truth, score = target[known, column], outputs[known, column]
        assert (found[f"known/{name}"], found[f"positives/{name}"]) == (known.sum(), truth.sum())
        areas.append(roc_auc_score(truth, score))
        precisions.append(average_precision_score(truth, score))
        assert float(found[f"auc/{name}"]) == pytest.approx(areas[-1])
    assert found["positives/rare"] < 10
    assert found["labels_in_mean"] == 2
    assert float(found["mean_auc"]) == pytest.approx(np.mean(areas[:2]))
    assert float(found["mean_average_precision"]) == pytest.approx(np.mean(precisions[:2]))
    known = ~target.isnan()
    assert float(found["nll"]) == pytest.approx(log_loss(target[known], outputs[known].sigmoid()))
    assert float(found["brier_positive"]) == pytest.approx(brier_score_loss(target[known], outputs[known].sigmoid()))
    assert (found["count"], found["nonfinite"]) == (90, 0)
    curve = metric.tables()["roc/a"]
    assert float(torch.trapezoid(curve[:, 1], curve[:, 0])) == pytest.approx(areas[0])


def test_a_label_that_nobody_knows_is_undefined_and_in_no_mean():
    outputs, target = _labels()
    target[:, 1] = math.nan
    found = _fed(MultilabelMetrics(["a", "b", "rare"]), outputs, target).compute()
    assert found["auc/b"].isnan()
    assert found["labels_in_mean"] == 1
    assert found["mean_auc"] == found["auc/a"]
    metric = MultilabelMetrics(["a"])
    metric.update(outputs[:, :1], target[:, 1:2])
    nothing = metric.compute()
    assert nothing["mean_auc"].isnan()
    assert nothing["nll"].isnan()
    assert nothing["count"] == 90


def test_outputs_that_are_no_numbers_are_counted_and_as_wrong_as_can_be():
    metric = MultilabelMetrics(["a"])
    metric.update(torch.tensor([[math.nan], [0.0], [1.0]]), torch.tensor([[1.0], [0.0], [1.0]]))
    found = metric.compute()
    assert (found["count"], found["nonfinite"], found["auc/a"]) == (2, 1, 0.5)


def test_errors_are_in_the_unit_of_the_target_as_scikit_learn_has_them():
    rng = np.random.default_rng(1)
    ages, outputs = rng.uniform(20, 90, 70), rng.normal(0, 1, 70)
    metric = _fed(RegressionMetrics(mean=50, std=20), torch.tensor(outputs)[:, None], torch.tensor(ages))
    found, predicted = metric.compute(), 50 + 20 * outputs
    errors = np.abs(predicted - ages)
    assert float(found["mae"]) == pytest.approx(mean_absolute_error(ages, predicted))
    assert float(found["rmse"]) == pytest.approx(np.sqrt(np.mean(errors**2)))
    assert float(found["r2"]) == pytest.approx(r2_score(ages, predicted))
    assert float(found["bias"]) == pytest.approx(np.mean(predicted - ages))
    assert float(found["mae_of_mean"]) == pytest.approx(np.abs(ages - 50).mean())
    half = 1.959964 * errors.std(ddof=1) / np.sqrt(70)
    assert float(found["mae_high"] - found["mae"]) == pytest.approx(half)
    assert metric.tables()["agreement"].sum() == found["count"] == 70


def test_a_target_that_does_not_vary_has_no_r2_and_a_nan_is_counted_apart():
    metric = RegressionMetrics(mean=3.0, std=1.0)
    metric.update(torch.tensor([[0.0], [1.0], [math.nan]]), torch.tensor([5.0, 5.0, 5.0]))
    found = metric.compute()
    assert found["r2"].isnan()
    assert (found["count"], found["nonfinite"], found["mae"]) == (2, 1, 1.5)


def _logits(predicted):
    return torch.nn.functional.one_hot(torch.tensor(predicted), 2).movedim(-1, 1).double() * 4


def test_dice_and_iou_by_pencil_with_empty_masks_apart():
    truth = torch.tensor([[[1, 1], [0, 0]], [[1, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]], dtype=torch.uint8)
    outputs = _logits([[[1, 0], [1, 0]], [[1, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 1], [0, 0]]])
    metric = _fed(SegmentationMetrics(2), outputs, truth)
    found = metric.compute()
    assert float(found["dice"]) == pytest.approx((0.5 + 1) / 2)
    assert float(found["iou"]) == pytest.approx((1 / 3 + 1) / 2)
    assert [float(found[f"dice_{end}"]) for end in ("q25", "median", "q75")] == pytest.approx([0.625, 0.75, 0.875])
    assert (found["empty_masks"], found["empty_found"], found["count"]) == (2, 0.5, 4)
    assert metric.tables()["overlaps"][:, 0].isnan().tolist() == [False, False, True, True]
    right = float((outputs.argmax(dim=1) == truth).double().mean())
    expected = -right * math.log(1 / (1 + math.exp(-4))) - (1 - right) * math.log(1 - 1 / (1 + math.exp(-4)))
    assert float(found["nll"]) == pytest.approx(expected)


def test_an_image_of_several_classes_has_the_mean_over_those_that_it_shows():
    truth = torch.tensor([[[1, 1, 2, 2]]])
    outputs = torch.nn.functional.one_hot(torch.tensor([[[1, 1, 2, 3]]]), 4).movedim(-1, 1).float()
    metric = SegmentationMetrics(4)
    metric.update(outputs, truth)
    assert float(metric.compute()["dice"]) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("kind", ["labels", "number", "mask"])
def test_two_halves_merged_give_the_whole(kind):
    rng = torch.Generator().manual_seed(2)
    build = {
        "labels": lambda: MultilabelMetrics(["a", "b"]),
        "number": RegressionMetrics,
        "mask": lambda: SegmentationMetrics(2),
    }[kind]
    shape = {"labels": (40, 2), "number": (40, 1), "mask": (40, 2, 3, 3)}[kind]
    outputs = torch.randn(shape, generator=rng)
    target = {
        "labels": torch.randint(0, 2, (40, 2), generator=rng).float(),
        "number": torch.randn(40, generator=rng),
        "mask": torch.randint(0, 2, (40, 3, 3), generator=rng),
    }[kind]
    whole, first, second = _fed(build(), outputs, target), build(), build()
    first.update(outputs[:13], target[:13])
    second.update(outputs[13:], target[13:])
    first.merge_state(second)
    if kind != "number":
        first.histogram.merge_state(second.histogram)
    expected, found = whole.compute(), first.compute()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, equal_nan=True, msg=name)


def test_images_are_ordered_by_dice_and_a_logit_that_is_no_number_finds_nothing():
    overlaps = torch.tensor([[0.5, 0.3], [torch.nan, torch.nan], [0.1, 0.05], [0.5, 0.3], [1.0, 1.0]])
    assert order_by_dice(overlaps) == [2, 0, 3, 4]
    logits = torch.tensor([[[0.0, 2.0]], [[1.0, 1.0]]])  # two classes, one row of two pixels
    assert found_foreground(logits).tolist() == [[True, False]]
    logits[0, 0, 0] = torch.nan
    assert found_foreground(logits).tolist() == [[False, False]]
