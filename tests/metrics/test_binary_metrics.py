import math

import pytest
import torch
from metrics.cases import compute
from sklearn.metrics import average_precision_score, brier_score_loss, recall_score, roc_auc_score

from ols.metrics.binary import BinaryMetrics
from ols.metrics.classification import ClassificationMetrics


def _case(count: int = 211) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(count, generator=generator) < 0.3).long()
    logits = torch.randn(count, 2, generator=generator)
    logits[:, 1] += target
    return logits, target


def test_results_agree_with_scikit_learn_over_uneven_batches():
    logits, target = _case()
    metrics = BinaryMetrics()
    for part in torch.arange(len(target)).split([1, 10, 200]):
        metrics.update(logits[part], target[part])
    found = {name: float(value) for name, value in metrics.compute().items()}
    probability, predicted, true = logits.double().softmax(1)[:, 1].numpy(), logits.argmax(1).numpy(), target.numpy()
    assert found["auc"] == pytest.approx(roc_auc_score(true, probability), abs=1e-12)
    assert found["auc_low"] < found["auc"] < found["auc_high"]
    assert found["average_precision"] == pytest.approx(average_precision_score(true, probability), abs=1e-12)
    assert found["brier_positive"] == pytest.approx(brier_score_loss(true, probability), abs=1e-6)
    assert found["sensitivity"] == pytest.approx(recall_score(true, predicted))
    assert found["specificity"] == pytest.approx(recall_score(true, predicted, pos_label=0))
    assert (found["positives"], found["negatives"]) == (true.sum(), (1 - true).sum())


def test_it_reports_all_else_that_every_classifier_does():
    found, every = (compute(metric, *_case()) for metric in (BinaryMetrics(), ClassificationMetrics(2)))
    del every["top5"]  # of two classes it is always 1
    assert {name: found[name] for name in every} == pytest.approx(every, nan_ok=True)
    assert "top5" not in found


def test_a_temperature_changes_no_order_even_where_probabilities_are_equal_in_float32():
    logits = torch.tensor([[0.0, 40.0], [0.0, 41.0], [0.0, 42.0], [0.0, 43.0]])
    target = torch.tensor([0, 1, 0, 1])
    assert logits.softmax(1)[:, 1].unique().numel() == 1
    for scale in (1.0, 0.1, 100.0):
        assert compute(BinaryMetrics(), scale * logits, target)["auc"] == pytest.approx(3 / 4)


def test_a_row_that_is_not_finite_is_ranked_as_wrong_as_can_be():
    logits = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, torch.nan], [torch.inf, 0.0]])
    found = compute(BinaryMetrics(), logits, torch.tensor([0, 1, 1, 0]))
    assert found["auc"] == pytest.approx(1 / 4)  # of four pairs, the two finite rows are in order
    assert (found["sensitivity"], found["specificity"]) == (0.5, 0.0)
    assert (found["count"], found["nonfinite"]) == (2, 2)


def test_without_a_positive_what_needs_one_is_nan_and_the_rest_is_not():
    found = compute(BinaryMetrics(), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    for name in ("auc", "auc_low", "auc_high", "average_precision", "sensitivity"):
        assert math.isnan(found[name]), name
    assert (found["positives"], found["negatives"], found["specificity"], found["top1"]) == (0, 2, 0.5, 0.5)


def test_a_reset_forgets_every_score():
    logits, target = _case()
    metrics = BinaryMetrics()
    metrics.update(logits[:50], 1 - target[:50])
    metrics.reset()
    metrics.update(logits, target)
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert found == pytest.approx(compute(BinaryMetrics(), logits, target), nan_ok=True)
    roc = metrics.tables()["roc"]
    assert roc[0].tolist() == [0, 0]
    assert roc[-1].tolist() == [1, 1]
    assert float(torch.trapezoid(roc[:, 1], roc[:, 0])) == pytest.approx(found["auc"])


def test_logits_of_three_classes_are_refused():
    with pytest.raises(ValueError, match=r"expected logits \[B, 2\] and target \[B\], got \[4, 3\] and \[4\]"):
        BinaryMetrics().update(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))
