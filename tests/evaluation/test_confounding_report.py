import csv
from io import StringIO

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from ols.evaluation.confounding import Arm, breaking_share, confounder_report
from ols.evaluation.draws import BinaryOutputs
from ols.evaluation.predictions import Predictions


def _outputs(shift, *, size=200, per_patient=1, seed=0):
    rng = np.random.default_rng(seed)
    positive = np.arange(size) % 2 == 0
    names = [f"image{i}" for i in range(size)]
    patients = np.array([f"patient{i // (2 * per_patient) * 2 + i % 2}" for i in range(size)])
    return BinaryOutputs(rng.normal(size=size) + shift * positive, positive, patients, names)


def _draws(value, size):
    return np.full((1, size), float(value))


def test_measures_of_each_image_once_are_those_of_sklearn_and_torchmetrics():
    generator = torch.Generator().manual_seed(1)
    logits, targets = 2 * torch.randn(150, 2, generator=generator), torch.arange(150) % 3 % 2
    names = [str(i) for i in range(150)]
    predictions = Predictions(logits, targets, torch.arange(150), names, names, ["a", "b"], ["g", "g"], "binary")
    probs, predicted = logits.double().softmax(1), logits.argmax(1)
    for number, positive in enumerate(("a", "b")):
        outputs = BinaryOutputs.of(predictions, positive)
        found = {name: statistic(_draws(1, 150))[0] for name, statistic in outputs.measures().items()}
        is_positive = targets == number
        expected = {
            "auc": roc_auc_score(is_positive, probs[:, number]),
            "ece": multiclass_calibration_error(probs, targets, num_classes=2, n_bins=15).item(),
            "confidence": probs.amax(1).mean().item(),
            "confidence_less_accuracy": (probs.amax(1) - (predicted == targets).double()).mean().item(),
            "sensitivity": (predicted[is_positive] == number).double().mean().item(),
            "specificity": (predicted[~is_positive] != number).double().mean().item(),
        }
        assert found == pytest.approx(expected, abs=1e-7)


def test_an_image_that_counts_twice_is_two_images():
    outputs = _outputs(1.0, size=30)
    counts = np.random.default_rng(2).integers(0, 3, (1, 30)).astype(float)
    place = np.repeat(np.arange(30), counts[0].astype(int))
    names = [str(i) for i in range(len(place))]
    written_out = BinaryOutputs(outputs.score[place], outputs.positive[place], np.array(names), names)
    for name, statistic in outputs.measures().items():
        assert statistic(counts)[0] == pytest.approx(written_out.measures()[name](_draws(1, len(place)))[0]), name


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([0.8, 0.6, 0.4, 0.1], 0.35),  # half way between 0.2 and 0.5
        ([0.8, 0.7, 0.6, 0.4], 0.75),
        ([0.8, 0.45, 0.6, 0.4], 0.2 * 0.3 / 0.35),  # where it falls first
        ([0.4, 0.3, 0.2, 0.1], 0),
        ([0.8, 0.7, 0.6, 0.5], np.inf),
        ([0.8, np.nan, 0.6, 0.4], np.nan),
    ],
)
def test_the_breaking_share_lies_on_the_line_between_two_shares(curve, expected):
    np.testing.assert_allclose(breaking_share([0, 0.2, 0.5, 1], np.array(curve)), expected, equal_nan=True)


def test_a_report_pairs_the_sources_on_the_same_patients():
    tests = {}
    for share, leaning in ((0.0, 1.5), (0.5, 0.6), (1.0, -1.5)):
        tests[Arm("cheats", share, "inverted")] = _outputs(leaning, per_patient=2)
        tests[Arm("sound", share, "inverted")] = _outputs(1.5, per_patient=2)
    shuffled = np.random.default_rng(3).permutation(200)
    key, outputs = Arm("sound", 1.0, "inverted"), tests[Arm("sound", 1.0, "inverted")]
    tests[key] = outputs.in_order_of([outputs.sample_ids[i] for i in shuffled])
    report = confounder_report(tests, resamples=400)

    rows = {(row.source, row.share, row.measure): row for row in report.rows}
    first = _outputs(0.6, per_patient=2)
    found = rows["cheats", 0.5, "auc"]
    assert found.value == pytest.approx(roc_auc_score(first.positive, first.score))
    assert found.low < found.value < found.high
    differences = {(item.share, item.measure): item for item in report.differences}
    # The same scores at share 0: no draw of patients tells them apart
    assert differences[0.0, "auc"].found[:3] == pytest.approx((0, 0, 0))
    assert differences[0.0, "auc"].adjusted_p == 1
    apart = differences[1.0, "auc"].found
    assert apart.difference == pytest.approx(rows["cheats", 1.0, "auc"].value - rows["sound", 1.0, "auc"].value)
    assert apart.high < -0.5
    # Both have the smallest p that 400 draws give; Holm multiplies it by the number of shares
    assert differences[1.0, "auc"].adjusted_p == pytest.approx(3 * 2 / 401)
    cheats, sound = report.breaking
    assert 0.5 < cheats.low <= cheats.share <= cheats.high < 1
    assert (sound.share, sound.low, sound.high) == (np.inf, np.inf, np.inf)
    assert "| sound | never (never to never) |" in report.markdown()
    assert len(list(csv.DictReader(StringIO(report.csv())))) == len(report.rows) == 24


def test_an_interval_over_patients_is_wider_than_one_that_takes_images_for_independent():
    rng = np.random.default_rng(4)
    positive = np.repeat(np.arange(40) % 2 == 0, 10)
    score = np.repeat(rng.normal(size=40), 10) + positive  # the ten images of a patient are alike
    names = [str(i) for i in range(400)]
    widths = []
    for patients in (np.repeat(np.arange(40), 10), np.arange(400)):
        outputs = BinaryOutputs(score, positive, patients, names)
        row = confounder_report({Arm("a", 0.5, "clean"): outputs}, resamples=300).rows[0]
        widths.append(row.high - row.low)
    assert widths[0] > 2 * widths[1]


def test_tests_of_other_images_or_labels_are_refused_by_name():
    one, other = _outputs(1.0), _outputs(1.0, size=202)
    tests = {Arm("a", 0.0, "clean"): one, Arm("b", 0.5, "clean"): other}
    with pytest.raises(ValueError, match=r"b at 50%, clean: predictions of other images"):
        confounder_report(tests)
    turned = BinaryOutputs(one.score, ~one.positive, one.patients, one.sample_ids)
    with pytest.raises(ValueError, match=r"b at 50%, clean: other positive than the first test"):
        confounder_report({Arm("a", 0.0, "clean"): one, Arm("b", 0.5, "clean"): turned})
    with pytest.raises(ValueError, match="got none"):
        confounder_report({})
    with pytest.raises(ValueError, match="got 20 of a"):
        confounder_report({Arm("a", 20, "clean"): one})
