import csv
import fcntl
import json
from pathlib import Path

import pytest

from ols.config import Config
from ols.studies.axes import list_cells
from ols.studies.grid import Run, Study
from ols.studies.jobs import record_end, record_start
from ols.studies.progress import Progress


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    cells = list_cells(Study("study", ["a.yaml"], {"loss": ["hard", "ols"], "seed": [0, 1]}).list_axes())
    return [Run(tmp_path / "runs" / cell.name, cell, [], Config()) for cell in cells]


def _complete(run: Run, logs: Path, **metrics: float) -> None:
    (run.run_dir / "export").mkdir(parents=True)
    (run.run_dir / "export" / "config.json").write_text(json.dumps({"ols": {"metrics": metrics}}))
    record_start(logs, run.run_dir.name, "here")
    record_end(logs, run.run_dir.name, "done", 7.0)


def test_the_table_has_a_line_for_each_cell_made_from_its_folder_and_its_log(tmp_path, runs):
    logs = tmp_path / "logs"
    logs.mkdir()
    done, failed, running, _ = runs
    _complete(done, logs, **{"test/top1": 0.75, "test/ece": 0.1})
    record_start(logs, failed.run_dir.name, "here")
    record_end(logs, failed.run_dir.name, "failed", 3.0)
    record_start(logs, running.run_dir.name, "here")
    with (logs / f".{running.run_dir.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        progress = Progress(tmp_path / "cells.csv", runs, logs)
        assert progress.describe(5400) == "4 cells: 1 done, 1 failed, 1 running, 1 waiting, about 1.50 h left"
        assert [run.cell.labels["loss"] for run in progress.left] == ["hard", "ols"]
        progress.write()
    with (tmp_path / "cells.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["loss", "seed", "folder", "state", "seconds", "test/ece", "test/top1"],
        ["hard", "0", "hard-seed0", "done", "7.0", "0.1", "0.75"],
        ["ols", "0", "ols-seed0", "failed", "3.0", "", ""],
        ["hard", "1", "hard-seed1", "running", "", "", ""],
        ["ols", "1", "ols-seed1", "waiting", "", "", ""],
    ]


def test_cells_are_read_anew_as_they_begin_and_end(tmp_path, runs):
    logs = tmp_path / "logs"
    logs.mkdir()
    progress = Progress(tmp_path / "cells.csv", runs, logs)
    assert progress.describe() == "4 cells: 4 waiting"
    names = [run.run_dir.name for run in runs]
    progress.update(running=names[:2])
    assert progress.describe() == "4 cells: 2 running, 2 waiting"
    _complete(runs[0], logs)
    progress.update(names=names[:1])
    assert progress.describe() == "4 cells: 1 done, 1 running, 2 waiting"
    record_start(logs, names[1], "here")
    record_end(logs, names[1], "stopped", 1.0)
    progress.update(running=[])
    assert progress.describe() == "4 cells: 1 done, 3 waiting"
