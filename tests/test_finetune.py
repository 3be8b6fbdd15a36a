"""The recipe of fine-tuning: folds of one table, each from the bits of its source, and what they say together."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import accelerate_begins_anew, figures_as_a_pixel
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ols.command_line import parse_config
from ols.config import Config, DataConfig, FinetuneConfig, ProbeConfig
from ols.data.options import SplitOptions
from ols.data.sources.table import Table
from ols.data.splits import make_folds, save_folds
from ols.data.transforms import Preprocessing
from ols.evaluation.predictions import load_predictions
from ols.files import read_record
from ols.models.build import build_model
from ols.phantoms.targets import LesionConfig, write_lesion_phantoms
from ols.runs.export import export_model, load_export

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Patients with lesions, a split in two folds, and an export to start from."""
    root = tmp_path_factory.mktemp("data")
    write_lesion_phantoms(root / "lesions", LesionConfig(patients=24, most_images=3, image_size=32))
    table = Table(root / "lesions" / "targets.csv", targets=["malignant"])
    save_folds(root / "folds.json", make_folds(table, folds=2, val_share=0.5))
    torch.manual_seed(7)
    export_model(
        root / "source",
        build_model("test_resnet", 5),
        architecture="test_resnet",
        classes=list("abcde"),
        groups=[""] * 5,
        preprocessing=Preprocessing(image_size=32, resize_size=36),
        metrics={},
        task="multiclass",
    )
    return root


@pytest.fixture
def finetune(data, tmp_path, monkeypatch):
    """Run the recipe; return its folder."""
    monkeypatch.syspath_prepend(str(RECIPES))
    import finetune as recipe

    def run(*options, task="binary", targets="[malignant]"):
        arguments = {
            "task": task,
            "data.root": data / "lesions" / "targets.csv",
            "data.targets": targets,
            "data.image_size": 32,
            "data.workers": 0,
            "split.file": data / "folds.json",
            "split.fold": "all",
            "model.name": "test_resnet",
            "train.epochs": 1,
            "train.global_batch_size": 8,
            "train.device": "cpu",
            "train.threads": 1,
            "run_dir": tmp_path / "run",
        }
        (tmp_path / "empty.yaml").write_text("loss: {}\n")
        argv = [*(f"--{key}={value}" for key, value in arguments.items() if value is not None), *options]
        with accelerate_begins_anew(), figures_as_a_pixel():
            recipe.main(parse_config(tmp_path / "empty.yaml", argv, FinetuneConfig))
        return tmp_path / "run"

    yield run
    sys.modules.pop("finetune", None)
    sys.modules.pop("pretrain", None)


@pytest.mark.slow
def test_every_fold_starts_from_the_bits_of_its_source_and_no_fold_from_another(finetune, data, capsys):
    """Where one model is built outside the loop over folds, fold 2 starts from weights that saw its test images."""
    run = finetune(
        f"--model.start=run:{data / 'source'}", "--loss.name=hard", "--optim.peak_lr=1e-30", "--optim.weight_decay=0",
        "--optim.name=sgd", "--against=none",
    )  # fmt: skip
    source = load_file(data / "source" / "model.safetensors")
    for fold in (0, 1):
        trained = load_file(run / "run" / f"fold{fold}" / "export" / "model.safetensors")
        for name, value in source.items():
            if not name.startswith("fc.") and "running" not in name and "batches" not in name:
                assert torch.equal(trained[name], value), name
    printed = capsys.readouterr().out
    assert "run, fold 1 of 2" in printed
    assert "none, fold 1 of 2" in printed

    # Together: every image once, and scikit-learn's AUC of them
    folds = [load_predictions(run / "run" / f"fold{fold}" / "evaluation" / "test.safetensors") for fold in (0, 1)]
    table = Table(data / "lesions" / "targets.csv", targets=["malignant"])
    assert sorted(name for fold in folds for name in fold.sample_ids) == sorted(map(table.sample_id, range(len(table))))
    scores = np.concatenate([(fold.logits[:, 1] - fold.logits[:, 0]).numpy() for fold in folds])
    truth = np.concatenate([fold.targets.numpy() for fold in folds])
    summary = read_record(run / "summary.json")
    values = {arm: summary[arm]["together"]["value"] for arm in ("run", "none")}
    assert values["run"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    assert summary["difference_together"]["difference"] == pytest.approx(values["run"] - values["none"])
    assert summary["run"]["within_folds"]["value"] == pytest.approx(np.mean(summary["run"]["by_fold"]))
    assert len(summary["run"]["by_fold"]) == 2

    # The same command again trains nothing
    before = {path: path.stat().st_mtime_ns for path in run.rglob("model.safetensors")}
    finetune(
        f"--model.start=run:{data / 'source'}", "--loss.name=hard", "--optim.peak_lr=1e-30", "--optim.weight_decay=0",
        "--optim.name=sgd", "--against=none",
    )  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in run.rglob("model.safetensors")} == before
    assert capsys.readouterr().out.count("has its predictions") == 4

    # Another configuration does not pass off these predictions as its own
    with pytest.raises(ValueError, match=r"another configuration:\n.*optim.peak_lr"):
        finetune(
            f"--model.start=run:{data / 'source'}", "--loss.name=hard", "--optim.peak_lr=0.1", "--optim.weight_decay=0",
            "--optim.name=sgd", "--against=none",
        )  # fmt: skip


