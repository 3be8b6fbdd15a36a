import pytest
import torch
import torch.nn.functional as F
from netcal.metrics import ECE
from sklearn.metrics import multilabel_confusion_matrix, roc_auc_score

from ols.evaluation.predictions import Predictions
from ols.tasks import build_task
from ols.tasks.report.class_numbers import fit_temperature, report_soft_labels, report_split
from ols.tasks.report.class_records import AgainstTheRest, AsPredicted, Calibration, ClassRecord, ClassReport
from ols.tasks.report.class_sections import sentences
from ols.tasks.report.class_tables import worst_by_accuracy, worst_by_calibration

TASK = build_task("multiclass", ["class 0", "class 1", "class 2"], ["CT"] * 3)


GROUPED = build_task("multiclass", TASK.classes, ["CT/lung", "CT/lung", "US"])


def _predictions(logits: torch.Tensor, targets: list[int], groups: list[str]) -> Predictions:
    count, num_classes = logits.shape
    return Predictions(
        logits=logits,
        targets=torch.tensor(targets),
        indices=torch.arange(count),
        sample_ids=[f"{i}.png" for i in range(count)],
        patients=[f"{i}.png" for i in range(count)],
        classes=[f"class {k}" for k in range(num_classes)],
        groups=groups,
        task="multiclass",
        features=logits.nan_to_num(),
    )


def test_a_worked_case_of_two_groups():
    """Four images; the third is taken for another class, of another group, with the highest confidence of all."""
    logits = torch.tensor([[2.0, 0, 0], [1.0, 0, 0], [0, 0, 9.0], [0, 0, 3.0]])
    found = report_split(_predictions(logits, [0, 0, 1, 2], ["CT/lung", "CT/lung", "US"]), GROUPED, 2.0)
    assert found.images == 4
    assert found.accuracy == 0.75
    lung, us = found.groups
    assert (lung.name, lung.images, lung.accuracy) == ("CT/lung", 3, pytest.approx(2 / 3))
    assert (us.name, us.images, us.accuracy) == ("US", 1, 1.0)
    assert [record.name for record in found.modalities] == ["CT", "US"]
    never, third = found.classes[1], found.classes[2]
    assert (never.accuracy, never.predicted) == (0.0, AsPredicted(0))
    assert (third.predicted.images, third.predicted.precision) == (2, 0.5)
    confidence = [float(logits[i].double().softmax(0)[2]) for i in (2, 3)]
    assert third.predicted.raw.mean_confidence == pytest.approx(sum(confidence) / 2)
    (pair,) = found.confused
    assert (pair.true, pair.predicted, pair.images, pair.share) == ("class 1", "class 2", 1, 1.0)
    (error,) = found.errors
    assert (error.sample_id, error.confidence) == ("2.png", pytest.approx(confidence[0]))
    assert error.confidence_scaled == pytest.approx(float((logits[2] / 2).double().softmax(0)[2]))


def test_images_with_non_finite_logits_are_errors_that_calibration_leaves_out():
    torch.manual_seed(0)
    logits = torch.randn(60, 3)
    targets = logits.argmax(1)
    targets[:20] = (targets[:20] + 1) % 3
    broken = logits.clone()
    broken[50:55, 0], broken[55:, 1] = torch.nan, torch.inf
    found = report_split(_predictions(broken, targets.tolist(), ["CT"] * 3), TASK, 1.5)
    assert found.accuracy == pytest.approx(30 / 60)
    assert (found.raw["count"], found.raw["nonfinite"]) == (50, 10)
    probs = logits[:50].double().softmax(1).numpy()
    assert found.groups[0].raw.ece == pytest.approx(ECE(15).measure(probs, targets[:50].numpy()), abs=1e-6)
    assert sum(record.predicted.images for record in found.classes) == 50
    assert {error.sample_id for error in found.errors} == {f"{i}.png" for i in range(20)}
    report = ClassReport("test", fit_temperature(_some(broken, targets)), {"test": found}, None)
    assert any("10 images had non-finite logits" in sentence for sentence in sentences(report, TASK))
    nothing = report_split(_predictions(torch.full((6, 3), torch.nan), [0, 1, 2] * 2, ["CT"] * 3), TASK, 1.0)
    assert (nothing.accuracy, nothing.raw["ece"], nothing.errors) == (0.0, None, [])


def _some(logits, targets):
    return _predictions(logits, targets.tolist(), ["CT"] * 3)


