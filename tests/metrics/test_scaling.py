import numpy as np
import pytest
import torch
import torch.nn.functional as F
from metrics.cases import drawn_case
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression

from ols.metrics.scaling import TemperatureScaling, VectorScaling


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_the_temperature_is_the_one_of_a_scalar_search(temperature, unit):
    logits, target = drawn_case(1000, temperature=temperature)
    found = TemperatureScaling().fit(logits * unit, target)
    z = logits.double()
    best = minimize_scalar(
        lambda log_t: float(F.cross_entropy(z / np.exp(log_t), target)),
        bounds=(-4, 4),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert found.temperature / unit == pytest.approx(np.exp(best.x), rel=1e-5)
    torch.testing.assert_close(found(logits * unit), logits * unit / found.temperature)


def test_two_classes_agree_with_scikit_learns_logistic_regression():
    """Without intercept, on the difference of the logits, its coefficient is 1 / T."""
    logits, target = drawn_case(2000, classes=2, temperature=1.7)
    regression = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10)
    regression.fit((logits[:, 1:] - logits[:, :1]).double().numpy(), target.numpy())
    assert TemperatureScaling().fit(logits, target).temperature == pytest.approx(1 / regression.coef_.item(), rel=1e-5)


def test_the_interval_agrees_with_a_bootstrap_and_holds_the_truth():
    """Where the scaled model is wrong too: one class in four of the targets is drawn anew."""
    logits, target = drawn_case(1500, temperature=2.0)
    generator = torch.Generator().manual_seed(1)
    anew = torch.rand(1500, generator=generator) < 0.25
    target[anew] = torch.randint(10, (int(anew.sum()),), generator=generator)
    found = TemperatureScaling().fit(logits, target)
    parts = [torch.randint(1500, (1500,), generator=generator) for _ in range(200)]
    drawn = [TemperatureScaling().fit(logits[part], target[part]).temperature for part in parts]
    spread = np.std(np.log(drawn)) * 1.96
    assert np.log(found.interval[1] / found.temperature) == pytest.approx(spread, rel=0.15)
    held = 0
    for seed in range(60):
        low, high = TemperatureScaling().fit(*drawn_case(500, seed=seed, temperature=2.0)).interval
        held += low <= 2.0 <= high
    assert held >= 53  # of 57 expected


def test_it_says_when_no_temperature_is_best():
    logits, target = drawn_case(50)
    with pytest.raises(ValueError, match="every one of 50 targets has the highest logit: the NLL falls as T goes to 0"):
        TemperatureScaling().fit(logits, logits.argmax(1))
    with pytest.raises(ValueError, match="the NLL falls as T goes to infinity"):
        TemperatureScaling().fit(logits, logits.argmin(1))
    with pytest.raises(ValueError, match="the logits tell nothing of the targets"):
        TemperatureScaling().fit(torch.arange(5.0)[:, None].expand(5, 3), torch.tensor([0, 1, 2, 0, 1]))
    logits[7, 3] = torch.nan
    for scaling in (TemperatureScaling(), VectorScaling()):
        with pytest.raises(ValueError, match="1 of 50 rows have non-finite logits"):
            scaling.fit(logits, target)
        with pytest.raises(
            ValueError, match=r"expected logits \[N, K\] of two classes or more .* got \[4, 1\] and \[4\]"
        ):
            scaling.fit(torch.zeros(4, 1), torch.zeros(4, dtype=torch.long))


def test_a_single_error_bounds_the_temperature():
    logits, _ = drawn_case(50)
    target = logits.argmax(1)
    target[0] = logits[0].argsort()[-2]
    found = TemperatureScaling().fit(logits, target)
    assert 0 < found.interval[0] < found.temperature < found.interval[1]


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_vector_scaling_of_two_classes_is_scikit_learns_logistic_regression(unit):
    logits, target = drawn_case(1500, classes=2, temperature=1.5)
    logits = logits * unit
    found = VectorScaling().fit(logits, target)
    regression = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(logits.double().numpy() / unit, target)
    expected = regression.predict_proba(logits.double().numpy() / unit)
    assert found(logits.double()).softmax(1).numpy() == pytest.approx(expected, abs=1e-5)
    assert float(found.bias.mean()) == pytest.approx(0, abs=1e-12)


def test_vector_scaling_undoes_what_was_done_to_each_class():
    logits, target = drawn_case(40_000, classes=4)
    weight, bias = torch.tensor([1.0, 2.0, 0.5, 1.5]), torch.tensor([0.5, -1.0, 0.0, 0.5])
    found = VectorScaling().fit((logits - bias) / weight, target)
    assert found.weight.numpy() == pytest.approx(weight.numpy(), rel=0.06)
    assert found.bias.numpy() == pytest.approx(bias.numpy(), abs=0.06)
    assert found(logits).dtype == torch.float32


def test_vector_scaling_names_classes_without_samples():
    logits, target = drawn_case(100, classes=5)
    with pytest.raises(ValueError, match="needs samples of every class; none of class 2, 4"):
        VectorScaling().fit(logits, target.masked_fill((target == 2) | (target == 4), 0))
