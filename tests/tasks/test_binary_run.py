"""A set of two classes, from training to the page of the report; the AUC is held against scikit-learn's."""

import json

import numpy as np
import pytest
from conftest import accelerate_begins_anew, figures_as_a_pixel
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, roc_auc_score

from ols.command_line import parse_config
from recipes import evaluate, pretrain

COUNTS = {"train": 24, "val": 30, "test": 40}


@pytest.fixture
def folder(tmp_path):
    """Noise, a little brighter in the positive class, so that it can be told from the other but not always."""
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for label, (name, share) in enumerate((("benign", 2), ("malignant", 1))):
            place = tmp_path / "set" / split / name
            place.mkdir(parents=True)
            for number in range(share * count // 3):
                pixels = rng.normal(110 + 20 * label + rng.normal(0, 20), 30, (16, 16))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number}.png")
    return tmp_path


@pytest.fixture
def train(folder):
    def run(*options: str):
        arguments = {
            "data.phantoms": "false",
            "data.root": folder / "set",
            "data.image_size": 32,
            "data.resize_size": 32,
            "data.workers": 0,
            "model.name": "test_convnext",
            "train.epochs": 3,
            "train.global_batch_size": 8,
            "train.device": "cpu",
            "train.threads": 1,
            "run_dir": folder / "run",
        }
        options = [*(f"--{name}={value}" for name, value in arguments.items()), *options]
        with accelerate_begins_anew(), figures_as_a_pixel():
            pretrain.main(parse_config(pretrain.QUICKSTART, options))
        return folder / "run"

    return run


def test_a_binary_run_is_selected_exported_and_reported_by_its_auc(train, capsys):
    run = train("--task=binary")
    printed = capsys.readouterr().out
    assert "task  malignant (positive) or benign" in printed
    assert "by val auc" in printed
    assert "test: The AUC is " in printed
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    areas = {record["epoch"]: record["val/auc"] for record in records if "val/auc" in record}
    best = json.loads((run / "checkpoints" / "best.json").read_text())
    assert len(areas) == 3
    assert best["metric"] == "val/auc"
    assert best["best"]["metric"] == max(areas.values()) == areas[best["best"]["epoch"]]
    described = json.loads((run / "export" / "config.json").read_text())
    assert (described["ols"]["task"], described["num_classes"]) == ("binary", 2)

    evaluate.main(evaluate.parse_options([str(run), "--data.workers=0", "--device=cpu", "--threads=1"]))
    saved = load_file(run / "evaluation" / "test.safetensors")
    score, positive = (saved["logits"][:, 1] - saved["logits"][:, 0]).numpy(), saved["targets"].numpy() == 1
    assert positive.sum() == 13
    report = json.loads((run / "evaluation" / "report.json").read_text())
    found = report["splits"]["test"]["raw"]
    assert report["task"] == "binary"
    assert found["auc"] == pytest.approx(roc_auc_score(positive, score))
    assert found["average_precision"] == pytest.approx(average_precision_score(positive, score))
    assert 0 <= found["auc_low"] < found["auc"] < found["auc_high"] <= 1
    assert records[-1]["test/auc"] == pytest.approx(found["auc"], abs=1e-6)
    interval = f"{found['auc_low']:.4f} to {found['auc_high']:.4f}"
    said = f"The AUC is {found['auc']:.4f} ({interval}) of 13 positives (malignant)"
    for name in ("report.html", "report.md"):
        assert said in (run / "evaluation" / name).read_text()
    assert '<section id="roc">' in (run / "evaluation" / "report.html").read_text()


def test_what_does_not_go_with_a_binary_task_is_refused_before_training(train, folder, capsys):
    for option, message in (
        ("--train.select_by=top5", "train.select_by: top5 chooses no epoch of a binary task; known: auc, "),
        ("--task=ternary", "unknown task 'ternary'; known: multiclass, binary"),
    ):
        with pytest.raises(SystemExit):
            train("--task=binary", option)
        assert message in capsys.readouterr().err
    for split in COUNTS:
        (folder / "set" / split / "third").mkdir()
        Image.new("L", (16, 16)).save(folder / "set" / split / "third" / "0.png")
    with pytest.raises(SystemExit):
        train("--task=binary")
    assert "needs two classes, the data set has 3: benign, malignant, third" in capsys.readouterr().err
