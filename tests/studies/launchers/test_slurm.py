"""Studies on a real SLURM of one node, as `.ci/slurm` starts it."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from launched.recorded_study import NAMES, Recorded

ROOT = Path(__file__).parents[3]
SWEEP = [sys.executable, str(ROOT / "recipes" / "sweep.py")]
ON_SLURM = ["--launcher=slurm", "--slurm.minutes=10", "--slurm.memory_gb=0.4", "--parallel=2"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("srun") is None and "TESTS_NEED_SLURM" not in os.environ, reason="no srun on this machine"
    ),
]


@pytest.fixture
def recorded(tmp_path, monkeypatch) -> Recorded:
    monkeypatch.setenv("STUDY_RECORD", str(tmp_path / "record"))
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    return Recorded(tmp_path)


@pytest.fixture(autouse=True)
def _empty_queue(tmp_path):
    """Make sure that SLURM answers, and leave none of a test's jobs in its queue."""
    subprocess.run(["sinfo"], check=True, capture_output=True)
    yield
    for name in _arrays(tmp_path):
        subprocess.run(["scancel", f"--name={name}"], check=True)


def _arrays(folder: Path) -> list[str]:
    return [path.stem for path in folder.rglob("logs/slurm/*.json")]


def _sweep(file: Path, *options: str, **popen) -> subprocess.Popen:
    command = [*SWEEP, str(file), *ON_SLURM, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **popen)


def _cells(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "cells.csv").open() as file:
        return {row["folder"]: row for row in csv.DictReader(file)}


def _last_start(folder: Path, name: str) -> dict:
    lines = (folder / "logs" / f"{name}.attempts.jsonl").read_text().splitlines()
    return json.loads([line for line in lines if "place" in line][-1])


def _wait(condition) -> None:
    give_up = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.1)


def test_twelve_cells_of_which_one_is_cancelled_and_one_comes_to_its_limit_end_as_on_one_machine(tmp_path):
    study = {
        "configs": [str(ROOT / "recipes" / "configs" / "quickstart.yaml")],
        "overrides": {
            "data": {"root": str(tmp_path / "phantoms"), "image_size": 16, "resize_size": 16, "workers": 0},
            "phantoms": {"num_train": 200, "num_val": 170, "num_test": 165, "image_size": 16},
            "train": {"epochs": 4, "global_batch_size": 50, "threads": 1},
        },
        "axes": {"model": ["test_resnet"], "loss": {"hard": {"name": "hard"}, "ols": {"name": "ols"}}},
        "evaluate": False,
    }
    study["axes"]["seed"] = list(range(6))
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study | {"folder": str(tmp_path / "local")}, sort_keys=False))
    subprocess.run([*SWEEP, str(file), "--parallel=2"], check=True, stdout=subprocess.DEVNULL)
    file.write_text(yaml.safe_dump(study | {"folder": str(tmp_path / "slurm")}, sort_keys=False))
    folder, cancelled, limited = tmp_path / "slurm", "test_resnet-hard-seed0", "test_resnet-ols-seed0"

    with _sweep(file) as sweep:
        for name, command in ((cancelled, ["scancel"]), (limited, ["scancel", "--signal=USR2"])):
            _wait(lambda name=name: any((folder / "runs" / name / "checkpoints").glob("epoch-0001*")))
            subprocess.Popen([*command, _last_start(folder, name)["place"]]).wait()  # not 0 where it had to repeat it
        printed = sweep.stdout.read()
    assert sweep.returncode == 130
    assert f"{cancelled}: stopped" in printed
    assert f"{limited}: done" in printed  # it was put back into the queue
    assert "continuing after epoch" in (folder / "logs" / f"{limited}.log").read_text()
    states = {name: cell["state"] for name, cell in _cells(folder).items()}
    assert states.pop(cancelled) == "waiting"
    assert len(states) == 11
    assert set(states.values()) == {"done"}

    with _sweep(file) as sweep:
        assert "12 cells: 12 done\n" in sweep.stdout.read()
    assert sweep.returncode == 0
    assert "continuing after epoch" in (folder / "logs" / f"{cancelled}.log").read_text()
    cells, locally = _cells(folder), _cells(tmp_path / "local")
    tags = [tag for tag in cells[limited] if "/" in tag]
    assert "test/top1" in tags
    assert len(cells) == 12
    assert cells.keys() == locally.keys()
    for name in cells:
        exports = [tmp_path / where / "runs" / name / "export" / "model.safetensors" for where in ("local", "slurm")]
        assert exports[0].read_bytes() == exports[1].read_bytes()
        assert [cells[name][tag] for tag in tags] == [locally[name][tag] for tag in tags]


