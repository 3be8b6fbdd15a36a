"""`recipes/evaluate.py` on a run of tiny phantoms; the report is held against the saved logits and other libraries."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import figures_as_a_pixel
from netcal.metrics import ECE
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, log_loss, recall_score

from ols.command_line import parse_config
from ols.evaluation.predictions import load_predictions
from recipes import evaluate, pretrain

ROOT = Path(__file__).parents[2]
NUM_TEST = 331  # odd, for two ranks


@contextmanager
def _refused(message: str):
    """Expect one line that matches, and no traceback."""
    errors = io.StringIO()
    with pytest.raises(SystemExit) as ended, redirect_stderr(errors):
        yield
    assert ended.value.code == 2
    assert re.search(message, errors.getvalue()), errors.getvalue()


def _evaluate(*arguments) -> None:
    evaluate.main(evaluate.parse_options([*map(str, arguments), "--data.workers=0", "--device=cpu", "--threads=1"]))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """An evaluated run of OLS on 165 classes of phantoms; so few steps that its errors are many."""
    folder = tmp_path_factory.mktemp("evaluate")
    arguments = {
        "run_dir": folder / "run",
        "data.root": folder / "phantoms",
        "data.image_size": 24,
        "data.workers": 0,
        "phantoms.num_train": 660,
        "phantoms.num_val": 200,
        "phantoms.num_test": NUM_TEST,
        "phantoms.image_size": 24,
        "train.epochs": 2,
        "train.global_batch_size": 33,
        "train.threads": 1,
        "train.device": "cpu",
    }
    with figures_as_a_pixel():
        pretrain.main(parse_config(pretrain.QUICKSTART, [f"--{name}={value}" for name, value in arguments.items()]))
    _evaluate(folder / "run", "--splits", "val,test")
    return folder / "run"


@pytest.fixture(scope="module")
def report(run) -> dict:
    return json.loads((run / "evaluation" / "report.json").read_text())


def test_the_predictions_give_the_figures_that_the_run_itself_reported(run, report):
    tested = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    raw = report["splits"]["test"]["raw"]
    assert raw["count"] == tested["test/count"] == NUM_TEST
    for name in ("top1", "top5", "balanced_accuracy", "macro_f1", "nll", "ece", "brier"):
        assert raw[name] == pytest.approx(tested[f"test/{name}"], abs=1e-6), name


def test_figures_are_those_of_other_libraries_from_the_saved_logits_alone(run, report):
    saved = load_file(run / "evaluation" / "test.safetensors")
    logits, targets = saved["logits"].double().numpy(), saved["targets"].numpy()
    val = load_file(run / "evaluation" / "val.safetensors")
    val_logits, val_targets = val["logits"].double().numpy(), val["targets"].numpy()

    def val_nll(log_t: float) -> float:
        return -log_softmax(val_logits / np.exp(log_t), axis=1)[np.arange(len(val_targets)), val_targets].mean()

    temperature = report["temperature"]["value"]
    assert temperature == pytest.approx(np.exp(minimize_scalar(val_nll, bounds=(-6, 6)).x), rel=1e-3)
    assert report["temperature"]["low"] < temperature < report["temperature"]["high"]
    assert abs(temperature - 1) > 0.05  # so that raw and scaled are told apart
    found = report["splits"]["test"]
    classes, predicted = np.arange(165), logits.argmax(axis=1)
    for name, values in (("raw", logits), ("scaled", logits / temperature)):
        probs = softmax(values, axis=1)
        assert found[name]["nll"] == pytest.approx(log_loss(targets, probs, labels=classes), abs=1e-6)
        assert found[name]["ece"] == pytest.approx(ECE(15).measure(probs, targets), abs=1e-6)
        assert found[name]["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(targets, predicted))
        assert found[name]["mean_confidence"] == pytest.approx(probs.max(axis=1).mean(), abs=1e-6)
    present = np.unique(targets)
    macro_f1 = f1_score(targets, predicted, labels=present, average="macro", zero_division=0)
    assert found["raw"]["macro_f1"] == pytest.approx(macro_f1)

    recall = recall_score(targets, predicted, labels=classes, average=None, zero_division=0)
    for k, record in enumerate(found["classes"]):
        assert record["images"] == (targets == k).sum()
        assert record["accuracy"] == (pytest.approx(recall[k]) if record["images"] else None)
        assert record["predicted"]["images"] == (predicted == k).sum()
    confusion = confusion_matrix(targets, predicted, labels=classes)
    names = [record["name"] for record in found["classes"]]
    np.fill_diagonal(confusion, 0)
    counts = [confusion[names.index(pair["true"]), names.index(pair["predicted"])] for pair in found["confused"]]
    assert counts == [pair["images"] for pair in found["confused"]]
    assert counts == sorted(confusion.ravel(), reverse=True)[: len(counts)]
    assert len(counts) == 20


def test_groups_and_modalities_divide_the_images_and_are_calibrated_by_their_own(run, report):
    saved = load_predictions(run / "evaluation" / "test.safetensors")
    found = report["splits"]["test"]
    group = np.array(saved.groups)[saved.targets.numpy()]
    probs = softmax(saved.logits.double().numpy(), axis=1)
    for key, names in (("groups", group), ("modalities", np.array([name.split("/")[0] for name in group]))):
        assert {record["name"] for record in found[key]} == set(names)
        for record in found[key]:
            chosen = names == record["name"]
            assert record["images"] == chosen.sum()
            accuracy = (probs.argmax(axis=1) == saved.targets.numpy())[chosen].mean()
            assert record["accuracy"] == pytest.approx(accuracy)
            assert record["accuracy_low"] - 1e-12 <= accuracy <= record["accuracy_high"] + 1e-12
            expected = ECE(15).measure(probs[chosen], saved.targets.numpy()[chosen])
            assert record["raw"]["ece"] == pytest.approx(expected, abs=1e-6)
            assert record["raw"]["ece_low"] <= record["raw"]["ece"] <= record["raw"]["ece_high"]
            assert record["raw"]["ece_null"] > 0


def test_the_most_confident_errors_are_errors_and_no_other_is_more_confident(run, report):
    saved = load_predictions(run / "evaluation" / "test.safetensors")
    confidence, predicted = saved.logits.double().softmax(1).max(1)
    wrong = predicted != saved.targets
    errors = report["splits"]["test"]["errors"]
    assert [error["confidence"] for error in errors] == pytest.approx(confidence[wrong].sort(descending=True)[0][:24])
    for error in errors:
        place = saved.sample_ids.index(error["sample_id"])
        assert wrong[place]
        assert saved.classes[saved.targets[place]] == error["true"]
        assert saved.classes[predicted[place]] == error["predicted"]
        assert saved.indices[place] == error["index"]


def test_soft_labels_are_those_of_the_best_epoch(run, report):
    test_record = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert report["epoch"] == test_record["epoch"]
    soft_labels = load_file(run / f"checkpoints/epoch-{report['epoch']:04d}/loss.safetensors")["soft_labels"]
    records = report["soft_labels"]["classes"]
    names = [record["name"] for record in records]
    assert len(records) == 165
    for k in (0, 77, 164):
        row = soft_labels[k].clone()
        assert records[k]["own"] == pytest.approx(float(row[k]))
        row[k] = -1
        assert records[k]["neighbours"][0]["probability"] == pytest.approx(float(row.max()))
        nearest = [names.index(neighbour["name"]) for neighbour in records[k]["neighbours"]]
        assert row[nearest].tolist() == pytest.approx(row.sort(descending=True)[0][:3].tolist())


def test_the_page_needs_nothing_else_and_has_every_section(run, report):
    page = (run / "evaluation" / "report.html").read_text()
    for beginning in ("<script", "<link", "@import", "url("):
        assert beginning not in page
    sources = [part.split('"')[0] for part in page.split('src="')[1:]]
    assert len(sources) == 24 + 7  # errors, and two of reliability, risk, groups, confusion, features, soft labels
    assert all(source.startswith("data:image/") for source in sources)
    targets = [part.split('"')[0] for part in page.split('href="#')[1:]]
    assert len(targets) == 11
    assert page.count("href=") == len(targets)
    assert all(f'<section id="{target}">' in page for target in targets)
    for error in report["splits"]["test"]["errors"]:
        assert error["sample_id"].replace("+", "&#43;") in page or error["sample_id"] in page
    raw = report["splits"]["test"]["raw"]
    assert f"ECE {raw['ece']:.4f} ({raw['ece_low']:.4f} to {raw['ece_high']:.4f}), null {raw['ece_null']:.4f}" in page


def test_every_file_carries_its_conditions(run, report):
    assert (report["format"], report["task"]) == (1, "multiclass")
    recorded = load_predictions(run / "evaluation" / "test.safetensors").conditions
    assert recorded["split"] == "test"
    for conditions in (recorded, report["conditions"]["report"], report["conditions"]["predictions"]["test"]):
        assert conditions["versions"]["torch"] == version("torch")
        assert conditions["device"].startswith("cpu")
        assert conditions["date"]
    table = (run / "evaluation" / "report.md").read_text()
    assert f"| images | {NUM_TEST} | {NUM_TEST} | 200 | 200 |" in table


def test_predictions_of_the_same_weights_and_images_are_kept_until_told_otherwise(run, tmp_path, capsys):
    folder = tmp_path / "copy"
    shutil.copytree(run, folder)
    path = folder / "evaluation" / "test.safetensors"
    before = path.stat().st_mtime_ns
    _evaluate(folder, "--report=false")
    assert path.stat().st_mtime_ns == before
    assert capsys.readouterr().out.count("kept") == 2
    _evaluate(folder, "--report=false", "--force")
    assert path.stat().st_mtime_ns > before
    before = path.stat().st_mtime_ns
    (weights,) = folder.glob("export/model.safetensors")
    other = bytearray(weights.read_bytes())
    other[-1] ^= 1
    weights.write_bytes(other)
    _evaluate(folder, "--report=false")
    assert path.stat().st_mtime_ns > before


def test_a_checkpoint_has_a_folder_of_its_own_and_the_best_is_what_was_exported(run, report):
    _evaluate(run, "--checkpoint=best", "--report=false", "--splits=val")
    place = run / "evaluation" / f"epoch-{report['epoch']:04d}"
    assert [path.name for path in place.iterdir()] == ["val.safetensors"]
    exported, best = (load_predictions(folder / "val.safetensors") for folder in (run / "evaluation", place))
    torch.testing.assert_close(best.logits, exported.logits)


def test_an_export_alone_is_evaluated_on_the_data_that_are_named(run, tmp_path):
    shutil.copytree(run / "export", tmp_path / "alone")
    _evaluate(
        tmp_path / "alone", f"--data.root={run.parent / 'phantoms'}", "--splits=test", f"--output={tmp_path / 'o'}"
    )
    expected, found = (load_predictions(f / "test.safetensors") for f in (run / "evaluation", tmp_path / "o"))
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.features, expected.features)
    alone = json.loads((tmp_path / "o" / "report.json").read_text())
    assert list(alone["splits"]) == ["test"]
    assert alone["soft_labels"] is None
    assert "Soft labels" not in (tmp_path / "o" / "report.html").read_text()
    with _refused(r"alone is an export alone: name its data set with --data\.root"):
        _evaluate(tmp_path / "alone")
    with _refused("alone is an export alone, it has no checkpoint 'best'"):
        _evaluate(tmp_path / "alone", "--checkpoint=best")


@pytest.mark.slow
def test_two_ranks_write_the_predictions_of_one(run, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = [run, "--report=false", "--splits=test", f"--output={tmp_path}", "--data.workers=0", "--device=cpu"]
    arguments.append("--threads=1")
    done = subprocess.run(
        [*torchrun, ROOT / "recipes" / "evaluate.py", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for split, count in (("val", 200), ("test", NUM_TEST)):
        one, two = (load_predictions(folder / f"{split}.safetensors") for folder in (run / "evaluation", tmp_path))
        assert two.conditions["num_processes"] == 2
        assert two.sample_ids == one.sample_ids
        assert len(set(two.sample_ids)) == count
        for name in ("logits", "targets", "indices", "features"):
            torch.testing.assert_close(getattr(two, name), getattr(one, name))


def test_what_cannot_be_evaluated_is_named(run, tmp_path, capsys):
    with _refused(r"no run and no export in .*nowhere"):
        _evaluate(tmp_path / "nowhere")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished, ignore=shutil.ignore_patterns("export", "evaluation"))
    with _refused("unfinished has no export: the run has not ended; --checkpoint best"):
        _evaluate(unfinished)
    with _refused(r"no checkpoint 'epoch-9999'; it has: epoch-0"):
        _evaluate(unfinished, "--checkpoint=epoch-9999")
    with pytest.raises(SystemExit):
        _evaluate(run, "--splits=val,tset")
    assert "unknown split 'tset'" in capsys.readouterr().err


def test_a_model_of_other_classes_is_refused(run, tree):
    tree.write_csvs()
    for checkpoint in ("export", "best"):
        with _refused("was trained on 165 classes, the data set has 4"):
            _evaluate(run, f"--data.root={tree.root}", f"--checkpoint={checkpoint}")
    description = run / "export" / "config.json"
    before = description.read_text()
    renamed = json.loads(before)
    renamed["pretrained_cfg"]["label_names"][3] = "renamed"
    description.write_text(json.dumps(renamed))
    try:
        with _refused("was trained on a class 'renamed' where the data set has"):
            _evaluate(run)
    finally:
        description.write_text(before)
