import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from metrics.cases import drawn_case
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp
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


@pytest.mark.slow
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


def _bisected(logits, targets):
    """The temperature by bisection on the derivative of the NLL in 1 / T, row by row, over the classes that can be."""
    rows = [
        (row[np.isfinite(row)].astype(np.float64), float(row[target]))
        for row, target in zip(logits.numpy(), targets.tolist(), strict=True)
    ]

    def derivative(temperature):
        found = []
        for row, own in rows:
            weights = np.exp((row - row.max()) / temperature)
            found.append(math.fsum(weights / weights.sum() * (row - own)))
        return math.fsum(found)

    low, high = 1e-12, 1e12
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if derivative(middle) > 0 else (low, middle)
    return math.sqrt(low * high)


def _masked_case(masked, dtype=torch.float32):
    """Two classes in five cannot be, others in each row, as a mask of the anatomy gives them."""
    logits, targets = drawn_case(120, classes=5, temperature=1.6)
    generator = torch.Generator().manual_seed(2)
    order = torch.rand(120, 5, generator=generator).scatter_(1, targets[:, None], -1.0).argsort(1)
    return logits.to(dtype).scatter(1, order[:, 3:], masked), targets


@pytest.mark.parametrize(
    ("dtype", "masked"),
    [
        (torch.float32, -torch.inf),
        (torch.float64, -torch.inf),
        (torch.float16, -torch.inf),
        (torch.bfloat16, -torch.inf),
        (torch.float32, torch.finfo(torch.float32).min),
        (torch.float64, torch.finfo(torch.float64).min),
        (torch.float16, torch.finfo(torch.float16).min),
        (torch.bfloat16, torch.finfo(torch.bfloat16).min),
        (torch.float32, torch.finfo(torch.bfloat16).min),
        (torch.float32, -1e9),
        (torch.float32, -65504.0),
    ],
)
def test_a_masked_class_has_no_part_in_the_temperature(dtype, masked):
    logits, targets = _masked_case(masked, dtype)
    left_out = logits.double().masked_fill(logits.double() < -1e4, -torch.inf)
    found, expected = TemperatureScaling().fit(logits, targets), TemperatureScaling().fit(left_out, targets)
    assert found.temperature == pytest.approx(_bisected(left_out, targets), rel=1e-9)
    assert found.interval == pytest.approx(expected.interval, rel=1e-9)
    assert 0 < found.interval[0] < found.temperature < found.interval[1] < np.inf
    assert found(logits).softmax(1)[left_out.isneginf()].eq(0).all()