@pytest.mark.slow
def test_a_head_with_sex_beside_the_features_learns_a_number_with_a_frozen_trunk(finetune, data):
    run = finetune(
        f"--model.start=run:{data / 'source'}", "--data.side=[sex]", "--head.kind=mlp", "--head.width=16",
        "--head.side_inputs=1", "--freeze.scheme=head", "--train.epochs=2", "--split.fold=1", "--optim.name=adamw",
        task="regression", targets="[lesion_area]",
    )  # fmt: skip
    model, described = load_export(run / "export")
    source = load_file(data / "source" / "model.safetensors")
    for name, value in model.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(value, source[name]), name  # every buffer, too
    assert described["architecture"].endswith("-variant-of-ols")
    assert described["ols"]["shape"]["head"]["side_inputs"] == 1
    images = torch.rand(2, 1, 32, 32)
    one, other = (model(images, side=torch.full((2, 1), value)) for value in (0.0, 1.0))
    assert not torch.equal(one, other)
    assert read_record(run / "summary.json")["measure"] == "mae"


@pytest.mark.slow
def test_masks_are_found_with_online_label_smoothing(finetune):
    run = finetune("--loss.name=ols", "--split.fold=0", task="segmentation", targets="[lesion]")
    summary = read_record(run / "summary.json")
    assert summary["measure"] == "dice"
    assert 0 <= summary["none"]["together"]["value"] <= 1
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    assert {"val/masks_worst", "val/masks_best", "test/masks_worst", "test/masks_best"} <= set(events.Tags()["images"])


@pytest.mark.slow
def test_two_phases_and_a_truncated_trunk_come_back_from_the_export(finetune, data):
    run = finetune(
        f"--model.start=run:{data / 'source'}", "--model.truncate_after=layer3", "--freeze.first_epochs=1",
        "--train.epochs=2", "--split.fold=0", "--loss.name=hard",
    )  # fmt: skip
    assert json.loads((run / "export" / "config.json").read_text())["ols"]["shape"]["truncate_after"] == "layer3"
    model, _ = load_export(run / "export")
    assert not any(name.startswith("layer4") for name in model.state_dict())
    found = load_predictions(run / "evaluation" / "test.safetensors")
    assert found.logits.isfinite().all()


def test_the_configuration_of_a_fold_is_an_ordinary_one():
    config = FinetuneConfig(
        data=DataConfig(phantoms=True),
        split=SplitOptions(fold="all", file="folds.json"),
        against="imagenet",
        loss={"name": "ols"},
    )
    own = config.of_fold(3, "imagenet", "runs/x/fold3")
    assert type(own) is Config
    assert not own.data.phantoms  # which are those of targets, and written once
    assert (own.split.fold, own.split.file, own.model.start, own.run_dir) == (
        3,
        "folds.json",
        "imagenet",
        "runs/x/fold3",
    )


def test_the_quick_starts_of_fine_tuning_and_probing_are_read():
    config = parse_config(RECIPES / "configs" / "finetune" / "quickstart.yaml", [], FinetuneConfig)
    assert (config.against, config.split.fold, config.train.select_by) == ("none", "all", "auc")
    assert parse_config(RECIPES / "configs" / config.source, []).run_dir == "runs/finetune-source"
    assert parse_config(RECIPES / "configs" / "probe" / "quickstart.yaml", ["--views=2"], ProbeConfig).views == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"against": "none"}, "against: none is what model.start is, too"),
        ({"against": "imagenett"}, "against: unknown start"),
        ({"data.side": "[sex]"}, "data.side names 1 columns, head.side_inputs takes 0"),
        ({"split.fold": "-1"}, "split.fold must be a number from 0, or all"),
        ({"split.share": "0"}, r"split.share must lie in"),
        ({"head.width": "3"}, "head.width 3 has no effect on a head of kind linear"),
        ({"task": "segmentation", "head.dropout": "0.5"}, "have no effect on a segmentation task"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(options, message, tmp_path, capsys):
    (tmp_path / "empty.yaml").write_text("loss: {}\n")
    with pytest.raises(SystemExit):
        parse_config(tmp_path / "empty.yaml", [f"--{key}={value}" for key, value in options.items()], FinetuneConfig)
    import re

    assert re.search(message, capsys.readouterr().err)
