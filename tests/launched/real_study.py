"""A study of tiny real trainings, for tests that compare what became of its cells."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SWEEP = [sys.executable, str(ROOT / "recipes" / "sweep.py")]


def write_study(file: Path, folder: Path, *, data: Path, epochs: int, seeds: int) -> None:
    """Write a study of two losses and some seeds."""
    study = {
        "folder": str(folder),
        "configs": [str(ROOT / "recipes" / "configs" / "quickstart.yaml")],
        "overrides": {
            "data": {"root": str(data), "image_size": 16, "resize_size": 16, "workers": 0},
            "phantoms": {"num_train": 200, "num_val": 170, "num_test": 165, "image_size": 16},
            "train": {"epochs": epochs, "global_batch_size": 50, "threads": 1},
        },
        "axes": {
            "model": ["test_resnet"],
            "loss": {"hard": {"name": "hard"}, "ols": {"name": "ols"}},
            "seed": list(range(seeds)),
        },
        "evaluate": False,
    }
    file.write_text(yaml.safe_dump(study, sort_keys=False))


def train_locally(folder: Path, *, epochs: int, seeds: int) -> Path:
    """Train a study on this machine without a disturbance; return the folder of its runs."""
    file = folder / "local.yaml"
    write_study(file, folder / "local", data=folder / "phantoms", epochs=epochs, seeds=seeds)
    subprocess.run([*SWEEP, str(file), "--parallel=2"], check=True, stdout=subprocess.DEVNULL)
    return folder / "local" / "runs"


def assert_same_results(expected: Path, found: Path, *, epochs: int) -> None:
    """Make sure that runs have the same weights to the bit, and that each epoch was logged once."""
    names = sorted(path.parent.name for path in expected.glob("*/export"))
    assert names
    assert sorted(path.parent.name for path in found.glob("*/export")) == names
    for name in names:
        weights = [runs / name / "export" / "model.safetensors" for runs in (expected, found)]
        assert weights[0].read_bytes() == weights[1].read_bytes(), name
        assert logged_epochs(found / name) == dict.fromkeys(range(1, epochs + 1), 1), name


def logged_epochs(run_dir: Path) -> Counter[int]:
    """Return how often each epoch of a run has a line of validation measures."""
    records = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return Counter(record["epoch"] for record in records if "val/top1" in record)