def test_a_class_that_is_masked_everywhere_is_as_if_it_were_not_there():
    logits, targets = drawn_case(300, classes=4, temperature=1.5)
    with_masked = torch.cat([logits, torch.full((300, 1), -torch.inf)], 1)
    narrow, wide = TemperatureScaling().fit(logits, targets), TemperatureScaling().fit(with_masked, targets)
    assert (wide.temperature, *wide.interval) == pytest.approx((narrow.temperature, *narrow.interval), rel=1e-12)
    narrow, wide = VectorScaling().fit(logits, targets), VectorScaling().fit(with_masked, targets)
    torch.testing.assert_close(wide.weight[:4], narrow.weight, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(wide.bias[:4], narrow.bias, rtol=1e-6, atol=1e-7)
    assert (wide.weight[4], wide.bias[4]) == (1, 0)
    torch.testing.assert_close(wide(with_masked).softmax(1)[:, :4], narrow(logits).softmax(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("masked", [-torch.inf, torch.finfo(torch.float32).min])
def test_vector_scaling_over_masked_classes_is_the_minimum_that_scipy_finds(masked):
    logits, targets = _masked_case(masked)
    z = logits.double().numpy()
    can_be, own = z > -1e30, targets.numpy()

    def nll(parameters):
        scaled = np.where(can_be, z * parameters[:5] + parameters[5:], -np.inf)
        return float(np.mean(logsumexp(scaled, axis=1) - scaled[np.arange(len(own)), own]))

    with np.errstate(over="ignore"):
        best = minimize(nll, np.concatenate([np.ones(5), np.zeros(5)]), method="BFGS", options={"gtol": 1e-7})
    found = VectorScaling().fit(logits, targets)
    assert nll(np.concatenate([found.weight.numpy(), found.bias.numpy()])) == pytest.approx(best.fun, abs=1e-9)
    assert found.weight.numpy() == pytest.approx(best.x[:5], abs=1e-3)
    assert torch.equal(found(logits) < -1e30, torch.from_numpy(~can_be))


@pytest.mark.parametrize("signal", [1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_a_weak_signal_has_the_temperature_of_bisection(signal, unit):
    """The NLL is nearly flat where T is 1,000: it differs from its value at infinity in the seventh digit."""
    _, targets = drawn_case(400, classes=3)
    other = torch.randn(400, 3, generator=torch.Generator().manual_seed(5)).double()
    other -= ((other.gather(1, targets[:, None]) - other.mean(1, keepdim=True)).mean()) * F.one_hot(targets, 3) * 1.5
    other += signal * F.one_hot(targets, 3)
    found = TemperatureScaling().fit(unit * other, targets)
    assert found.temperature == pytest.approx(_bisected(unit * other, targets), rel=1e-7)
    assert found.temperature / unit > 0.2 / signal


@pytest.mark.parametrize("gap", [1.0, 1e-3, 1e-6, 1e-9])
def test_data_that_one_error_keeps_from_separable_has_the_temperature_of_bisection(gap):
    logits, _ = drawn_case(60, classes=4)
    logits = logits.double()
    targets = logits.argmax(1)
    top, runner_up = logits[0].topk(2).indices
    logits[0, runner_up] = logits[0, top] - gap
    targets[0] = runner_up
    found = TemperatureScaling().fit(logits, targets)
    assert found.temperature == pytest.approx(_bisected(logits, targets), rel=1e-7)
    logits[0, runner_up] = logits[0, top]  # a tie is no error: the NLL falls to log 2 of this row as T goes to 0
    with pytest.raises(ValueError, match="every one of 60 targets has the highest logit"):
        TemperatureScaling().fit(logits, targets)


def test_vector_scaling_says_when_a_scaling_separates():
    logits, targets = drawn_case(200, classes=3, temperature=2.0)
    logits[:, 1] = torch.where(targets == 1, -5.0, 5.0) + torch.rand(200)  # as certain as can be, if turned over
    with pytest.raises(ValueError, match="class 1 is told from the others by its own logit alone, without an error"):
        VectorScaling().fit(logits, targets)
    logits = 3 * torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    targets = (logits * torch.tensor([1.0, 2.0, 0.5])).argmax(1)
    with pytest.raises(ValueError, match="a scaling separates the classes without an error"):
        VectorScaling().fit(logits, targets)


@pytest.mark.parametrize("scaling", [TemperatureScaling, VectorScaling])
def test_rows_and_targets_that_cannot_be_are_named(scaling):
    logits, targets = drawn_case(50, classes=4)
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="1 of 50 rows have non-finite logits"):
            scaling().fit(logits.index_put((torch.tensor([7]), torch.tensor([3])), torch.tensor(bad)), targets)
    with pytest.raises(ValueError, match="1 of 50 rows have non-finite logits"):
        scaling().fit(logits.index_fill(0, torch.tensor([7]), -torch.inf), targets)
    masked = logits.scatter(1, targets[:3, None], -torch.inf)
    with pytest.raises(ValueError, match="3 of 50 targets are masked classes"):
        scaling().fit(masked, targets)
    for label in (-1, 4):
        with pytest.raises(ValueError, match=r"targets must lie in \[0, 4\), which 1 of 50 do not"):
            scaling().fit(logits, targets.index_fill(0, torch.tensor([2]), label))


def _parameters(scaling):
    return [torch.as_tensor(value) for value in vars(scaling).values() if not isinstance(value, tuple)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scaling", [TemperatureScaling, VectorScaling])
def test_fitting_under_and_from_inference_mode_is_fitting(scaling, dtype):
    logits, targets = drawn_case(300, classes=4, temperature=1.5)
    logits = logits.to(dtype)
    expected = scaling().fit(logits, targets)
    with torch.inference_mode():
        collected, labels = logits * 1, targets * 1
        inside = scaling().fit(collected, labels)
        from_outside = scaling().fit(logits, targets)
    with torch.no_grad():
        without = scaling().fit(logits, targets)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = scaling().fit(logits, targets)
    of_gradients = scaling().fit(logits.clone().requires_grad_(), targets)
    cases = [scaling().fit(collected, labels), inside, from_outside, without, under_autocast, of_gradients]
    for found in cases:
        for one, other in zip(_parameters(found), _parameters(expected), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
            assert not one.is_inference()
            assert not one.requires_grad
        trained = logits.clone().requires_grad_()
        found(trained).float().square().sum().backward()  # what was fitted takes part in training
        assert trained.grad.isfinite().all()
    assert len(cases) == 6
