import pytest
import torch
from metrics.cases import compute, random_case
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    top_k_accuracy_score,
)
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.classification import ClassificationMetrics


def test_accuracies_agree_with_scikit_learn_over_uneven_batches():
    logits, target = random_case()
    metrics = ClassificationMetrics(7)
    for part in torch.arange(500).split([1, 199, 300]):
        metrics.update(logits[part], target[part])
    found = {name: float(value) for name, value in metrics.compute().items()}
    probs, predicted, labels = logits.double().softmax(1).numpy(), logits.argmax(1).numpy(), list(range(6))
    target = target.numpy()
    assert found["top1"] == pytest.approx(accuracy_score(target, predicted), abs=1e-12)
    assert found["top5"] == pytest.approx(top_k_accuracy_score(target, probs, k=5, labels=range(7)), abs=1e-12)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        balanced = balanced_accuracy_score(target, predicted)
    assert found["balanced_accuracy"] == pytest.approx(balanced, abs=1e-12)
    assert found["macro_f1"] == pytest.approx(f1_score(target, predicted, labels=labels, average="macro"), abs=1e-12)
    assert (found["absent_classes"], found["count"], found["nonfinite"]) == (1, 500, 0)


@pytest.mark.parametrize("classes", [1, 2, 3, 5])
def test_top5_of_few_classes_is_certain(classes):
    found = compute(ClassificationMetrics(classes), torch.randn(10, classes), torch.randint(classes, (10,)))
    assert found["top5"] == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_ties_are_argmax_for_top1_and_count_against_the_target_for_top5(dtype):
    """Of eight logits, the target's is one of the five, or of the six, that share the second place, or the highest."""
    logits = torch.zeros(4, 8, dtype=dtype)
    logits[0, :4] = torch.tensor([1, 0.5, 0.5, 0.5])  # the target, class 1, is reached by four
    logits[1, :6] = torch.tensor([1, 0.5, 0.5, 0.5, 0.5, 0.5])  # the target, class 1, is reached by six
    target = torch.tensor([1, 1, 0, 7])  # all of rows 2 and 3 are equal: argmax is class 0
    found = compute(ClassificationMetrics(8), logits, target)
    assert logits.argmax(1).tolist() == [0, 0, 0, 0]
    assert (found["top5"], found["top1"]) == (1 / 4, 1 / 4)


def test_a_row_that_is_not_finite_is_an_error_of_every_accuracy_and_no_part_of_calibration():
    logits, target = random_case(60)
    broken = logits.clone()
    broken[0, 2], broken[1, 0], broken[2], broken[3, target[3]] = torch.nan, torch.inf, -torch.inf, torch.inf
    keep = torch.arange(4, 60)
    found = compute(ClassificationMetrics(7), broken, target)
    finite = compute(ClassificationMetrics(7), logits[keep], target[keep])
    assert (found["count"], found["nonfinite"]) == (56, 4)
    assert found["top1"] == pytest.approx(finite["top1"] * 56 / 60)
    assert found["top5"] == pytest.approx(finite["top5"] * 56 / 60)
    predicted = logits.argmax(1)
    predicted[:4] = 7  # a class that no target has
    labels = list(range(6))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(target, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(target, predicted, labels=labels, average="macro"))
    for name in set(finite) - {"top1", "top5", "balanced_accuracy", "macro_f1", "nonfinite"}:
        assert found[name] == pytest.approx(finite[name], abs=1e-12, nan_ok=True), name


def _states(metrics) -> list[torch.Tensor]:
    return [getattr(part, name) for part in metrics.modules() for name in part._defaults]


def test_the_state_is_bounded_by_classes_and_bins():
    metrics = ClassificationMetrics(165, classwise=True)
    metrics.update(torch.randn(1000, 165), torch.randint(165, (1000,)))
    states = _states(metrics)
    assert len(states) == 6
    assert sum(state.nbytes for state in states) < 8 * (3840 * 3 + 165 * 166 + 165 * 15 + 200)


