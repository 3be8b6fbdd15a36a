"""Corrupted test images, and how a classifier stands them."""

import csv

import numpy as np
import pytest
import torch
from conftest import accelerate_begins_anew, export_fresh_net
from imagecorruptions import corrupt
from PIL import Image
from sklearn.metrics import roc_auc_score
from torchmetrics.classification import MulticlassCalibrationError

from ols.data.corruption import CORRUPTIONS, Corrupted
from ols.data.sources.folder import ImageFolder
from ols.data.transforms import Preprocessing
from ols.evaluation.corruption_report import corruptions_markdown, measure_corruptions
from ols.evaluation.predictions import Predictions
from ols.runs.export import load_export
from ols.tasks import build_task
from recipes import corruptions

SEEN = Preprocessing(image_size=32, resize_size=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export of a fresh binary net, and three splits of two classes of smooth images of 32 pixels."""
    root, rng = tmp_path_factory.mktemp("corruptions"), np.random.default_rng(0)
    for split, count in (("train", 1), ("val", 1), ("test", 6)):
        for label in ("healthy", "ill"):
            (root / "set" / split / label).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(rng.integers(0, 255, (4, 4)).astype(np.uint8)).resize((32, 32))
                image.save(root / "set" / split / label / f"{number}.png")
    export_fresh_net(root / "net", SEEN)
    return root


def test_images_are_those_of_the_package_the_same_each_time_and_others_draw_as_before(folder):
    source = ImageFolder(folder / "set", "test")
    clean = np.asarray(source.read(3))
    for name in ("contrast", "pixelate", "jpeg_compression"):
        found = np.asarray(Corrupted(source, name, 4, preprocessing=SEEN).read(3))
        np.testing.assert_array_equal(found, corrupt(clean, 4, name)[..., 0])
    noisy = Corrupted(source, "gaussian_noise", 3, preprocessing=SEEN)
    np.random.seed(7)
    first, drawn = np.asarray(noisy.read(3)), np.random.random()
    np.random.seed(7)
    assert np.random.random() == drawn
    np.testing.assert_array_equal(np.asarray(noisy.read(3)), first)
    change = first.astype(float) - clean
    assert (change != np.asarray(noisy.read(4)).astype(float) - np.asarray(source.read(4))).any()
    inside = (clean > 100) & (clean < 155)
    assert change[inside].std() == pytest.approx(0.18 * 255, rel=0.15)  # as strong as in one channel of a photograph


@pytest.mark.slow  # glass blur is compiled
def test_every_corruption_that_is_taken_by_default_changes_gray_and_colour_images(folder):
    for channels in (1, 3):
        source = ImageFolder(folder / "set", "test", in_chans=channels)
        for name in CORRUPTIONS:
            found, again = (Corrupted(source, name, 5, preprocessing=SEEN).read(0) for _ in range(2))
            assert found.mode == source.read(0).mode
            assert found.size == (32, 32)
            assert found.tobytes() == again.tobytes() != source.read(0).tobytes(), name


def test_what_cannot_be_corrupted_is_named(folder):
    source = ImageFolder(folder / "set", "test")
    for name, severity, message in (("rain", 1, "no corruption is named 'rain'; there are"), ("fog", 6, "got 6")):
        with pytest.raises(ValueError, match=message):
            Corrupted(source, name, severity, preprocessing=SEEN)
    with pytest.raises(ValueError, match="at least 32 px, got 16"):
        Corrupted(source, "fog", 1, preprocessing=Preprocessing(image_size=16, resize_size=16))


def test_the_recipe_gives_what_scikit_learn_says_of_images_corrupted_here(folder, capsys):
    run = [str(folder / "net"), f"--data.root={folder / 'set'}", "--device=cpu", "--threads=1"]
    with accelerate_begins_anew():
        corruptions.main(corruptions.parse_options([*run, "--corruptions", "contrast", "--severities", "2", "5"]))
    with (folder / "net" / "evaluation" / "corruptions.csv").open() as file:
        rows = {(r["corruption"], int(r["severity"]), r["measure"]): r for r in csv.DictReader(file)}
    assert len(rows) == 6
    model, _ = load_export(folder / "net")
    for name, severity in (("none", 0), ("contrast", 5)):
        score, ill = [], []
        for path in sorted((folder / "set" / "test").rglob("*.png")):
            pixels = np.array(Image.open(path))
            pixels = corrupt(pixels, severity, name)[..., 0].copy() if severity else pixels
            with torch.no_grad():
                logits = model.eval()(torch.from_numpy(pixels)[None, None] / 127.5 - 1)[0]
            score.append(float(logits[1] - logits[0]))
            ill.append(path.parent.name == "ill")
        row = rows[name, severity, "auc"]
        assert float(row["value"]) == pytest.approx(roc_auc_score(ill, score))
        assert 0 <= float(row["low"]) <= float(row["high"]) <= 1
    page = (folder / "net" / "evaluation" / "corruptions.md").read_text()
    assert "| contrast | " in page
    assert "Images as they are: AUC" in page
    assert "corruptions.md" in capsys.readouterr().out


def predictions_of(task, logits, targets, patients=None):
    size, classes = len(logits), task.classes
    names = [str(number) for number in range(size)]
    groups = [""] * len(classes)
    return Predictions(logits, targets, torch.arange(size), names, patients or names, classes, groups, task.name)


def test_intervals_draw_patients():
    rng, task = np.random.default_rng(0), build_task("multiclass", list("abc"), [""] * 3)
    logits, targets = torch.from_numpy(rng.normal(size=(12, 3))), torch.arange(12) % 3
    alone, together = (
        measure_corruptions({("fog", 1): predictions_of(task, logits, targets, patients)}, task)[0]
        for patients in (None, ["one"] * 12)
    )
    assert alone.measure == "top1"
    assert alone.low < alone.value < alone.high
    assert np.isnan([together.low, together.high]).all()  # one patient, drawn each time
    assert together.value == alone.value
    page = corruptions_markdown([together])
    assert f"| fog | {together.value:.3f} |" in page


def test_of_several_labels_the_mean_auc_and_the_calibration_of_the_known_ones_are_measured():
    rng, task = np.random.default_rng(0), build_task("multilabel", ["edema", "mass", "rare"], [""] * 3)
    labels = (rng.random((80, 3)) < (0.5, 0.3, 0.02)).astype(float)
    logits = rng.normal(size=(80, 3)) + labels
    labels[rng.random((80, 3)) < 0.2] = np.nan
    tests = {("fog", 1): predictions_of(task, torch.from_numpy(logits), torch.from_numpy(labels))}
    rows = {row.measure: row for row in measure_corruptions(tests, task, resamples=100)}
    assert list(rows) == ["mean_auc", "ece"]
    known = ~np.isnan(labels)
    areas = [roc_auc_score(labels[known[:, k], k], logits[known[:, k], k]) for k in (0, 1)]  # too few of the third
    assert rows["mean_auc"].value == pytest.approx(np.mean(areas))
    truth, score = torch.from_numpy(labels[known]).long(), torch.from_numpy(logits[known])
    expected = MulticlassCalibrationError(2, n_bins=15, norm="l1")(torch.stack([0 * score, score], 1).softmax(1), truth)
    assert rows["ece"].value == pytest.approx(float(expected), abs=1e-6)
    assert rows["ece"].low < rows["ece"].value < rows["ece"].high


def test_numbers_are_measured_by_their_error_and_masks_are_refused():
    numbers = build_task("regression", ["age"], [""], mean=50.0, std=10.0)
    logits, targets = torch.zeros(6, 1), torch.tensor([50.0, 60, 50, 70, 50, 50])
    (row,) = measure_corruptions({("fog", 1): predictions_of(numbers, logits, targets)}, numbers, resamples=50)
    assert (row.measure, row.value) == ("mae", 5)
    masks = build_task("segmentation", ["none", "lesion"], [""] * 2)
    with pytest.raises(ValueError, match="move what the masks mark"):
        measure_corruptions({}, masks)
