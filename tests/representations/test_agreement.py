import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from ols.representations.agreement import agreement


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


def test_models_that_are_always_right_have_no_kappa():
    assert np.isnan(agreement([1, 1], [1, 1]).kappa)
    with pytest.raises(ValueError, match="of the same images"):
        agreement([1], [1, 0])
