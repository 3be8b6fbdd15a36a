import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from ols.evaluation.agreement import agreement, agreement_of_predictions
from ols.evaluation.predictions import Predictions


def test_agreement_by_hand():
    # accuracies 3/4 and 1/2: chance 3/8 + 1/8
    found = agreement([1, 1, 1, 0], [1, 1, 0, 0])
    assert (found.observed, found.chance) == (0.75, 0.5)
    assert found.kappa == pytest.approx(0.5)


def test_kappa_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    first = rng.random(300) < 0.8
    second = np.where(rng.random(300) < 0.5, first, rng.random(300) < 0.6)
    found = agreement(first, second)
    assert found.kappa == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    assert found.low < found.kappa < found.high


def test_two_good_models_with_independent_errors_agree_often_and_by_chance():
    rng = np.random.default_rng(0)
    found = agreement(rng.random(20_000) < 0.95, rng.random(20_000) < 0.9)
    assert found.observed > 0.85
    assert found.low < 0 < found.high


def test_several_images_of_a_patient_widen_the_interval():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(50), 8)
    first, second = (rng.random((2, 50)) < 0.7)[:, patients]
    alone, together = agreement(first, second), agreement(first, second, patients=patients)
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert together.observed_high - together.observed_low > 2 * (alone.observed_high - alone.observed_low)
    assert together.observed_low < together.observed < together.observed_high
    assert (alone.images, alone.patients, together.patients) == (400, 400, 50)


def test_models_that_are_always_right_have_no_kappa():
    assert np.isnan(agreement([1, 1], [1, 1]).kappa)
    with pytest.raises(ValueError, match="of the same images"):
        agreement([1], [1, 0])


def _predictions(predicted, targets=(0, 1, 1, 0), names="abcd", **others):
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), 2).double()
    return Predictions(
        **{
            "logits": logits,
            "targets": torch.tensor(targets),
            "indices": torch.arange(4),
            "sample_ids": list(names),
            "patients": list("xxyz"),
            "classes": ["healthy", "ill"],
            "groups": ["g", "g"],
            "task": "binary",
        }
        | others
    )


def test_saved_predictions_are_paired_by_the_name_of_the_image():
    first = _predictions([0, 1, 0, 0])  # wrong on c
    second = _predictions([0, 1, 1, 0], (1, 1, 0, 0), "cbad")  # wrong on c, a
    found = agreement_of_predictions(first, second)
    assert found[:3] == pytest.approx(agreement([1, 1, 0, 1], [0, 1, 0, 1])[:3])
    assert (found.images, found.patients) == (4, 3)


def test_predictions_that_cannot_be_compared_are_refused():
    first = _predictions([0, 1, 0, 0])
    numbers = _predictions([0, 1, 0, 0], task="regression", targets=(0.1, 0.2, 0.3, 0.4))
    cases = {
        "2 are in one of both, such as c": _predictions([0, 1, 0, 0], names="abxd"),
        "c is 'ill' in one of both, 'healthy' in the other": _predictions([0, 1, 0, 0], (0, 1, 0, 0)),
        "a regression task has no class": numbers,
    }
    for message, second in cases.items():
        with pytest.raises(ValueError, match=message):
            agreement_of_predictions(first, second)


def test_intervals_of_near_perfect_agreement_end_at_1():
    first = np.arange(40) > 1
    found = agreement(first, np.where(np.arange(40) == 5, ~first, first))
    assert found.observed < found.observed_high == 1
    assert found.kappa < found.high <= 1