def test_two_halves_add_to_the_whole():
    logits, target = random_case()
    whole, first, second = (ClassificationMetrics(7, classwise=True) for _ in range(3))
    whole.update(logits, target)
    first.update(logits[:123], target[:123])
    second.update(logits[123:], target[123:])
    for one, other, both in zip(_states(first), _states(second), _states(whole), strict=True):
        torch.testing.assert_close(one + other, both)


def test_a_reset_forgets_the_parts_and_a_batch_is_measured_alone():
    logits, target = random_case()
    metrics = ClassificationMetrics(7)
    metrics.update(logits[:300], target[:300])
    batch = metrics(logits[300:], target[300:])
    alone = compute(ClassificationMetrics(7), logits[300:], target[300:])
    assert {name: float(value) for name, value in batch.items()} == pytest.approx(alone, nan_ok=True)
    whole = {name: float(value) for name, value in metrics.compute().items()}
    assert whole == pytest.approx(compute(ClassificationMetrics(7), logits, target), abs=1e-9, nan_ok=True)
    metrics.reset()
    metrics.update(logits[:300], target[:300])
    again = {name: float(value) for name, value in metrics.compute().items()}
    assert again == pytest.approx(compute(ClassificationMetrics(7), logits[:300], target[:300]), nan_ok=True)


def test_it_works_in_a_collection_beside_other_metrics():
    logits, target = random_case()
    collection = MetricCollection(
        {"accuracy": MulticlassAccuracy(7, average="micro"), "calibration": CalibrationHistogram()}
    )
    batch = collection(logits[:100], target[:100])
    collection.update(logits[100:], target[100:])
    alone = compute(CalibrationHistogram(), logits[:100], target[:100])
    assert float(batch["ece"]) == pytest.approx(alone["ece"], abs=1e-9)
    found = collection.compute()
    assert int(found["count"]) == 500
    assert float(found["accuracy"]) == pytest.approx(float((logits.argmax(1) == target).float().mean()))
    collection.reset()
    assert int(collection["calibration"].seen) == 0


def test_logits_that_need_gradients_are_left_as_they_are():
    logits, target = random_case()
    for dtype in (torch.float32, torch.float64):
        given = logits.to(dtype, copy=True).requires_grad_()
        compute(ClassificationMetrics(7), given, target)
        assert torch.equal(given.detach(), logits.to(dtype))


def test_wrong_shapes_and_sizes_are_named():
    with pytest.raises(ValueError, match=r"expected logits \[B, K\] and target \[B\], got \[4, 3\] and \[4, 1\]"):
        CalibrationHistogram().update(torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"expected logits \[B, 5\] and target \[B\], got \[4, 3\] and \[4\]"):
        ClassificationMetrics(5).update(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="num_classes must be positive, got 0"):
        ClassificationMetrics(0)
    with pytest.raises(ValueError, match="classwise needs num_classes"):
        CalibrationHistogram(classwise=True)


def test_state_stays_float64_whatever_the_module_is_cast_to():
    histogram = CalibrationHistogram().half()
    assert histogram.bins.dtype == torch.float64
    assert histogram.bins.numel() * 8 == 90 * 1024


def test_a_masked_class_is_one_that_is_not_there():
    logits, target = random_case(60)
    masked = torch.cat([logits, torch.full((60, 1), -torch.inf)], dim=1)
    found, without = (
        compute(ClassificationMetrics(8), masked, target),
        compute(ClassificationMetrics(7), logits, target),
    )
    without["absent_classes"] += 1
    assert found == pytest.approx(without, nan_ok=True)
    masked[0, target[0]] = -torch.inf
    found = compute(ClassificationMetrics(8), masked, target)
    assert found["nll"] == torch.inf
    assert (found["count"], found["nonfinite"]) == (60, 0)
