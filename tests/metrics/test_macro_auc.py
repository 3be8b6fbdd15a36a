"""The AUC of each class against the rest is scikit-learn's, in one pass or in batches; where undefined, it says so."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ols.metrics.auc import macro_auc
from ols.metrics.classification import ClassificationMetrics


def _logits(count: int = 90, classes: int = 4):
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator, dtype=torch.float64)
    return logits + torch.nn.functional.one_hot(targets, classes), targets


def test_batches_add_up_to_scikit_learns_one_against_the_rest():
    logits, targets = _logits()
    metric = ClassificationMetrics(4, macro_auc=True)
    for part in torch.arange(90).split(17):
        metric.update(logits[part], targets[part])
    expected = roc_auc_score(targets.numpy(), logits.softmax(1).numpy(), multi_class="ovr")
    assert float(metric.compute()["macro_auc"]) == pytest.approx(expected, abs=1e-12)
    metric.reset()
    metric.update(logits[:40], targets[:40])
    again = roc_auc_score(targets[:40].numpy(), logits[:40].softmax(1).numpy(), multi_class="ovr")
    assert float(metric.compute()["macro_auc"]) == pytest.approx(again, abs=1e-12)


def test_without_being_asked_no_scores_are_kept():
    logits, targets = _logits()
    metric = ClassificationMetrics(4)
    metric.update(logits, targets)
    assert "macro_auc" not in metric.compute()
    assert not hasattr(metric, "scores")


def test_a_class_that_does_not_occur_has_no_part_in_the_mean():
    logits, targets = _logits()
    few = targets != 3
    scores, left = logits[few].softmax(1).numpy(), targets[few].numpy()
    expected = np.mean([roc_auc_score(left == k, scores[:, k]) for k in range(3)])
    assert macro_auc(scores, left) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(macro_auc(scores, np.zeros(len(left))))


def test_a_row_that_is_no_number_is_as_wrong_as_can_be():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [np.nan, 0.5], [0.3, 0.7]])
    assert macro_auc(scores, [0, 0, 1, 1]) == 0.5  # each class: 2 of 4 pairs are in order
