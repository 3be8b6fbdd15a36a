"""The hour of a GPU, rehearsed on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Tree, fill

ROOT = Path(__file__).parents[1]


def _call(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "benchmarks" / "gpu_hour.py", "--tiny", "--data", folder / "set"]
    command += ["--work", folder / "work", "--output", folder / "hour.json", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=590, check=False)


@pytest.mark.slow
def test_the_hour_is_rehearsed_with_a_kill_and_taken_up_where_it_was_cut_off(tmp_path):
    fill(Tree(tmp_path / "set"), {"train": 6, "val": 3, "test": 3}).write_csvs()
    packed = _call(tmp_path, "--steps", "pack")
    assert "pack: done" in packed.stdout, packed.stdout + packed.stderr
    cut = _call(tmp_path, "--steps", "run, ols", "--minutes=0.02")
    assert "run, ols: cut off; the same command continues, 1 steps are left" in cut.stdout, cut.stdout + cut.stderr
    done = _call(tmp_path, "--steps", "pack", "run, ols", "exact")
    assert done.returncode == 0, done.stderr
    assert "all is done" in done.stdout, done.stdout
    steps = json.loads((tmp_path / "hour.json").read_text())["steps"]
    assert [name for name, found in steps.items() if "failed" in found] == []
    assert steps.keys() == {"pack", "run, ols", "exact resume"}
    assert (steps["exact resume"]["kills"], steps["exact resume"]["differences"]) == (1, [])
    assert "| exact resume | the same bits |" in done.stdout
    again = _call(tmp_path, "--steps", "pack", "exact")
    assert json.loads((tmp_path / "hour.json").read_text())["steps"] == steps
    assert again.stdout.startswith("all is done")
