import json
from pathlib import Path

import pytest

from ols.config import Config
from ols.studies.axes import list_cells
from ols.studies.grid import Run, Study
from ols.studies.jobs import record_end, record_start
from ols.studies.needs import estimate_disk, estimate_memory, estimate_time, record_seconds, seconds_left


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    """Four runs of each of two sizes, that differ in loss and seed."""
    axes = {"loss": ["hard", "ols"], "data.image_size": [32, 64], "seed": [0, 1]}
    cells = list_cells(Study("study", ["a.yaml"], axes).list_axes())
    return [Run(tmp_path / cell.name, cell, [], Config()) for cell in cells]


def test_time_is_told_from_runs_that_differ_in_loss_and_seed_alone_and_ran_as_many_at_a_time(runs, tmp_path):
    file = tmp_path / "seconds.jsonl"
    assert "resnet50 32: 4 runs left, time not known: none measured 1 at a time" in estimate_time(
        file, runs, parallel=1
    )
    small = [run for run in runs if run.cell.labels["data.image_size"] == "32"]
    for run, seconds in zip(small, (1000, 1800, 5000), strict=False):
        record_seconds(file, run, seconds, parallel=1)
    assert json.loads(file.read_text().splitlines()[0])["format"] == 1
    assert estimate_time(file, runs, parallel=1).splitlines() == [
        "resnet50 32: 4 runs left, 1,800 s each (median of 3 measured 1 at a time)",
        "resnet50 64: 4 runs left, time not known: none measured 1 at a time",
        "about 2.00 h",
    ]
    assert seconds_left(file, small, parallel=1) == 4 * 1800
    assert seconds_left(file, runs, parallel=1) is None
    assert seconds_left(file, [], parallel=1) == 0
    unmeasured = estimate_time(file, runs, parallel=2).splitlines()
    assert len(unmeasured) == 2
    assert all("time not known: none measured 2 at a time" in line for line in unmeasured)


def test_complete_runs_take_no_time_and_begun_ones_less(runs, tmp_path):
    file = tmp_path / "seconds.jsonl"
    record_seconds(file, runs[0], 3600, parallel=2)
    small = [run for run in runs if run.cell.labels["data.image_size"] == "32"]
    (small[0].run_dir / "checkpoints" / "epoch-0001").mkdir(parents=True)
    for run in small[1:3]:
        _complete(run.run_dir)
    assert estimate_time(file, small, parallel=2).splitlines()[1:] == ["about 1.00 h, less what 1 begun runs have done"]
    for run in small:
        _complete(run.run_dir)
    assert estimate_time(file, small, parallel=2) == "all runs are complete"


def test_disk_is_told_from_the_largest_complete_run_of_the_same_kind(runs):
    assert estimate_disk(runs) == "disk: not known for 8 runs left: none like them was measured"
    small = [run for run in runs if run.cell.labels["data.image_size"] == "32"]
    for run, size in zip(small, (10_000_000, 30_000_000), strict=False):
        _complete(run.run_dir)
        (run.run_dir / "export" / "model.safetensors").write_bytes(bytes(size))
    assert estimate_disk(runs).splitlines() == [
        "disk: about 0.06 GB for 2 runs left, each as the largest of its kind",
        "disk: not known for 4 runs left: none like them was measured",
    ]
    assert estimate_disk(small[:2]) == "disk: all runs are complete"


def test_memory_is_told_from_the_peaks_of_complete_runs_for_as_many_as_run_at_a_time(runs, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    assert estimate_memory(runs, logs, parallel=2) == "memory: not known for 8 runs left: none like them was measured"
    small = [run for run in runs if run.cell.labels["data.image_size"] == "32"]
    large = [run for run in runs if run.cell.labels["data.image_size"] == "64"]
    for run, peaks in ((small[0], (2e9, 1e9)), (small[1], (None,)), (large[0], (5e9,)), (large[1], (4e9,))):
        _complete(run.run_dir)
        for peak in peaks:
            record_start(logs, run.run_dir.name, "here")
            record_end(logs, run.run_dir.name, "done", 1.0, peak and int(peak))
    record_start(logs, small[2].run_dir.name, "here")
    record_end(logs, small[2].run_dir.name, "failed", 1.0, int(9e9))  # tells nothing of one that comes to its end
    for parallel, size in ((1, 5), (2, 10), (3, 12), (9, 14)):
        told = f"memory: about {size}.00 GB for {min(parallel, 4)} at a time, each as the largest of its kind"
        assert estimate_memory(runs, logs, parallel=parallel) == told
    assert estimate_memory(small[:2], logs, parallel=1) == "memory: all runs are complete"


def _complete(run_dir: Path) -> None:
    (run_dir / "export").mkdir(parents=True, exist_ok=True)
    (run_dir / "export" / "config.json").touch()
