"""Labels of every integer type and numbers of NumPy, in every metric, measure and scaling."""

import copy

import numpy as np
import pytest
import torch
from metrics.cases import drawn_case

from ols.metrics.auc import sensitivity_at_specificity
from ols.metrics.binary import BinaryMetrics
from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.classification import ClassificationMetrics
from ols.metrics.embeddings import embedding_metrics, tsne_coordinates
from ols.metrics.posterior import posterior_calibration
from ols.metrics.resampling import bootstrap_interval, resample, sign_flip_floor, sign_flip_test
from ols.metrics.scaling import TemperatureScaling, VectorScaling
from ols.metrics.selective import is_correct, normalized_maximum_logit, selective_metrics
from ols.metrics.weighted import WEIGHTED, weighted_measures


@pytest.fixture(autouse=True)
def _one_thread():
    """Waiting for a second thread on a busy machine costs most of the time of so small tensors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


INTEGERS = [
    torch.bool,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
]


def _streamed(metric, logits, labels):
    metric.update(logits[:100], labels[:100])
    alone = metric(logits[100:], labels[100:])
    tables = metric.tables() if hasattr(metric, "tables") else {}
    return [alone, metric.compute(), tables]


def _vector_scaling(logits, labels):
    scaling = VectorScaling().fit(logits, labels)
    return [scaling.weight, scaling.bias]


def _temperature_scaling(logits, labels):
    scaling = TemperatureScaling().fit(logits, labels)
    return [scaling.temperature, *scaling.interval]


def _weighted(logits, labels):
    counts = np.ones((1, len(labels)))
    return [measure(counts) for measure in weighted_measures(logits, labels, list(WEIGHTED)).values()]


# Whatever takes labels, of two classes, which is all that a boolean can say.
TAKE_LABELS = {
    "CalibrationHistogram": lambda x, y: _streamed(CalibrationHistogram(2), x, y),
    "CalibrationHistogram, classwise": lambda x, y: _streamed(CalibrationHistogram(2, classwise=True), x, y),
    "ClassificationMetrics": lambda x, y: _streamed(ClassificationMetrics(2), x, y),
    "ClassificationMetrics, classwise": lambda x, y: _streamed(ClassificationMetrics(2, classwise=True), x, y),
    "BinaryMetrics": lambda x, y: _streamed(BinaryMetrics(), x, y),
    "posterior": lambda x, y: posterior_calibration(x, torch.tensor([[0.9, 0.1], [0.3, 0.7]]), latent=y),
    "selective": lambda x, y: selective_metrics(x.softmax(1).amax(1), is_correct(x, y)),
    "embeddings": lambda x, y: embedding_metrics(x, y),
    "weighted": _weighted,
    "temperature": _temperature_scaling,
    "vector": _vector_scaling,
}


def test_labels_of_every_integer_type_give_the_same_results_everywhere():
    logits, labels = drawn_case(150, classes=2, temperature=1.5)
    cases = 0
    for name, measure in TAKE_LABELS.items():
        expected = measure(logits, labels)
        for kind in INTEGERS:
            found = measure(logits, labels.to(kind))
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True, msg=f"{name} of {kind}")
            cases += 1
    assert cases == 11 * 9


@pytest.mark.parametrize("name", TAKE_LABELS)
def test_labels_that_are_no_integers_are_refused(name):
    logits, labels = drawn_case(150, classes=2)
    for kind in (torch.float32, torch.float16, torch.complex64):
        with pytest.raises(ValueError, match=rf"(target|targets|latent) must hold class indices, got {kind}"):
            TAKE_LABELS[name](logits, labels.to(kind))


def test_of_many_classes_the_metrics_take_short_labels_too():
    """Where a type is used as an index it must reach beyond itself: 200 classes have 40,200 cells."""
    logits, labels = drawn_case(300, classes=200)
    for metric in (CalibrationHistogram, ClassificationMetrics):
        expected, found = metric(200), metric(200)
        expected.update(logits, labels)
        found.update(logits, labels.to(torch.uint8))
        torch.testing.assert_close(found.compute(), expected.compute(), rtol=0, atol=0, equal_nan=True)


WHOLE = [np.int64, np.int32, np.uint8, np.asarray, torch.tensor]
REAL = [np.float64, np.float32, np.float16, np.longdouble, np.asarray, torch.tensor]


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("flag", [np.bool_, np.asarray, torch.tensor])
@pytest.mark.parametrize("metric", [CalibrationHistogram, ClassificationMetrics])
def test_numpys_numbers_become_pythons_in_a_metric(metric, whole, flag):
    found, expected = copy.deepcopy(metric(whole(3), classwise=flag(True))), metric(3, classwise=True)
    assert type(found.num_classes) is int
    for one, other in zip(found.modules(), expected.modules(), strict=True):
        assert repr(one) == repr(other)
        for name, value in vars(other).items():
            if isinstance(value, bool | int | float):
                assert type(vars(one)[name]) is type(value), name
    logits, labels = drawn_case(50, classes=3)
    for one in (found, expected):
        one.update(logits, labels)
    torch.testing.assert_close(found.compute(), expected.compute(), rtol=0, atol=0, equal_nan=True)


LOGITS, LABELS = drawn_case(40, classes=3)
SCORES = LOGITS[:, 0].double().numpy()
POSITIVE = (LABELS == 0).numpy()
# Of each function, each number it takes: the call, a value that half precision holds, and what is no such number.
NUMBERS = {
    "p": (lambda p: normalized_maximum_logit(LOGITS, p=p), 2.5),
    "specificity": (lambda s: sensitivity_at_specificity(SCORES, POSITIVE, s), 0.75),
    "perplexity": (lambda p: tsne_coordinates(LOGITS[:12], perplexity=p)[1], 2.5),
    "level": (lambda level: bootstrap_interval(0.5, np.arange(100.0), level=level)[0], 0.5),
    "neighbours": (lambda n: embedding_metrics(LOGITS, LABELS, neighbours=n), 4),
    "seed": (lambda s: resample(lambda counts: counts @ np.arange(9), 9, resamples=5, seed=s), 3),
    "max_samples": (lambda n: tsne_coordinates(LOGITS, max_samples=n)[0], 9),
    "num_samples": (lambda n: resample(lambda counts: counts.sum(1), n, resamples=5, seed=0), 7),
    "resamples": (lambda n: resample(lambda counts: counts @ np.arange(9), 9, resamples=n, seed=0), 7),
    "draws": (lambda n: sign_flip_test(np.arange(-5.0, 9.0), draws=n), 100),
    "pairs": (sign_flip_floor, 5),
    "num_classes": (lambda n: ClassificationMetrics(n).num_classes, 3),
    "classwise": (lambda flag: CalibrationHistogram(3, classwise=flag).classwise, True),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numpys_numbers_do_what_pythons_do_and_others_are_refused_by_name(name):
    call, value = NUMBERS[name]
    kinds = {bool: [np.bool_, np.asarray, torch.tensor], int: WHOLE, float: REAL}[type(value)]
    expected = call(value)
    for kind in kinds:
        torch.testing.assert_close(call(kind(value)), expected, rtol=0, atol=0, equal_nan=True)
    wrong = ["3", None, np.array([1, 2]), np.complex64(1), float("nan")]
    wrong += {bool: [1, np.int64(0)], int: [2.5, np.float32(3), True, np.bool_(True)], float: [True, np.bool_(True)]}[
        type(value)
    ]
    for other in wrong:
        with pytest.raises(ValueError, match=rf"{name} must be (a whole number|a number|true or false), got "):
            call(other)


def test_the_number_of_classes_may_stay_unknown_to_a_histogram_alone():
    assert CalibrationHistogram().num_classes is None
    with pytest.raises(ValueError, match="num_classes must be a whole number, got None"):
        ClassificationMetrics(None)
