import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, roc_auc_score, top_k_accuracy_score

from ols.metrics.classification import ClassificationMetrics
from ols.metrics.selective import is_correct, maximum_probability, selective_metrics
from ols.metrics.weighted import WEIGHTED, weighted_measures

K = 7
OF_MANY_CLASSES = [name for name in WEIGHTED if name != "auc"]


def _predictions(num_classes: int = K, images: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of an over-confident model, float64, and targets."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(num_classes, (images,), generator=generator)
    logits = torch.randn(images, num_classes, generator=generator, dtype=torch.float64)
    return 3 * (logits + 1.5 * torch.eye(num_classes)[targets]), targets


def _measure(logits, targets, names=OF_MANY_CLASSES, counts=None):
    counts = np.ones((1, len(targets))) if counts is None else np.asarray([counts], np.float64)
    return {name: measure(counts)[0] for name, measure in weighted_measures(logits, targets, names).items()}


def test_images_that_count_once_have_the_measures_of_other_libraries():
    logits, targets = _predictions()
    found, probs = _measure(logits, targets), logits.softmax(1).numpy()
    predicted = probs.argmax(1)
    assert found["top1"] == pytest.approx((predicted == targets.numpy()).mean())
    assert found["top5"] == pytest.approx(top_k_accuracy_score(targets, logits, k=5))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(targets, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(targets, predicted, average="macro"))
    assert found["macro_auc"] == pytest.approx(roc_auc_score(targets, probs, multi_class="ovr"))
    assert found["nll"] == pytest.approx(log_loss(targets, probs))
    wrong = predicted != targets.numpy()
    order = np.argsort(-probs.max(1))
    assert found["aurc"] == pytest.approx(np.mean([wrong[order[:k]].mean() for k in range(1, 601)]))


def test_images_that_count_once_have_the_measures_of_the_streaming_metrics():
    logits, targets = _predictions()
    metric = ClassificationMetrics(K, macro_auc=True)
    for start in range(0, 600, 250):
        metric.update(logits[start : start + 250], targets[start : start + 250])
    streamed = {name: float(value) for name, value in metric.compute().items()}
    streamed |= selective_metrics(maximum_probability(logits), is_correct(logits, targets))
    found = _measure(logits, targets)
    assert len(found) == 8
    for name, value in found.items():
        assert value == pytest.approx(streamed[name], rel=1e-6), name


@pytest.mark.parametrize("num_classes", [K, 2])
def test_an_image_that_counts_three_times_is_one_that_is_there_three_times(num_classes):
    logits, targets = _predictions(num_classes, images=60)
    logits = logits.round()  # so that there are equal ones
    names = OF_MANY_CLASSES if num_classes > 2 else list(WEIGHTED)
    allowed = (targets != num_classes - 1).double().numpy() if num_classes > 2 else np.ones(60)  # lacks a class
    counts = np.random.default_rng(0).multinomial(60, allowed / allowed.sum())
    repeated = torch.from_numpy(np.repeat(np.arange(60), counts))
    for name, value in _measure(logits, targets, names, counts).items():
        assert value == pytest.approx(_measure(logits[repeated], targets[repeated], names)[name]), name


def test_the_auc_of_a_weighted_sample_is_that_of_scikit_learn_and_missing_without_one_of_the_classes():
    logits, targets = _predictions(2, images=80)
    logits = logits.round()
    counts = np.random.default_rng(1).multinomial(80, np.full(80, 1 / 80), size=5).astype(np.float64)
    found = weighted_measures(logits, targets, ["auc"])["auc"](counts)
    score = (logits[:, 1] - logits[:, 0]).numpy()
    expected = [roc_auc_score(targets, score, sample_weight=row) for row in counts]
    np.testing.assert_allclose(found, expected)
    assert np.isnan(_measure(logits, targets, ["auc"], (targets == 0).double().numpy())["auc"])
    with pytest.raises(ValueError, match="auc is a measure of two classes, got 7"):
        weighted_measures(*_predictions(), ["auc"])


def test_equal_confidences_are_taken_in_random_order():
    logits = torch.tensor([[3.0, 0], [1, 0], [1, 0], [1, 0], [0.5, 0]])
    targets = torch.tensor([0, 0, 1, 0, 1])
    wrong = targets.numpy() == 1
    orders = [[0, *middle, 4] for middle in itertools.permutations((1, 2, 3))]
    expected = np.mean([[wrong[order[:k]].mean() for k in range(1, 6)] for order in orders])
    assert _measure(logits, targets, ["aurc"])["aurc"] == pytest.approx(expected)


def test_confidences_of_exactly_one_are_in_the_last_bin():
    logits = torch.tensor([[1000.0, 0]] * 4)
    assert _measure(logits, torch.tensor([0, 0, 0, 1]), ["ece"])["ece"] == pytest.approx(0.25)


def test_an_unknown_measure_is_refused_by_name():
    with pytest.raises(ValueError, match="no measure of weighted images 'recall'; known: top1"):
        weighted_measures(*_predictions(), ["recall"])
