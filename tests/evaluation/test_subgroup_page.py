"""Subgroups of a run and of all test folds, through both recipes, against scikit-learn."""

import csv
import json
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from conftest import accelerate_begins_anew, figures_as_a_pixel
from sklearn.metrics import recall_score, roc_auc_score

from ols.command_line import parse_config
from ols.config import FinetuneConfig
from ols.data.sources.table import Table
from ols.data.splits import make_folds, save_folds
from ols.evaluation.draws import BinaryOutputs
from ols.evaluation.fold_runs import fold_runs, load_fold_runs
from ols.evaluation.predictions import Predictions, load_predictions
from ols.evaluation.subgroup_page import asked_of, measure_subgroups, read_attributes, with_subgroups
from ols.evaluation.subgroups import markdown
from ols.phantoms.targets import LesionConfig, write_lesion_phantoms
from ols.tasks import build_task
from ols.tasks.report import parts
from recipes import evaluate, subgroups


def test_subgroups_are_columns_and_bands_of_numbers():
    table = SimpleNamespace(attributes={"sex": np.array(["F", "M"]), "age": np.array(["39.5", ""])})
    found = read_attributes(SimpleNamespace(source=table), ["sex", "age:40,60"])
    assert {name: values.tolist() for name, values in found.items()} == {"sex": ["F", "M"], "age": ["<40", ""]}
    for wanted, message in (
        ("view", "no column 'view' for subgroups; it has sex, age"),
        ("sex:1,2", "sex 'F' is no number"),
        ("age:young", "named like age:40,60, got 'age:young'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_attributes(table, [wanted])
    with pytest.raises(ValueError, match="only a table of targets has columns"):
        read_attributes(SimpleNamespace(), ["sex"])
    with pytest.raises(ValueError, match="binary or multilabel task, this one is multiclass"):
        asked_of(build_task("multiclass", ["a", "b"], ["", ""]))


def test_each_of_several_labels_is_measured_over_the_images_where_it_is_known():
    rng = np.random.default_rng(0)
    names, sex = [f"{number}.png" for number in range(60)], np.where(rng.random(60) < 0.5, "F", "M")
    labels = rng.integers(0, 2, (60, 2)).astype(np.float32)
    logits = rng.normal(size=(60, 2)).astype(np.float32) + labels
    labels[rng.random((60, 2)) < 0.2] = np.nan
    task = build_task("multilabel", ["edema", "mass"], ["", ""])
    found = Predictions(
        torch.from_numpy(logits), torch.from_numpy(labels), torch.arange(60), names, names, task.classes, ["", ""],
        task.name,
    )  # fmt: skip
    place = names[::-1]  # the table has its own order
    table = MagicMock(
        spec=["attributes", "sample_id", "__len__"], attributes={"sex": sex[::-1]}, sample_id=place.__getitem__
    )
    table.__len__.return_value = 60
    rows, gaps = measure_subgroups({label: BinaryOutputs.of(found, label) for label in asked_of(task)}, table, ["sex"])
    assert [(row.label, row.value) for row in rows] == [(k, s) for k in ("edema", "mass") for s in ("F", "M")]
    for row in rows:
        column = task.classes.index(row.label)
        inside = (sex == row.value) & ~np.isnan(labels[:, column])
        truth, score = labels[inside, column], logits[inside, column]
        assert (row.images, row.positives) == (inside.sum(), truth.sum())
        assert row.measures["auc"].value == pytest.approx(roc_auc_score(truth, score))
        assert row.measures["specificity"].value == pytest.approx(recall_score(truth, score > 0, pos_label=0))
    assert {gap.label for gap in gaps} == {"edema", "mass"}
    text = markdown(rows, gaps)
    assert "| label | attribute | value |" in text
    assert f"| mass | sex | M | {rows[3].images} |" in text
    empty = parts.Report("", [], [], "", {}, [], {}, "", [])
    section = with_subgroups(empty, rows, gaps).sections[0]
    tables = [part for part in section.parts if isinstance(part, parts.Table)]
    assert [[column.title for column in one.columns][:2] for one in tables] == [["label", "attribute"]] * 2
    assert all(len(row.cells) == len(one.columns) for one in tables for row in one.rows)


def test_folds_that_are_not_all_there_are_named(tmp_path):
    (tmp_path / "fold1").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no runs fold0, fold1 and so on; it has \[1\]"):
        fold_runs(tmp_path)


@pytest.mark.slow  # trains
def test_subgroups_of_a_run_and_of_all_folds_are_those_of_the_saved_logits(tmp_path, monkeypatch):
    write_lesion_phantoms(tmp_path / "set", LesionConfig(patients=40, most_images=2, image_size=32))
    path = tmp_path / "set" / "targets.csv"
    save_folds(tmp_path / "folds.json", make_folds(Table(path, targets=["malignant"]), folds=2, val_share=0.3))
    monkeypatch.syspath_prepend("recipes")
    from recipes import finetune

    given = {
        "task": "binary", "data.root": path, "data.targets": "[malignant]", "data.image_size": 32, "data.workers": 0,
        "split.file": tmp_path / "folds.json", "split.fold": "all", "model.name": "test_resnet", "train.epochs": 1,
        "train.global_batch_size": 8, "train.device": "cpu", "train.threads": 1, "run_dir": tmp_path / "run",
    }  # fmt: skip
    (tmp_path / "empty.yaml").write_text("loss: {name: hard}\n")
    with accelerate_begins_anew(), figures_as_a_pixel():
        argv = [f"--{key}={value}" for key, value in given.items()]
        finetune.main(parse_config(tmp_path / "empty.yaml", argv, FinetuneConfig))
    with path.open() as file:
        sex = {row["filename"]: row["sex"] for row in csv.DictReader(file)}

    arm = tmp_path / "run" / "none"
    run = arm / "fold0"
    options = ["--device=cpu", "--threads=1", "--data.workers=0", "--subgroups", "sex", "age:50"]
    with accelerate_begins_anew():
        evaluate.main(evaluate.parse_options([str(run), *options]))
    tested = load_predictions(run / "evaluation" / "test.safetensors")
    women = np.array([sex[name] == "F" for name in tested.sample_ids])
    score = (tested.logits[:, 1] - tested.logits[:, 0]).double().numpy()
    truth = tested.targets.numpy()
    report = json.loads((run / "evaluation" / "report.json").read_text())
    row = next(row for row in report["subgroups"]["rows"] if row["value"] == "F")
    assert row["images"] == women.sum()
    assert row["measures"]["auc"]["value"] == pytest.approx(roc_auc_score(truth[women], score[women]))
    recall = recall_score(truth[women], score[women] > 0, zero_division=0)
    assert row["measures"]["sensitivity"]["value"] == pytest.approx(recall)
    assert '<section id="subgroups">' in (run / "evaluation" / "report.html").read_text()
    assert "| age | >=50 |" in (run / "evaluation" / "subgroups.md").read_text()

    monkeypatch.setattr(sys, "argv", ["subgroups.py", str(arm), "--subgroups", "sex"])
    subgroups.main()
    folds, line = load_fold_runs(arm), None
    aucs = []
    for fold in folds.folds:
        women = np.array([sex[name] == "F" for name in fold.sample_ids])
        aucs.append(roc_auc_score(fold.targets[women], (fold.logits[:, 1] - fold.logits[:, 0])[women]))
    count = sum(value == "F" for value in sex.values())
    line = next(line for line in (arm / "subgroups.md").read_text().splitlines() if line.startswith("| sex | F |"))
    assert line.startswith(f"| sex | F | {count} |")
    assert f"| {np.mean(aucs):.3f}" in line