def test_a_killed_sweep_is_continued_no_cell_runs_twice_and_another_one_is_refused_meanwhile(recorded):
    holds = [recorded.switch(f"{NAMES[k]}.hold") for k in (0, 2)]
    recorded.prepare()
    two_a_job = ("--slurm.cells_per_job=2", "--evaluate=false")
    with _sweep(recorded.file, *two_a_job, cwd=ROOT) as first:
        _wait(lambda: len(recorded.started) == 2)
        with _sweep(recorded.file, *two_a_job, cwd=ROOT) as second:
            refused = second.stdout.read()
        assert second.returncode == 2
        assert refused == f"sweep.py: error: another process uses {recorded.folder}: process {first.pid} on " + (
            f"{os.uname().nodename}\n"
        )
        first.kill()
    with _sweep(recorded.file, *two_a_job, cwd=ROOT) as third:
        assert third.stdout.readline() == "4 cells: 2 running, 2 waiting\n"
        assert third.stdout.readline() == "4 cells are in SLURM's queue since earlier; waiting\n"
        for hold in holds:
            hold.unlink()
        rest = third.stdout.read()
    assert third.returncode == 0
    assert "4 cells: 4 done" in rest
    assert "submitted" not in rest
    assert Counter(recorded.started) == dict.fromkeys(NAMES, 1)


def test_a_sweep_that_is_told_to_stop_cancels_its_jobs_whose_runs_end_in_their_own_way(recorded):
    for name in NAMES:
        recorded.switch(f"{name}.hold")
    recorded.prepare()
    with _sweep(recorded.file, cwd=ROOT) as sweep:
        _wait(lambda: len(recorded.started) == 2)
        sweep.send_signal(signal.SIGTERM)
        printed = sweep.stdout.read()
    assert sweep.returncode == 130
    assert printed.count(": stopped\n") == 4
    assert sorted(recorded.started) == sorted(NAMES[:2])
    assert all((recorded.folder / "runs" / name / "checkpoints").is_dir() for name in NAMES[:2])
    assert {cell["state"] for cell in _cells(recorded.folder).values()} == {"waiting"}
    (array,) = _arrays(recorded.folder)
    queued = ["squeue", f"--name={array}", "--noheader", "--states=PENDING,RUNNING"]
    assert subprocess.run(queued, check=True, capture_output=True).stdout == b""


def test_all_jobs_of_an_array_that_come_to_their_limit_are_put_back_into_the_queue(recorded):
    holds = [recorded.switch(f"{name}.hold") for name in NAMES[:2]]
    recorded.prepare()
    with _sweep(recorded.file, "--axes.seed=[0]", "--evaluate=false", cwd=ROOT) as sweep:
        _wait(lambda: len(recorded.started) == 2)
        (array,) = _arrays(recorded.folder)
        subprocess.run(["scancel", "--signal=USR2", f"--name={array}"])
        _wait(lambda: all((recorded.folder / "runs" / name / "checkpoints").is_dir() for name in NAMES[:2]))
        for hold in holds:
            hold.unlink()
        printed = sweep.stdout.read()
    assert sweep.returncode == 0
    assert printed.count(": done\n") == 2
    assert Counter(recorded.started) == dict.fromkeys(NAMES[:2], 2)


def test_a_job_at_its_time_limit_and_one_that_slurm_takes_its_node_from_are_continued_by_slurm_itself(recorded):
    limited, moved = NAMES[:2]
    holds = {name: recorded.switch(f"{name}.hold") for name in (limited, moved)}
    recorded.prepare()
    options = ("--slurm.minutes=1", "--slurm.save_seconds=30", "--axes.seed=[0]", "--evaluate=false")
    with _sweep(recorded.file, *options, cwd=ROOT) as sweep:
        _wait(lambda: len(recorded.started) == 2)
        subprocess.run(["scontrol", "requeue", _last_start(recorded.folder, moved)["place"]], check=True)
        for name in (moved, limited):
            _wait(lambda name=name: (recorded.folder / "runs" / name / "checkpoints").is_dir())
            holds[name].unlink()
        printed = sweep.stdout.read()
    assert sweep.returncode == 0
    assert printed.count(": done\n") == 2
    assert printed.count("submitted") == 1
    assert Counter(recorded.started) == dict.fromkeys(holds, 2)


def test_cells_that_fail_or_are_killed_end_as_failed_and_stop_no_other_one(recorded):
    fail, held = recorded.switch(f"{NAMES[0]}.fail"), recorded.switch(f"{NAMES[1]}.hold")
    recorded.prepare()
    with _sweep(recorded.file, cwd=ROOT) as sweep:
        _wait(lambda: NAMES[1] in recorded.started)
        logs = recorded.folder / "logs"
        os.kill(_last_start(recorded.folder, NAMES[1])["process"], signal.SIGKILL)  # as for want of memory
        os.killpg(int((logs / f".{NAMES[1]}.lock").read_text().split()[2]), signal.SIGKILL)
        printed = sweep.stdout.read()
    assert sweep.returncode == 1
    assert "out of memory" in printed
    assert "of SLURM ended meanwhile: FAILED" in printed
    assert f"evaluate-{NAMES[2]}: done" in printed  # a job of SLURM, too
    states = [_cells(recorded.folder)[name]["state"] for name in NAMES]
    assert states == ["failed", "failed", "done", "done"]
    fail.unlink()
    held.unlink()
    with _sweep(recorded.file, cwd=ROOT) as sweep:
        assert "4 cells: 4 done" in sweep.stdout.read()
    assert sweep.returncode == 0


def test_what_slurm_does_not_take_ends_the_sweep_with_its_words(recorded):
    recorded.prepare()
    with _sweep(recorded.file, "--slurm.partition=nowhere", cwd=ROOT) as sweep:
        printed = sweep.stdout.read()
    assert sweep.returncode == 2
    assert "sweep.py: error: SLURM takes no such job: " in printed
    assert "nvalid partition" in printed
