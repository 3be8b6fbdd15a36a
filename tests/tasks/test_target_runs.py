"""Runs that predict labels, numbers and masks: trained, resumed, exported and evaluated from a small set in memory."""

import json

import numpy as np
import pytest
import torch
from conftest import accelerate_begins_anew, figures_as_a_pixel
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import mean_absolute_error, roc_auc_score

from ols.command_line import parse_config
from ols.evaluation.predictions import load_predictions
from ols.runs.export import load_description, load_export
from ols.runs.trained_model import find_trained
from ols.training.trainer import Trainer
from recipes import evaluate, pretrain

COUNTS = {"train": 48, "val": 40, "test": 40}
CLASSES = {"multilabel": ["bright", "disc"], "regression": ["level"], "mask": ["disc"]}


class Discs:
    """Gray noise of some level, on most images with a brighter disc whose pixels are the mask."""

    def __init__(self, kind: str, split: str):
        rng = np.random.default_rng(list(COUNTS).index(split))
        count = COUNTS[split]
        self.kind, self.split, self.classes, self.groups = kind, split, CLASSES[kind], ["US"] * len(CLASSES[kind])
        level, shown = rng.uniform(40, 120, count), rng.random(count) < 0.7
        rows, columns = np.mgrid[:32, :32]
        centre = rng.uniform(10, 22, (count, 2))
        inside = (rows - centre[:, :1, None]) ** 2 + (columns - centre[:, 1:, None]) ** 2 < 49
        self.masks = (inside & shown[:, None, None]).astype(np.uint8) * 255
        self.pixels = (level[:, None, None] + 0.4 * self.masks + rng.normal(0, 5, (count, 32, 32))).clip(0, 255)
        labels = np.stack([level > 80, shown], axis=1).astype(np.float32)
        labels[::7, 0] = np.nan
        self.targets = {
            "multilabel": labels,
            "regression": level.astype(np.float32),
            "mask": np.zeros(count, np.int64),
        }[kind]

    def __len__(self) -> int:
        return len(self.targets)

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index].astype(np.uint8))

    def mask(self, index: int) -> Image.Image:
        return Image.fromarray(self.masks[index])

    def sample_id(self, index: int) -> str:
        return f"{self.split}/{index}"

    def sample_group(self, index: int) -> str:
        return self.sample_id(index)

    def content(self) -> str:
        return f"{self.kind} {self.split}"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Run the recipe, or the evaluation of a run, on discs with targets of a kind."""

    def run(kind: str, *options: str, name: str = "run"):
        def open_discs(*_, **__):
            return {split: Discs(kind, split) for split in COUNTS}, "discs"

        monkeypatch.setattr("ols.data.sources.opening.open_sources", open_discs)
        monkeypatch.setattr("ols.data.sources.opening.find_form", lambda root: "folders")
        monkeypatch.setattr(pretrain, "find_form", lambda root: None)
        arguments = {
            "data.phantoms": "false",
            "data.root": tmp_path / "discs",
            "data.image_size": 32,
            "data.resize_size": 32,
            "data.workers": 0,
            "model.name": "test_resnet" if kind == "mask" else "test_convnext",
            "train.epochs": 2,
            "train.global_batch_size": 8,
            "train.device": "cpu",
            "train.threads": 1,
            "run_dir": tmp_path / name,
        }
        options = [*(f"--{key}={value}" for key, value in arguments.items()), *options]
        with accelerate_begins_anew(), figures_as_a_pixel():
            pretrain.main(parse_config(pretrain.QUICKSTART, options))
        return tmp_path / name

    return run


def _evaluated(run):
    options = [str(run), "--data.root=discs", "--data.workers=0", "--device=cpu", "--threads=1"]
    with accelerate_begins_anew():
        evaluate.main(evaluate.parse_options(options))
    return load_predictions(run / "evaluation" / "test.safetensors")


def _records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def _no_form(monkeypatch):
    monkeypatch.setattr(evaluate, "find_form", lambda root: None)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("multilabel", ["--task=multilabel", "--loss.name=bce"]),
        ("regression", ["--task=regression", "--loss.name=mse"]),
        ("mask", ["--task=segmentation", "--loss.name=ols", "--data.augment=radiology"]),
    ],
)
def test_a_run_that_is_killed_between_two_steps_ends_with_the_bits_of_one_that_is_not(
    start, monkeypatch, kind, options
):
    class Killed(BaseException):
        pass

    options = [*options, "--train.checkpoint_every_steps=2", "--train.epochs=1"]
    whole = start(kind, *options, name="whole")
    train_step, steps = Trainer.train_step, []

    def dying(self, batch):
        steps.append(None)
        if len(steps) == 4:
            raise Killed
        train_step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", dying)
        with pytest.raises(Killed):
            start(kind, *options, name="broken")
    broken = start(kind, *options, name="broken")
    ours, theirs = (load_file(run / "export" / "model.safetensors") for run in (broken, whole))
    assert [name for name, value in theirs.items() if not ours[name].equal(value)] == []
    ours, theirs = ([{**r, "train/images_per_second": 0} for r in _records(run)] for run in (broken, whole))
    assert ours == theirs


def test_a_run_of_labels_has_the_auc_of_each_over_its_known_images(start, capsys):
    run = start("multilabel", "--task=multilabel", "--loss.name=bce", "--loss.smoothing=0.1")
    printed = capsys.readouterr().out
    assert "task  any of 2 labels" in printed
    assert "by val mean_auc" in printed
    assert "test: AUC by label: bright " in printed
    assert "% unknown" in printed
    found = _evaluated(run)
    assert (found.task, found.classes, found.targets.dtype) == ("multilabel", ["bright", "disc"], torch.float32)
    tested = _records(run)[-1]
    for column, name in enumerate(found.classes):
        known = ~found.targets[:, column].isnan()
        area = roc_auc_score(found.targets[known, column], found.logits[known, column])
        assert tested[f"test/auc/{name}"] == pytest.approx(area)
    described = load_description(run / "export")["ols"]
    assert (described["task"], described["task_state"]) == ("multilabel", {})


def test_a_run_of_numbers_tells_errors_in_units_and_exports_what_outputs_mean(start, capsys):
    run = start("regression", "--task=regression", "--loss.name=huber")
    printed = capsys.readouterr().out
    train = Discs("regression", "train").targets.astype(float)
    assert f"the number level, {train.mean():.4g} +- {train.std():.4g} in training" in printed
    assert "that of predicting the training mean" in printed
    state = load_description(run / "export")["ols"]["task_state"]
    assert state == pytest.approx({"mean": train.mean(), "std": train.std()})
    assert find_trained(run, "best").task_state == state
    found = _evaluated(run)
    predicted = state["mean"] + state["std"] * found.logits[:, 0].double()
    assert _records(run)[-1]["test/mae"] == pytest.approx(mean_absolute_error(found.targets, predicted))
    assert _records(run)[-1]["test/mae_of_mean"] == pytest.approx(np.abs(found.targets.numpy() - train.mean()).mean())


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["dice_bce", "ols"])
def test_a_run_of_masks_learns_where_the_disc_is(start, loss, capsys):
    run = start(
        "mask",
        "--task=segmentation",
        f"--loss.name={loss}",
        "--train.epochs=8",
    )
    printed = capsys.readouterr().out
    assert "task  the pixels of disc" in printed
    assert "images have an empty mask" in printed
    tested = _records(run)[-1]
    assert tested["test/dice"] > 0.5
    description = load_description(run / "export")
    assert description["architecture"] == "unet:test_resnet"
    assert description["pretrained_cfg"]["label_names"] == ["background", "disc"]
    model, _ = load_export(run / "export")
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 2, 32, 32)
    found = _evaluated(run)
    assert found.targets.equal(torch.from_numpy(Discs("mask", "test").masks > 0).long())
    if loss == "ols":
        labels = find_trained(run).soft_labels
        assert labels.shape == (2, 2)
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(2))
        assert (labels.diagonal() > 0.5).all()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "regression",
            ["--task=multiclass"],
            "a multiclass task needs targets of kind 'class', these are 'regression'",
        ),
        ("mask", ["--task=regression", "--loss.name=mse"], "kind 'regression', these are 'mask': disc"),
        ("regression", ["--task=regression"], "loss ols does not fit a regression task; those that do: mse, l1, huber"),
        (
            "multilabel",
            ["--task=multilabel", "--loss.name=bce", "--data.sampling=class_balanced"],
            "data.sampling class_balanced needs images of one class each",
        ),
        (
            "regression",
            ["--task=regression", "--loss.name=mse", "--data.class_weights=inverse"],
            "data.class_weights inverse needs images of one class each",
        ),
        (
            "multilabel",
            ["--task=multilabel", "--loss.name=bce", "--data.mixup_alpha=0.2"],
            "data.mixup_alpha needs images of one class each",
        ),
        ("mask", ["--task=segmentation", "--loss.name=mse"], "loss mse does not fit a segmentation task"),
        ("mask", ["--task=segmentation", "--positive=disc", "--loss.name=ols"], "positive names the positive class of"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(start, capsys, kind, options, message):
    with pytest.raises(SystemExit):
        start(kind, *options)
    assert message in capsys.readouterr().err
