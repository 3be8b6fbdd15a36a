import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    top_k_accuracy_score,
)

from ols.metrics import CalibrationHistogram, classification_metrics


def _random(samples=500, classes=7, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(samples, classes, generator=generator)
    return logits, torch.randint(0, classes - 1, (samples,), generator=generator)  # the last class is absent


def test_the_reported_set_agrees_with_scikit_learn_over_uneven_batches():
    logits, target = _random()
    metrics = classification_metrics(7)
    for part in torch.arange(500).split([1, 199, 300]):
        metrics.update(logits[part], target[part])
    found = {name: float(value) for name, value in metrics.compute().items()}
    probs, predicted, labels = logits.double().softmax(1).numpy(), logits.argmax(1).numpy(), list(range(6))
    target = target.numpy()
    assert found["top1"] == pytest.approx(accuracy_score(target, predicted), abs=1e-7)
    assert found["top5"] == pytest.approx(top_k_accuracy_score(target, probs, k=5, labels=range(7)), abs=1e-7)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        balanced = balanced_accuracy_score(target, predicted)
    assert found["balanced_accuracy"] == pytest.approx(balanced, abs=1e-12)
    assert found["macro_f1"] == pytest.approx(f1_score(target, predicted, labels=labels, average="macro"), abs=1e-12)
    assert found["nll"] == pytest.approx(log_loss(target, probs, labels=range(7)), abs=1e-12)
    assert (found["absent_classes"], found["count"], found["nonfinite"]) == (1, 500, 0)


def test_top5_of_three_classes_is_top3():
    metrics = classification_metrics(3)
    metrics.update(torch.randn(10, 3), torch.randint(3, (10,)))
    assert float(metrics.compute()["top5"]) == 1


def _ece_by_samples(confidence, correct, bins=15):
    """The textbook's loop over bins (Guo et al. 2017, equation 3), with bins (m - 1) / M < confidence <= m / M."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 30.0])
def test_ece_is_the_textbooks(scale):
    logits, target = _random(2000, scale=scale)
    histogram = CalibrationHistogram()
    histogram.update(logits, target)
    probs = logits.double().softmax(1).numpy()
    expected = _ece_by_samples(probs.max(1), (probs.argmax(1) == target.numpy()).astype(float))
    assert float(histogram.compute()["ece"]) == pytest.approx(expected, abs=1e-12)


def test_ece_by_pencil_where_confidence_is_exactly_one():
    """Four samples of confidence 1, one of them right, and one of 0.55, which is wrong: (4 * 0.75 + 0.55) / 5."""
    logits = torch.tensor([[200.0, 0]] * 4 + [[np.log(0.55 / 0.45), 0]], dtype=torch.float64)
    histogram = CalibrationHistogram()
    histogram.update(logits, torch.tensor([0, 1, 1, 1, 1]))
    assert float(histogram.compute()["ece"]) == pytest.approx((4 * 0.75 + 0.55) / 5, abs=1e-12)
    reliability = histogram.reliability()
    assert reliability[-1].tolist() == [4, 1, 0.25]
    assert reliability[8].tolist() == pytest.approx([1, 0.55, 0])  # 8 / 15 < 0.55 <= 9 / 15
    assert reliability[0].isnan().tolist() == [False, True, True]


def test_rows_that_are_not_finite_are_counted_and_poison_nothing():
    logits, target = _random(60)
    broken = logits.clone()
    broken[3, 2], broken[10, 0], broken[11] = torch.nan, torch.inf, -torch.inf
    found, expected = CalibrationHistogram(), CalibrationHistogram()
    found.update(broken, target)
    keep = torch.ones(60, dtype=torch.bool).index_fill(0, torch.tensor([3, 10, 11]), False)
    expected.update(logits[keep], target[keep])
    result, reference = found.compute(), expected.compute()
    assert (int(result["count"]), int(result["nonfinite"])) == (57, 3)
    assert float(result["ece"]) == pytest.approx(float(reference["ece"]), abs=1e-12)
    assert float(result["nll"]) == pytest.approx(float(reference["nll"]), abs=1e-12)


def test_logits_are_logits_even_where_they_lie_in_0_1():
    logits = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    histogram = CalibrationHistogram()
    histogram.update(logits, torch.tensor([0, 1]))
    count, confidence, _ = histogram.reliability()[logits.softmax(1).max(1).values.mul(15).ceil().long() - 1].T
    assert confidence.tolist() == pytest.approx(torch.sigmoid(torch.tensor([0.8, 0.6])).tolist(), abs=1e-6)
    assert count.tolist() == [1, 1]


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"expected logits \[B, K\] and target \[B\], got \[4, 3\] and \[4, 1\]"):
        CalibrationHistogram().update(torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.long))


def test_state_stays_float64_whatever_the_module_is_cast_to():
    histogram = CalibrationHistogram().half()
    assert histogram.bins.dtype == torch.float64
    assert histogram.bins.numel() * 8 == 90 * 1024
