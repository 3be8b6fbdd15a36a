"""A study whose processes are killed at random moments ends as one that was left alone."""

import csv
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml

from ols.runs.folder import RunFolder
from ols.studies.jobs import read_attempts
from ols.studies.launchers.local import is_running

ROOT = Path(__file__).parents[2]
LOSSES, SEEDS = ("hard", "ols"), (0, 1, 2)
NAMES = [f"test_resnet-{loss}-seed{seed}" for seed in SEEDS for loss in LOSSES]
KILLED = ("cell", "both", "study")  # in turn


class TinyStudy:
    """Six cells of seconds each, two at a time."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.file = folder / name, folder / f"{name}.yaml"
        study = {
            "folder": str(self.folder),
            "configs": [str(ROOT / "recipes" / "configs" / "quickstart.yaml")],
            "overrides": {
                "data": {"root": str(folder / "phantoms"), "image_size": 16, "resize_size": 16, "workers": 0},
                "phantoms": {"num_train": 200, "num_val": 170, "num_test": 165, "image_size": 16},
                "train": {"epochs": 4, "global_batch_size": 50, "threads": 1},
            },
            "axes": {"model": ["test_resnet"], "loss": list(LOSSES), "seed": list(SEEDS)},
            "evaluate": False,
            "parallel": 2,
        }
        self.file.write_text(yaml.safe_dump(study, sort_keys=False))

    def start(self) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "recipes" / "sweep.py"), str(self.file)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def run(self, name: str) -> RunFolder:
        return RunFolder(self.folder / "runs" / name)

    def running(self) -> dict[str, int]:
        """Process group of each cell that runs, whoever has started it."""
        logs = self.folder / "logs"
        texts = {name: (logs / f".{name}.lock").read_text() for name in NAMES if is_running(logs, name)}
        return {name: int(text.split()[2]) for name, text in texts.items() if text}

    def measures(self) -> dict[str, dict[str, str]]:
        """What the table of cells says of each, but for its seconds."""
        with (self.folder / "cells.csv").open() as file:
            return {
                row.pop("folder"): {key: row[key] for key in row if key != "seconds"} for row in csv.DictReader(file)
            }


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_as_one_that_was_left_alone(tmp_path):
    alone, killed = TinyStudy(tmp_path, "alone"), TinyStudy(tmp_path, "killed")
    assert alone.start().wait() == 0
    of_a_cell = statistics.median(read_attempts(alone.folder / "logs", name)[0].seconds for name in NAMES)

    rng, kills = np.random.default_rng(0), Counter()
    study = killed.start()
    for victim in KILLED:
        if study.poll() is not None:
            study = killed.start()
        _wait(killed.running)
        time.sleep(rng.uniform(0.1, 0.8) * of_a_cell)
        groups = _wait(killed.running)
        assert study.poll() is None
        if victim != "cell":
            study.kill()
            study.wait()
        for name in {"cell": [rng.choice(list(groups))], "both": groups, "study": []}[victim]:
            with suppress(ProcessLookupError):  # it may have just ended
                os.killpg(groups[name], signal.SIGKILL)
            kills[name] += not killed.run(name).is_complete
    study.wait()
    assert killed.start().wait() == 0

    assert sum(kills.values()) >= 2
    for name in NAMES:
        run = killed.run(name)
        assert len(run.environment.read_text().splitlines()) <= 1 + kills[name]  # a line a start
        assert (run.export / "model.safetensors").read_bytes() == (
            alone.run(name).export / "model.safetensors"
        ).read_bytes()
    measured = killed.measures()
    assert list(measured) == NAMES
    assert {row["state"] for row in measured.values()} == {"done"}
    assert measured == alone.measures()


def _wait(condition):
    give_up = time.monotonic() + 300
    while not (found := condition()):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    return found
