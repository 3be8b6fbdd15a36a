"""A study whose sweep and cells are killed at random moments, and whose same command is typed again."""

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from launched.real_study import SWEEP, assert_same_results, train_locally, write_study

EPOCHS, KILLS = 2, 5

pytestmark = pytest.mark.slow


def _groups(logs: Path) -> list[int]:
    """Return the process groups of cells that run or have run."""
    words = [lock.read_text().split() for lock in logs.glob(".*-seed*.lock")]
    return [int(word[2]) for word in words if word[:2] == ["process", "group"]]


def test_no_cell_is_trained_twice_or_half_when_sweep_and_cells_are_killed(tmp_path):
    alone = train_locally(tmp_path, epochs=EPOCHS, seeds=1)
    file, folder, rng = tmp_path / "study.yaml", tmp_path / "killed", random.Random(0)
    write_study(file, folder, data=tmp_path / "phantoms", epochs=EPOCHS, seeds=1)
    for _ in range(KILLS):
        with subprocess.Popen([*SWEEP, str(file), "--parallel=2"], stdout=subprocess.DEVNULL) as sweep:
            time.sleep(rng.uniform(5, 20))
            victims = rng.choice(["sweep", "cells", "both"])
            if victims != "cells":
                sweep.kill()
            if victims != "sweep":
                for group in _groups(folder / "logs"):
                    with suppress(ProcessLookupError):
                        os.killpg(group, signal.SIGKILL)
    subprocess.run([*SWEEP, str(file), "--parallel=2"], check=True, stdout=subprocess.DEVNULL)
    assert_same_results(alone, folder / "runs", epochs=EPOCHS)
