"""The page of each task from predictions alone: its numbers are those of scikit-learn, and its names are text."""

import json
import re
from dataclasses import replace
from html import unescape
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from ols.data.transforms import Preprocessing
from ols.evaluation.predictions import Predictions
from ols.evaluation.report.model_report import ModelReport
from ols.evaluation.report.page import write_page
from ols.tasks import TASKS, build_task

COUNT = 90
CONDITIONS = {"versions": {"torch": "2"}, "device": "cpu", "date": "2026-11-26T00:00", "commit": None, "data": "/set"}
TASK_OF = {
    "multiclass": build_task("multiclass", ["a <b>", "b", "c"], ["CT", "CT", "MR"]),
    "binary": build_task("binary", ["benign", "malignant <b>"], ["US"] * 2),
    "multilabel": build_task("multilabel", ["mass <b>", "never $x$", "rare"], ["XR"] * 3),
    "regression": build_task("regression", ["age <b>"], ["XR"], mean=40.0, std=10.0),
    "segmentation": build_task("segmentation", ["lesion <b>"], ["US"]),
}


def _samples(name: str, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(split))
    noise = torch.randn(COUNT, 3, generator=generator)
    if name in ("multiclass", "binary"):
        classes = len(TASK_OF[name].classes)
        targets = torch.arange(COUNT) % classes
        return noise[:, :classes] + 1.2 * torch.eye(classes)[targets], targets
    if name == "multilabel":
        labels = (torch.rand(COUNT, 3, generator=generator) < torch.tensor([0.4, 0.0, 0.05])).float()
        labels[::9] = torch.nan
        return noise + labels.nan_to_num(), labels
    if name == "regression":
        targets = 40 + 10 * noise[:, 0]
        outputs = 0.7 * noise[:, :1] + 0.5 * noise[:, 1:2]
        outputs[4] = torch.nan
        return outputs, targets
    rows = torch.arange(12)
    masks = (rows[:, None] < 3 + torch.arange(COUNT)[:, None, None] % 8) & (rows > 5)
    masks[::10] = False
    score = 2 * masks.float() - 1 + torch.randn(COUNT, 12, 12, generator=generator)
    return torch.stack([-score, score], dim=1), masks.long()


def _predictions(name: str, split: str, *, patients: bool) -> Predictions:
    logits, targets = _samples(name, split)
    names = [f"{split}/<i>{i}.png" for i in range(COUNT)]
    return Predictions(
        logits=logits,
        targets=targets,
        indices=torch.arange(COUNT),
        sample_ids=names,
        patients=[f"p{i // 6}" for i in range(COUNT)] if patients else names,
        classes=TASK_OF[name].classes,
        groups=TASK_OF[name].groups,
        task=name,
        features=torch.full((COUNT, 4), torch.nan),  # of which there is no section, which takes long
        conditions=CONDITIONS,
    )


