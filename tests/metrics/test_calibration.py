import numpy as np
import pytest
import torch
from metrics.cases import compute, drawn_case, random_case
from scipy.optimize import brentq
from scipy.stats import binomtest, norm
from sklearn.metrics import brier_score_loss, log_loss

from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.calibration_error import ECE_BINS, reliability_intervals
from ols.metrics.calibration_noise import ece_noise


def _confidence_and_correct(logits, target):
    confidence, predicted = logits.double().softmax(1).max(1)
    return confidence.numpy(), (predicted == target).double().numpy()


def _ece_by_samples(confidence, correct, bins=15):
    """The textbook's loop over bins (Guo et al. 2017, equation 3), with bins (m - 1) / M < confidence <= m / M."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


CASES = {
    "random": lambda: random_case(3000),
    "uniform": lambda: random_case(2000, scale=0.01),
    "saturated": lambda: random_case(2000, scale=300.0),
    "huge": lambda: random_case(500, scale=1e37),
    "two samples": lambda: random_case(2),
    "one sample": lambda: random_case(1),
    "two classes": lambda: drawn_case(1000, classes=2, temperature=2.0),
    "one class": lambda: random_case(50, classes=1),
    "many classes": lambda: drawn_case(1000, classes=1000),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-6)])
def test_ece_nll_and_brier_are_the_textbooks(name, dtype, bound):
    logits, target = CASES[name]()
    logits = logits.to(dtype)
    found = compute(CalibrationHistogram(), logits, target)
    confidence, correct = _confidence_and_correct(logits, target)
    probs, labels = logits.double().softmax(1).numpy(), list(range(logits.shape[1]))
    assert found["ece"] == pytest.approx(_ece_by_samples(confidence, correct), abs=bound)
    nll = torch.nn.functional.cross_entropy(logits.double(), target)
    assert found["nll"] == pytest.approx(float(nll), rel=bound, abs=bound)
    one_hot = np.eye(len(labels))[target.numpy()]
    assert found["brier"] == pytest.approx(np.square(probs - one_hot).sum(1).mean(), abs=bound)
    assert found["mean_confidence"] == pytest.approx(confidence.mean(), abs=bound)
    wrong = 1 - correct
    expected = (confidence * wrong).sum() / wrong.sum() if wrong.any() else np.nan
    assert found["mean_confidence_on_errors"] == pytest.approx(expected, abs=bound, nan_ok=True)
    assert found["overconfidence"] + found["underconfidence"] == pytest.approx(found["ece"], abs=1e-12)
    assert found["count"] == len(logits)
    assert found["ece_low"] - 1e-12 <= found["ece"] <= found["ece_high"] + 1e-12


def test_proper_scores_agree_with_scikit_learn():
    logits, target = random_case()
    found = compute(CalibrationHistogram(), logits.double(), target)
    probs, labels = logits.double().softmax(1).numpy(), list(range(7))
    assert found["nll"] == pytest.approx(log_loss(target, probs, labels=labels), abs=1e-12)
    confidence, correct = _confidence_and_correct(logits, target)
    assert found["brier_top_label"] == pytest.approx(brier_score_loss(correct, confidence), abs=1e-12)
    by_class = [brier_score_loss(target.numpy() == k, probs[:, k], pos_label=True) for k in range(6)]
    by_class.append(np.square(probs[:, 6]).mean())  # never occurs, which scikit-learn refuses
    assert found["brier"] == pytest.approx(sum(by_class), abs=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_brier_is_reliability_less_resolution_plus_uncertainty(name):
    found = compute(CalibrationHistogram(), *CASES[name]())
    parts = found["brier_reliability"] - found["brier_resolution"] + found["brier_uncertainty"]
    assert parts == pytest.approx(found["brier_top_label"], abs=1e-12)
    assert found["brier_reliability"] >= 0


def test_the_parts_of_brier_by_pencil():
    """Confidence 0.8, 8 of 10 right, and 0.6, 3 of 10 right: 0.5 x 0.3^2; variance of 0.8 and 0.3; 0.55 x 0.45."""
    logits = torch.tensor([0.8] * 10 + [0.6] * 10, dtype=torch.float64).logit()
    target = torch.tensor([0] * 8 + [1] * 2 + [0] * 3 + [1] * 7)
    found = compute(CalibrationHistogram(), torch.stack([logits, torch.zeros(20)], 1), target)
    assert found["brier_reliability"] == pytest.approx(0.045)
    assert found["brier_resolution"] == pytest.approx(0.0625)
    assert found["brier_uncertainty"] == pytest.approx(0.2475)
    assert found["ece"] == pytest.approx(0.15)
    assert found["mce"] == pytest.approx(0.3)
    # 0.5 (0 - 0.16 / 9) + 0.5 (0.09 - 0.21 / 9)
    assert found["ece_debiased"] == pytest.approx((0.5 * -0.16 / 9 + 0.5 * (0.09 - 0.21 / 9)) ** 0.5)
    assert (found["overconfidence"], found["underconfidence"]) == (pytest.approx(0.15), pytest.approx(0, abs=1e-12))


def test_ece_by_pencil_where_confidence_is_exactly_one():
    """Four samples of confidence 1, one of them right, and one of 0.55, which is wrong: (4 * 0.75 + 0.55) / 5."""
    logits = torch.tensor([[200.0, 0]] * 4 + [[np.log(0.55 / 0.45), 0]], dtype=torch.float64)
    histogram = CalibrationHistogram()
    found = compute(histogram, logits, torch.tensor([0, 1, 1, 1, 1]))
    assert found["ece"] == pytest.approx((4 * 0.75 + 0.55) / 5, abs=1e-12)
    assert np.isnan(found["mce"])  # no bin holds ten samples
    reliability = histogram.reliability()
    assert reliability[-1].tolist() == [4, 1, 0.25]
    assert reliability[8].tolist() == pytest.approx([1, 0.55, 0])  # 8 / 15 < 0.55 <= 9 / 15
    assert reliability[0].isnan().tolist() == [False, True, True]


def test_bins_are_closed_on_the_right():
    """Three equal logits: a confidence of 1/3 = 5/15 belongs to the fifth bin."""
    for dtype in (torch.float32, torch.float64):
        histogram = CalibrationHistogram()
        histogram.update(torch.zeros(4, 3, dtype=dtype), torch.zeros(4, dtype=torch.long))
        assert histogram.reliability()[4, 0] == 4


def test_logits_are_logits_even_where_they_lie_in_0_1():
    logits = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    histogram = CalibrationHistogram()
    histogram.update(logits, torch.tensor([0, 1]))
    count, confidence, _ = histogram.reliability()[logits.softmax(1).max(1).values.mul(15).ceil().long() - 1].T
    assert confidence.tolist() == pytest.approx(torch.sigmoid(torch.tensor([0.8, 0.6])).tolist(), abs=1e-6)
    assert count.tolist() == [1, 1]


@pytest.mark.parametrize("fill", [torch.nan, torch.inf, -torch.inf])
def test_nothing_but_counts_is_known_of_no_finite_row(fill):
    histogram = CalibrationHistogram(3, classwise=True)
    histogram.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    histogram.update(torch.full((2, 3), fill), torch.zeros(2, dtype=torch.long))
    found = {name: float(value) for name, value in histogram.compute().items()}
    assert (found.pop("count"), found.pop("nonfinite")) == (0, 2)
    assert [name for name, value in found.items() if not np.isnan(value)] == []


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_calibration_errors_agree_with_netcal(temperature):
    from netcal.metrics import ECE, MCE

    logits, target = drawn_case(6000, temperature=temperature)
    found = compute(CalibrationHistogram(10, classwise=True), logits.double(), target)
    probs, labels = logits.double().softmax(1).numpy(), target.numpy()
    assert found["ece"] == pytest.approx(ECE(15).measure(probs, labels), abs=1e-9)
    confidence, correct = _confidence_and_correct(logits, target)
    bins = np.ceil(confidence * 15)
    kept = np.isin(bins, [m for m in range(16) if (bins == m).sum() >= 10])
    assert found["mce"] == pytest.approx(MCE(15).measure(confidence[kept], correct[kept]), abs=1e-9)
    classwise = np.mean([ECE(15).measure(probs[:, k], (labels == k).astype(int)) for k in range(10)])
    assert found["ece_classwise"] == pytest.approx(classwise, abs=1e-9)
    equal_mass = ECE(15, equal_intervals=False).measure(confidence, correct)
    assert found["ece_equal_mass"] == pytest.approx(equal_mass, abs=5e-4)
    parts = np.array_split(np.argsort(confidence), 15)
    by_sorting = sum(abs((confidence - correct)[part].sum()) for part in parts) / 6000
    assert found["ece_equal_mass"] == pytest.approx(by_sorting, abs=3e-4)


@pytest.mark.parametrize("scale", [0.3, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_smooth_ece_agrees_with_relplot(scale, temperature):
    import relplot

    logits, target = drawn_case(4000, temperature=temperature)
    logits = logits * scale
    found = compute(CalibrationHistogram(), logits, target)
    assert found["smooth_ece"] == pytest.approx(relplot.smECE(*_confidence_and_correct(logits, target)), abs=2e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_smooth_ece_of_saturated_confidences_is_the_integral_of_its_definition(temperature):
    """relplot does not serve here: on its grid a confidence of 1 is its own mirror image, and has half of its mass."""
    logits, target = drawn_case(150, temperature=temperature)
    logits = logits * 10
    confidence, correct = _confidence_and_correct(logits, target)
    assert (confidence > 0.9995).mean() > 0.5
    at = (np.arange(1500) + 0.5) / 1500

    def error(bandwidth):
        images = [2 * n + sign * confidence for n in range(-2, 3) for sign in (1, -1)]
        kernel = sum(norm.pdf(at[:, None], image, bandwidth) for image in images)
        return np.abs(kernel @ (confidence - correct)).mean() / 150

    width = brentq(lambda bandwidth: bandwidth - error(bandwidth), 0.003, 1)
    assert compute(CalibrationHistogram(), logits, target)["smooth_ece"] == pytest.approx(error(width), abs=5e-4)


def test_smooth_ece_of_a_constant_gap_is_the_gap():
    """All right at confidence 0.7: whatever the bandwidth, smoothing keeps the mass of 0.3."""
    logits = torch.tensor([[0.7, 0.3]], dtype=torch.float64).log().repeat(20, 1)
    found = compute(CalibrationHistogram(), logits, torch.zeros(20, dtype=torch.long))
    assert found["smooth_ece"] == pytest.approx(0.3, abs=1e-12)


def test_the_debiased_error_of_a_calibrated_model_scatters_around_zero_where_the_plain_one_does_not():
    squares, plain = [], []
    for seed in range(40):
        logits, target = drawn_case(500, seed=seed)
        histogram = CalibrationHistogram()
        found = compute(histogram, logits, target)
        count, confidence, accuracy = histogram.reliability().nan_to_num(0).T
        squares.append(found["ece_debiased"] ** 2)
        plain.append(float((count * (confidence - accuracy) ** 2).sum() / 500))
    assert np.mean(np.array(squares) == 0) > 0.3
    assert np.mean(squares) < 0.4 * np.mean(plain)


def test_the_null_is_the_mean_ece_of_calibrated_models_with_these_confidences():
    for samples in (100, 1000):
        logits, target = drawn_case(samples)
        found = compute(CalibrationHistogram(), logits, target)
        confidence, _ = _confidence_and_correct(logits, target)
        rng = np.random.default_rng(1)
        draws = [_ece_by_samples(confidence, rng.random(samples) < confidence) for _ in range(400)]
        assert found["ece_null"] == pytest.approx(np.mean(draws), rel=0.05)


def test_the_resampled_histogram_spreads_like_resampled_samples():
    logits, target = drawn_case(800, temperature=2.5)
    found = compute(CalibrationHistogram(), logits, target)
    confidence, correct = _confidence_and_correct(logits, target)
    rng = np.random.default_rng(1)
    draws = [_ece_by_samples(confidence[part], correct[part]) for part in rng.integers(0, 800, (1000, 800))]
    low, high = np.quantile(draws, [0.025, 0.975])
    assert found["ece"] > 5 * found["ece_null"]
    assert found["ece_low"] == pytest.approx(2 * found["ece"] - high, abs=0.004)
    assert found["ece_high"] == pytest.approx(2 * found["ece"] - low, abs=0.004)


@pytest.mark.parametrize(("temperature", "at_least"), [(1.0, 0.95), (1.25, 0.8), (2.0, 0.9)])
def test_the_interval_holds_the_true_ece(temperature, at_least):
    true = 0.0
    if temperature > 1:
        confidence, predicted = drawn_case(200_000, seed=10**6)[0].double().softmax(1).max(1)
        logits = drawn_case(200_000, seed=10**6)[0].double()
        accuracy = (logits / temperature).softmax(1).gather(1, predicted[:, None]).squeeze(1)
        true = _ece_by_samples(confidence.numpy(), accuracy.numpy())
    held = 0
    for seed in range(60):
        histogram = CalibrationHistogram()
        histogram.update(*drawn_case(1000, seed=seed, temperature=temperature))
        noise = ece_noise(histogram.bins, seed=seed)
        held += float(noise["ece_low"]) <= true <= float(noise["ece_high"])
    assert held / 60 >= at_least


def test_the_interval_of_a_bin_agrees_with_scipys_wilson():
    logits, target = drawn_case(3000)
    histogram = CalibrationHistogram()
    histogram.update(logits, target)
    table = histogram.reliability()
    intervals = reliability_intervals(table)
    assert intervals.shape == (ECE_BINS, 2)
    filled = 0
    for (count, _, accuracy), interval in zip(table.tolist(), intervals.tolist(), strict=True):
        if count == 0:
            assert np.isnan(interval).all()
            continue
        expected = binomtest(round(count * accuracy), int(count)).proportion_ci(method="wilson")
        assert interval == pytest.approx([expected.low, expected.high], abs=1e-9)
        filled += 1
    assert filled >= 10