def test_where_every_prediction_is_right_no_temperature_is_made_up():
    found = fit_temperature(_predictions(torch.eye(3), [0, 1, 2], ["CT"] * 3))
    assert (found.value, found.low, found.images) == (1.0, None, 3)
    assert "NLL falls as T goes to 0" in found.failure


def test_mass_inside_a_group_by_pencil():
    soft_labels = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.9, 0.0], [0.0, 0.1, 0.9]])
    found = report_soft_labels(soft_labels, ["a", "b", "c"], ["CT", "CT", "MR"], count=2)
    assert found.within_group == pytest.approx(0.25 / 0.4)
    assert found.within_group_uniform == pytest.approx(2 / 6)
    assert [near.name for near in found.classes[0].neighbours] == ["b", "c"]
    assert report_soft_labels(torch.eye(2), ["a", "b"], ["CT", "CT"]).within_group is None


def test_the_worst_are_those_of_enough_images():
    def record(name, images, accuracy, ece):
        rest = AgainstTheRest(None, None, None, None, None, None)
        said = AsPredicted(images, raw=Calibration(None, ece, None, None, 0.1))
        return ClassRecord(images, accuracy if images else None, None, None, name, "CT", said, rest)

    records = [record("absent", 0, 0.0, 0.9), record("few", 9, 0.2, 0.8), record("many", 50, 0.2, 0.4)]
    records += [record(f"good {i}", 20, 0.9, 0.2 + i / 100) for i in range(12)]
    assert [found.name for found in worst_by_accuracy(records)][:3] == ["many", "few", "good 0"]
    worst = [found.name for found in worst_by_calibration(records)]
    assert worst == ["many", *(f"good {i}" for i in range(11, 2, -1))]


def test_each_class_against_the_rest_is_what_scikit_learn_says(tmp_path):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 4, (300,), generator=generator)
    logits = torch.randn(300, 5, generator=generator) + 1.5 * F.one_hot(targets, 5)
    logits[:40, 3] = -torch.inf  # a masked class, the true one of some
    names, ids = list("abcde"), [str(i) for i in range(300)]
    predictions = Predictions(
        logits, targets, torch.arange(300), ids, ids, names, ["CT"] * 5, "multiclass",
        features=torch.randn(300, 4, generator=generator),
    )  # fmt: skip
    found = report_split(predictions, build_task("multiclass", names, ["CT"] * 5), 1.0)
    probs, predicted = logits.softmax(1).numpy(), logits.argmax(1).numpy()
    confusion = multilabel_confusion_matrix(targets.numpy(), predicted, labels=range(5))
    for k, record in enumerate(found.classes[:4]):
        (tn, fp), (fn, tp) = confusion[k]
        assert record.rest.auc == pytest.approx(roc_auc_score(targets == k, probs[:, k]), abs=1e-6)
        assert record.accuracy == pytest.approx(tp / (tp + fn))
        assert record.rest.specificity == pytest.approx(tn / (tn + fp))
        assert record.rest.ppv == pytest.approx(tp / (tp + fp))
        assert record.rest.npv == pytest.approx(tn / (tn + fn))
    assert found.classes[4].rest.auc is None
    areas = [roc_auc_score(targets == k, probs[:, k]) for k in range(4)]
    assert found.raw["macro_auc"] == pytest.approx(sum(areas) / 4, abs=1e-6)
    assert found.raw["nonfinite"] == 0


def test_images_whose_label_is_masked_have_no_part_in_the_temperature_and_are_told():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 3, (200,), generator=generator)
    logits = torch.randn(200, 3, generator=generator) + F.one_hot(targets, 3)
    masked = logits.clone()
    masked[torch.arange(20), targets[:20]] = -torch.inf
    found, without = fit_temperature(_some(masked, targets)), fit_temperature(_some(logits[20:], targets[20:]))
    assert (found.images, found.masked, without.masked) == (180, 20, 0)
    assert (found.value, found.low, found.high) == (without.value, without.low, without.high)
    split = report_split(_some(masked, targets.clamp(max=1)), TASK, found.value)
    report = ClassReport("test", found, {"test": split}, None)
    said = " ".join(sentences(report, TASK))
    assert "20 images of val have no part in the temperature" in said
    assert "The NLL is infinite" in said
    assert "Without an AUC, as no image or every image is of the class: class 2." in said
