"""A study whose cells are fine-tunings on folds of tables."""

import csv
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from ols.evaluation.predictions import load_predictions
from ols.files import read_record
from ols.phantoms.targets import LesionConfig, write_lesion_phantoms
from ols.runs.folder import RunFolder
from ols.studies.columns import parse_column_options
from ols.studies.grid import Study, plan_runs
from ols.studies.results import load_cells

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = {
    "data": {"image_size": 32, "workers": 0},
    "model": {"name": "test_resnet"},
    "train": {"epochs": 2, "global_batch_size": 8, "device": "cpu", "threads": 1},
    "split": {"file": None},
}


def _study(folder: Path, **changes) -> Path:
    root = str(folder / "lesions" / "targets.csv")
    target = {
        "malignant": {"task": "binary", "data": {"root": root, "targets": ["malignant"]}},
        "area": {"task": "regression", "data": {"root": root, "targets": ["lesion_area"]}},
    }
    study = {
        "folder": str(folder / "study"),
        "configs": ["small.yaml"],
        "recipe": "finetune",
        "axes": {"target": target, "lr": [0.01, 0.001], "fold": [0, 1, 2, 3, 4], "seed": [0]},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    (folder / "study.yaml").write_text(yaml.safe_dump(study | changes, sort_keys=False))
    return folder / "study.yaml"


def _plan(file: Path):
    return plan_runs(Study(**yaml.safe_load(file.read_text())), file)


def test_a_cell_is_a_fold_and_folds_of_one_table_are_made_once(tmp_path):
    runs = _plan(_study(tmp_path))
    assert len(runs) == 2 * 2 * 5
    assert Counter(run.config.task for run in runs) == {"binary": 10, "regression": 10}
    assert Counter(run.config.loss["name"] for run in runs) == {"ols": 10, "mse": 10}  # what each task does by default
    assert {run.config.train.select_by for run in runs if run.config.task == "regression"} == {"mae"}
    assert len({run.config.split.file for run in runs}) == 2  # one a target: its strata are of it
    (run,) = [run for run in runs if run.run_dir.name == "malignant-lr0.001-fold3-seed0"]
    assert (run.own_config.split.fold, run.own_config.optim.peak_lr) == (3, 0.001)
    assert not run.is_complete


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overrides": {"split": {"fold": "all"}}, "axes": {"seed": [0]}}, "a cell is one fold"),
        ({"overrides": {"against": "none", "model": {"start": "imagenet"}}}, "against is for fine-tuning by itself"),
    ],
)
def test_what_is_no_cell_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        _plan(_study(tmp_path, **changes))


@pytest.mark.slow
def test_cells_are_trained_and_read_again_and_nothing_is_trained_twice(tmp_path, monkeypatch, capsys):
    write_lesion_phantoms(tmp_path / "lesions", LesionConfig(patients=30, image_size=36))
    axes = yaml.safe_load(_study(tmp_path).read_text())["axes"] | {"lr": [0.01], "fold": [1]}
    file = _study(tmp_path, axes=axes, columns=["--similarity", "--rows=200"])
    monkeypatch.syspath_prepend(str(RECIPES))
    import sweep

    monkeypatch.setattr(sys, "argv", ["sweep.py", str(file)])
    study, runs, _ = sweep.parse_study([str(file)])
    assert sweep.main(study, runs, dry_run=False) == 0
    assert "2 of 2 runs are complete" in capsys.readouterr().out

    cells = load_cells(runs, tmp_path / "study" / "logs")
    assert [cell.labels["target"] for cell in cells] == ["malignant", "area"]
    for cell in cells:
        assert [epoch for epoch, _ in cell.curve] == [0, 1] or [epoch for epoch, _ in cell.curve] == [1, 2]
        assert cell.seconds > 0
        assert not set(cell.val.patients) & set(cell.test.patients)
    first = cells[0]
    scores = (first.test.logits[:, 1] - first.test.logits[:, 0]).numpy()
    count = np.ones((1, len(scores)))
    of_package = first.task.of_draws(first.test.logits, first.test.targets)(count)[0]
    assert of_package == pytest.approx(roc_auc_score(first.test.targets.numpy(), scores))
    table = (tmp_path / "study" / "cells.csv").read_text().splitlines()
    assert table[0].startswith("target,lr,fold,seed,folder,state,seconds")
    assert sum(",done," in line for line in table) == 2
    rows = list(csv.DictReader(table))
    for cell, row in zip(cells, rows, strict=True):
        assert cell.columns
        for name, value in cell.columns.items():
            assert float(row[name]) == pytest.approx(value)

    # The same command again trains what is missing alone
    shutil.rmtree(cells[1].run_dir)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "study" / "runs").rglob("test.safetensors")}
    assert sweep.main(study, runs, dry_run=False) == 0
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
    assert len(load_cells(runs, tmp_path / "study" / "logs")) == 2
    sys.modules.pop("sweep", None)


