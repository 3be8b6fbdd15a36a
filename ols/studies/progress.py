"""What has become of each cell of a study: a table with a line per cell, and a line that says how many are left.

The table is read from the folders of runs and the logs of jobs and can be deleted at any time; nothing is read from it.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ols.config import ProbeConfig
from ols.files import read_record, write_file
from ols.runs.folder import RunFolder
from ols.studies.grid import Run
from ols.studies.jobs import read_attempts, total_seconds
from ols.studies.launchers.local import is_running
from ols.studies.needs import format_hours

State = Literal["waiting", "running", "done", "failed"]
STATES: tuple[State, ...] = ("done", "failed", "running", "waiting")


@dataclass(frozen=True)
class CellProgress:
    """What has become of a cell.

    Args:
        state: A cell that was stopped waits, as one does that has not begun.
        seconds: Wall time of all attempts; None where one was killed together with who started it.
        measures: Those of a run that is done, by tag, such as `test/top1`.
    """

    state: State
    seconds: float | None = None
    measures: dict[str, float] = field(default_factory=dict)


class Progress:
    """All cells of a study, kept up to date while it runs.

    Args:
        file: The table, such as `cells.csv`.
        runs: Runs of the study.
        logs: Folder with logs and locks of their jobs.
    """

    def __init__(self, file: Path, runs: Sequence[Run], logs: Path):
        self.file, self.logs = file, logs
        self.runs = {run.run_dir.name: run for run in runs}
        self.running = {name for name in self.runs if is_running(logs, name)}
        self.cells = {name: self._read(name) for name in self.runs}

    @property
    def left(self) -> list[Run]:
        """The runs that wait or run."""
        return [run for name, run in self.runs.items() if self.cells[name].state in ("waiting", "running")]

    def update(self, names: Collection[str] = (), running: Collection[str] | None = None) -> None:
        """Read cells anew.

        Args:
            names: Those that have ended.
            running: All those that run now, where these are others than before.
        """
        before = self.running
        self.running = (before if running is None else set(running)) - set(names)
        for name in {*names, *(before ^ self.running)} & self.runs.keys():
            self.cells[name] = self._read(name)

    def describe(self, seconds_left: float | None = None) -> str:
        """Return a line such as `12 cells: 7 done, 1 failed, 2 running, 2 waiting, about 0.3 h left`."""
        counts = Counter(cell.state for cell in self.cells.values())
        parts = [f"{counts[state]} {state}" for state in STATES if counts[state]]
        if seconds_left:
            parts.append(f"about {format_hours(seconds_left)} left")
        return f"{len(self.cells)} cells: {', '.join(parts)}"

    def write(self) -> None:
        """Write the table: labels of the axes, folder, state, seconds, and the measures of runs that are done."""
        tags = sorted({tag for cell in self.cells.values() for tag in cell.measures})
        axes = list(dict.fromkeys(axis for run in self.runs.values() for axis in run.cell.labels))
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow([*axes, "folder", "state", "seconds", *tags])
        for name, cell in self.cells.items():
            labels = self.runs[name].cell.labels
            seconds = "" if cell.seconds is None else f"{cell.seconds:.1f}"
            measures = [cell.measures.get(tag, "") for tag in tags]
            table.writerow([*(labels.get(axis, "") for axis in axes), name, cell.state, seconds, *measures])
        write_file(self.file, text.getvalue())

    def _read(self, name: str) -> CellProgress:
        attempts = read_attempts(self.logs, name)
        seconds = total_seconds(attempts)
        if self.runs[name].is_complete:
            return CellProgress("done", seconds, _read_measures(self.runs[name]))
        if name in self.running:
            return CellProgress("running", seconds)
        has_failed = bool(attempts) and attempts[-1].outcome == "failed"
        return CellProgress("failed" if has_failed else "waiting", seconds)


def _read_measures(run: Run) -> dict[str, float]:
    """Return the results that a run bears; none where they are damaged, which whoever opens it is told."""
    folder = RunFolder(run.run_dir)
    try:
        further = read_record(folder.columns)["columns"] if folder.columns.is_file() else {}
        if isinstance(run.config, ProbeConfig):
            return read_record(folder.probe)["metrics"] | further
        return json.loads(folder.last_file.read_text())["ols"]["metrics"] | further
    except (OSError, ValueError, LookupError, TypeError):
        return {}
