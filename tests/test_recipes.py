import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RADIOLOGY13 = ROOT.parent / "shared" / "data" / "radiology13"


def _launch(folder: Path, *arguments: str) -> str:
    accelerate = [sys.executable, "-m", "accelerate.commands.launch"]
    done = subprocess.run(
        [*accelerate, ROOT / "recipes" / "pretrain.py", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_accelerate_launches_the_recipe_on_phantoms_that_it_renders_first(tmp_path):
    printed = _launch(
        tmp_path,
        "--dry_run",
        "--data.image_size=16",
        "--data.resize_size=16",
        "--phantoms.num_train=200",
        "--phantoms.num_val=170",
        "--phantoms.num_test=165",
        "--phantoms.image_size=16",
        "--train.global_batch_size=100",
        "--loss.name=hard",
    )
    assert "train       200 images, 165 of 165 classes" in printed
    assert "val         170 images" in printed
    assert "absent" not in printed
    assert "tensorboard --logdir runs" in printed
    run_dir = tmp_path / "runs" / "phantoms-test_resnet-hard-seed0-dry_run"
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["test/count"] == 165
    assert "--dry_run" in (run_dir / "command.txt").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not RADIOLOGY13.is_dir(), reason=f"no {RADIOLOGY13}: the phantoms above take the same path")
def test_the_recipe_takes_real_images(tmp_path):
    config = ROOT / "recipes" / "configs" / "radiology13.yaml"
    printed = _launch(tmp_path, "--config", str(config), f"--data.root={RADIOLOGY13}", "--dry_run", "--loss.name=hard")
    assert "128 images, 13 of 13 classes" in printed


@pytest.mark.slow
def test_the_quick_start_reaches_60_percent_of_165_classes(tmp_path):
    printed = _launch(tmp_path)
    (metrics,) = tmp_path.glob("runs/*/metrics.jsonl")
    test = json.loads(metrics.read_text().splitlines()[-1])
    assert test["test/count"] == 2000
    assert test["test/top1"] >= 0.6
    assert "best epoch" in printed


@pytest.mark.parametrize("recipe", ["pretrain", "evaluate", "pack", "audit", "sweep"])
def test_a_wrong_data_root_is_answered_in_one_line_before_anything_heavy_is_imported(recipe, tmp_path):
    arguments = ["--data.root", str(tmp_path / "nowhere")]
    if recipe == "sweep":
        arguments = [str(ROOT / "recipes" / "configs" / "sweeps" / "radiology13.yaml"), *arguments]
    arguments += {"pretrain": ["--data.phantoms=false"], "evaluate": ["run"], "pack": ["--output=pack"]}.get(recipe, [])
    command = [sys.executable, "-X", "importtime", str(ROOT / "recipes" / f"{recipe}.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2
    assert "nowhere is no data set" in lines[-1]
    assert "Traceback" not in done.stderr
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert not imported & {"timm", "accelerate", "torchvision", "torchmetrics"}
    assert list(tmp_path.iterdir()) == []