class Page:
    """A written report: its record, its text without tags, and the page itself."""

    def __init__(self, folder, name: str, *, patients: bool = False, **change):
        preprocessing = Preprocessing(image_size=12, resize_size=12)
        trained = SimpleNamespace(
            name="run <b>", architecture="net", epoch=1, config=None, preprocessing=preprocessing, soft_labels=None
        )
        predictions = {split: _predictions(name, split, patients=patients) for split in ("test", "val")}
        predictions["test"] = replace(predictions["test"], **change)
        model = ModelReport.of(trained, predictions, splits=["test", "val"], conditions=CONDITIONS)
        report = TASK_OF[name].build_report(predictions, ["test", "val"])
        source = SimpleNamespace(read=lambda index: Image.new("L", (16, 12), index))
        write_page(folder, model, report, source=source, preprocessing=preprocessing)
        self.predictions, self.html = predictions["test"], (folder / "report.html").read_text()
        self.record = json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)
        self.markdown = (folder / "report.md").read_text()
        self.sections = [section.title for section in report.sections]
        self.text = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", self.html.partition("</style>")[2])))

    @property
    def values(self) -> dict:
        """Of the split that is shown."""
        found = self.record["splits"]["test"]
        return found.get("raw", found)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of each task, made once."""
    made = {}

    def page(name: str, **options) -> Page:
        key = (name, *options)
        if key not in made:
            made[key] = Page(tmp_path_factory.mktemp(name), name, **options)
        return made[key]

    return page


def test_every_task_has_a_page_here():
    assert list(TASK_OF) == list(TASKS)


@pytest.mark.parametrize(
    "name", [pytest.param("multiclass", marks=pytest.mark.slow), "binary", "multilabel", "regression", "segmentation"]
)
def test_a_page_needs_nothing_else_leads_to_every_section_and_shows_names_as_text(pages, name):
    page = pages(name)
    for beginning in ("<script", "<link", "@import", "url(", "<b>run", "<i>", ">nan", "(nan", "None"):
        assert beginning not in re.sub(r'src="[^"]*"', "", page.html), beginning
    targets = re.findall(r'href="#([\w-]+)"', page.html)
    assert len(targets) == 3 + len(page.sections) == len(set(targets))
    assert all(f'<section id="{target}">' in page.html for target in targets)
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', page.html))
    assert "run <b>" in page.text
    assert any(class_name in page.text for class_name in TASK_OF[name].classes if "<b>" in class_name)
    assert "run &lt;b>" in page.markdown
    assert (page.record["task"], page.record["shown"], page.record["format"]) == (name, "test", 1)


def test_binary_numbers_are_those_of_scikit_learn(pages):
    page = pages("binary")
    logits, targets = page.predictions.logits.numpy(), page.predictions.targets.numpy()
    score = logits[:, 1] - logits[:, 0]
    area, precision = roc_auc_score(targets, score), average_precision_score(targets, score)
    assert page.values["auc"] == pytest.approx(area)
    assert page.values["average_precision"] == pytest.approx(precision)
    assert page.values["average_precision_low"] < precision < page.values["average_precision_high"]
    assert f"ROC curve, AUC {area:.4f}." in page.text
    assert f"average precision {precision:.4f}; chance is the prevalence, {targets.mean():.4f}." in page.text
    assert "ROC and precision" in page.sections


def test_labels_have_their_support_and_one_that_is_undefined_is_named(pages):
    page = pages("multilabel")
    logits, targets = page.predictions.logits.numpy(), page.predictions.targets.numpy()
    rare = np.nansum(targets[:, 2])
    for row, column in zip(page.record["labels"], (0, 1, 2), strict=True):
        known = ~np.isnan(targets[:, column])
        assert (row["known"], row["positives"]) == (80, np.nansum(targets[:, column]))
        if row["positives"]:
            assert row["auc"] == pytest.approx(roc_auc_score(targets[known, column], logits[known, column]))
            expected = average_precision_score(targets[known, column], logits[known, column])
            assert row["average_precision"] == pytest.approx(expected)
            assert f"{row['name']} {row['positives']:.0f} 80 {row['auc']:.4f}" in page.text
    assert page.values["mean_auc"] == page.record["labels"][0]["auc"]  # that of the only label with enough of both
    assert 1 < rare < 10
    assert "never $x$ 0 80 undefined: there is no positive" in page.text
    assert "The AUC is undefined without both positives and negatives: never $x$ (0 of 80 positive)." in page.text
    assert page.record["labels"][1]["auc"] is None


def test_errors_stand_beside_those_of_the_mean_in_units(pages):
    page = pages("regression")
    has = page.predictions.logits[:, 0].isfinite()
    predicted = 40 + 10 * page.predictions.logits[has, 0].double().numpy()
    true = page.predictions.targets[has].double().numpy()
    mae, of_mean = mean_absolute_error(true, predicted), np.abs(true - 40).mean()
    for name, expected in (("mae", mae), ("mae_of_mean", of_mean), ("r2", r2_score(true, predicted))):
        assert page.values[name] == pytest.approx(expected), name
    assert page.values["mae_less_of_mean_low"] < mae - of_mean < page.values["mae_less_of_mean_high"] < 0
    assert "The model is better than the training mean" in page.text
    assert "1 of 90 images had non-finite outputs." in page.text
    assert f"the training mean, 40.0000 {of_mean:.4f}" in page.text
    worst = has.nonzero()[np.abs(predicted - true).argmax(), 0]
    first = re.search(r"test/<i>(\d+)\.png", page.text.partition("errors of the targets.")[2])
    assert int(first[1]) == worst


def test_masks_have_dice_of_each_image_and_those_without_one_are_counted(pages):
    page = pages("segmentation")
    found, true = page.predictions.logits.argmax(1).numpy(), page.predictions.targets.numpy()
    dice = [f1_score(t.ravel(), f.ravel()) if t.any() else None for t, f in zip(true, found, strict=True)]
    assert [image["dice"] for image in page.record["images"]] == [pytest.approx(value) for value in dice]
    shown = [value for value in dice if value is not None]
    assert page.values["dice"] == pytest.approx(np.mean(shown))
    assert page.values["dice_low"] < np.mean(shown) < page.values["dice_high"]
    assert (
        "9 of 90 images have an empty mask, and no part in Dice and IoU. Something is found in 9 of them." in page.text
    )
    text = page.text.partition("Worst, median and best images As")[2]
    worst = re.search(r"Worst Dice (\d\.\d+) test/<i>(\d+)\.png", text)
    assert float(worst[1]) == pytest.approx(min(shown), abs=5e-4)
    assert dice[int(worst[2])] == min(shown)
    best = re.search(r"Best Dice (\d\.\d+) test/<i>(\d+)\.png", text)
    assert dice[int(best[2])] == max(shown)
    assert re.search(r"empty masks images without foreground, outside the means 9 9 ", page.text)


def test_intervals_are_over_patients_where_a_patient_has_several_images(pages):
    alone, together = pages("segmentation"), pages("segmentation", patients=True)
    assert "Intervals are of 95 % and take images for independent." in alone.text
    assert "Those of Dice, IoU are over 15 patients drawn anew with all their images" in together.text
    assert together.values["dice"] == alone.values["dice"]
    # By hand: means of patients drawn one after another
    dice = np.array([np.nan if image["dice"] is None else image["dice"] for image in together.record["images"]])
    rng = np.random.default_rng(1)
    drawn = [np.nanmean(dice.reshape(15, 6)[rng.integers(15, size=15)]) for _ in range(2000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    width = high - low
    assert together.values["dice_low"] == pytest.approx(low, abs=width / 8)
    assert together.values["dice_high"] == pytest.approx(high, abs=width / 8)


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("regression", "mae"),
        pytest.param("binary", "auc", marks=pytest.mark.slow),
        pytest.param("multiclass", "top1", marks=pytest.mark.slow),
    ],
)
def test_intervals_with_formulas_give_way_to_those_over_patients(pages, name, measure):
    alone, together = pages(name), pages(name, patients=True)
    assert together.values[measure] == alone.values[measure]
    assert together.values[f"{measure}_low"] != alone.values[f"{measure}_low"]
    assert together.values[f"{measure}_low"] < together.values[measure] < together.values[f"{measure}_high"]
    assert "over 15 patients drawn anew with all their images" in together.text


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("regression", {"logits": torch.full((COUNT, 1), torch.nan)}, "no image has an output"),
        ("segmentation", {"targets": torch.zeros(COUNT, 12, 12, dtype=torch.int64)}, "as no image has a mask"),
        pytest.param(
            "binary",
            {"targets": torch.zeros(COUNT, dtype=torch.int64)},
            "There are no curves, as there is no positive.",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_page_says_what_cannot_be_drawn(tmp_path, name, change, said):
    assert said in Page(tmp_path, name, **change).text


def test_the_intervals_of_labels_are_over_patients_where_a_patient_has_several_images(pages):
    alone, together = pages("multilabel"), pages("multilabel", patients=True)
    first = [page.record["labels"][0] for page in (alone, together)]
    assert first[0]["auc"] == first[1]["auc"]
    assert first[0]["auc_low"] != first[1]["auc_low"]
    assert first[1]["auc_low"] < first[1]["auc"] < first[1]["auc_high"]
    assert together.values["mean_auc_low"] == first[1]["auc_low"]  # of the only label with enough of both
    assert f"{first[1]['auc_low']:.4f} to {first[1]['auc_high']:.4f}" in together.text