@pytest.mark.slow
def test_a_cell_has_columns_of_similarity_localisation_and_confounder_and_the_page_a_section(
    tmp_path, monkeypatch, capsys
):
    write_lesion_phantoms(tmp_path / "lesions", LesionConfig(patients=30, image_size=36))
    table = str(tmp_path / "lesions" / "targets.csv")
    tagged = {"root": table, "targets": ["malignant"], "confounder": "tag", "confounder_class": "1"}
    file = _study(
        tmp_path,
        overrides={"task": "binary", "data": tagged},
        axes={"loss": ["hard", "ols"], "data.confounder_share": [1.0], "fold": [0]},
        columns=["--similarity", "--rows=200", "--masks", table, "--confounder", "own"],
    )
    monkeypatch.syspath_prepend(str(RECIPES))
    import sweep

    monkeypatch.setattr(sys, "argv", ["sweep.py", str(file)])
    study, runs, _ = sweep.parse_study([str(file)])
    assert sweep.main(study, runs, dry_run=False) == 0
    assert "page" in capsys.readouterr().out
    with (tmp_path / "study" / "cells.csv").open() as text:
        rows = list(csv.DictReader(text))
    assert len(rows) == 2
    for run, row in zip(runs, rows, strict=True):
        test = load_predictions(RunFolder(run.run_dir).predictions("test", "inverted"))
        score = (test.logits[:, 1] - test.logits[:, 0]).numpy()
        expected = roc_auc_score(test.targets.numpy(), score)
        assert float(row["confounder/inverted_auc"]) == pytest.approx(expected)
        assert 0 <= float(row["localisation/dice_own_area"]) <= 1
        assert int(float(row["localisation/images"])) == len(test.targets)  # every phantom has a lesion
        assert any(name.startswith("similarity/") and name.endswith("/cka") for name in row)
    page = (tmp_path / "study" / "study.md").read_text()
    assert "## Under the confounder" in page
    assert "hard less ols" in page

    # Of another layer, beside what else is there
    import columns

    folder = RunFolder(runs[0].run_dir)
    before = read_record(folder.columns)["columns"]
    columns.main(parse_column_options([str(folder.path), "--masks", table, "--layer", "layer1"]))
    after = read_record(folder.columns)["columns"]
    changed = {name for name in before if before[name] != after[name]}
    assert "localisation/dice_own_area" in changed
    assert all(name.startswith("localisation/") and not name.endswith("_centre_prior") for name in changed)
    sys.modules.pop("columns", None)
    sys.modules.pop("sweep", None)


@pytest.mark.slow
def test_heads_on_frozen_features_are_cells_that_share_one_extraction(tmp_path, monkeypatch, capsys):
    write_lesion_phantoms(tmp_path / "lesions", LesionConfig(patients=30, image_size=36))
    axes = {
        "head": {"ridge": {"heads": ["ridge"]}, "logistic": {"heads": ["logistic"]}},
        "fold": [0, 1],
    }
    malignant = {
        "task": "binary",
        "data": {"root": str(tmp_path / "lesions" / "targets.csv"), "targets": ["malignant"]},
    }
    changes = {"recipe": "probe", "axes": axes, "overrides": malignant, "parallel": 2}
    file = _study(tmp_path, **changes)
    monkeypatch.syspath_prepend(str(RECIPES))
    import sweep

    monkeypatch.setattr(sys, "argv", ["sweep.py", str(file)])
    study, runs, _ = sweep.parse_study([str(file)])
    assert sweep.main(study, runs, dry_run=False) == 0
    assert "4 of 4 runs are complete" in capsys.readouterr().out
    assert len(list((tmp_path / "study" / "features").glob("*.safetensors"))) == 1

    cells = load_cells(runs, tmp_path / "study" / "logs")
    assert len(cells) == 4
    for cell in cells:
        scores = (cell.test.logits[:, 1] - cell.test.logits[:, 0]).numpy()
        expected = roc_auc_score(cell.test.targets.numpy(), scores)
        assert sweep.Progress(file, runs, tmp_path).cells[cell.run_dir.name].measures["test/auc"] == pytest.approx(
            expected
        )
        assert not set(cell.val.patients) & set(cell.test.patients)
    by_fold = [{tuple(cell.test.sample_ids) for cell in cells if cell.labels["fold"] == fold} for fold in "01"]
    assert [len(tested) for tested in by_fold] == [1, 1]

    # Another number of views in the same folder is another study
    changes["overrides"] = malignant | {"views": 1}
    with pytest.raises(ValueError, match=r"another configuration:\n.*views: 0 -> 1"):
        _plan(_study(tmp_path, **changes))
    sys.modules.pop("sweep", None)
