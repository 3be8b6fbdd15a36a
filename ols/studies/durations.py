"""How long the rest of a study takes and how much disk, from what its runs have taken so far."""

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ols.files import append_line
from ols.studies.grid import Run
from ols.studies.labels import LOSS, SEED

ALIKE = (LOSS, SEED)  # axes whose values take about the same time


def record_seconds(file: Path, run: Run, seconds: float, *, parallel: int) -> None:
    """Append how long a run took from its start to its end, and how many ran at a time."""
    record = {"format": 1, "run": run.run_dir.name, "kind": kind_of(run), "parallel": parallel}
    append_line(file, json.dumps(record | {"seconds": round(seconds, 1)}))


def estimate(file: Path, runs: Sequence[Run], *, parallel: int) -> str:
    """Say how long the runs that are left take, from the measured seconds of earlier ones and nothing else.

    Args:
        file: What `record_seconds` wrote.
        runs: Runs of the study.
        parallel: Runs at a time; only what was measured so is used.
    """
    left = [run for run in runs if not run.is_complete]
    if not left:
        return "all runs are complete"
    measured = _read_seconds(file, parallel)
    lines = []
    for kind, count in Counter(map(kind_of, left)).items():
        seconds = measured.get(kind)
        if not seconds:
            lines.append(f"{kind}: {count} runs left, time not known: none measured {parallel} at a time")
            continue
        of = f"median of {len(seconds)} measured {parallel} at a time"
        lines.append(f"{kind}: {count} runs left, {statistics.median(seconds):,.0f} s each ({of})")
    if total := _sum(left, measured) / parallel:
        begun = sum(run.has_begun for run in left)
        lines.append(f"about {format_hours(total)}" + (f", less what {begun} begun runs have done" if begun else ""))
    return "\n".join(lines)


def estimate_disk(runs: Sequence[Run]) -> str:
    """Say how much disk the runs that are left take, from the folders of complete ones like them and nothing else.

    Args:
        runs: Runs of the study.
    """
    left = [run for run in runs if not run.is_complete]
    sizes: dict[str, list[int]] = {}
    for run in runs:
        if run.is_complete:
            sizes.setdefault(kind_of(run), []).append(_bytes_of(run.run_dir))
    known = [max(sizes[kind]) for kind in map(kind_of, left) if kind in sizes]
    lines = [f"disk: about {sum(known) / 1e9:,.2f} GB for {len(known)} runs left, each as the largest of its kind"]
    if len(known) < len(left):
        unknown = f"disk: not known for {len(left) - len(known)} runs left: none like them is complete"
        lines = [*(lines if known else []), unknown]
    return "\n".join(lines) if left else "disk: all runs are complete"


def seconds_left(file: Path, left: Sequence[Run], *, parallel: int) -> float | None:
    """Return how long runs take that are left, as `estimate` tells it; None where runs like one were not measured."""
    measured = _read_seconds(file, parallel)
    if any(kind_of(run) not in measured for run in left):
        return None
    return _sum(left, measured) / parallel


def format_hours(seconds: float) -> str:
    """Return a duration in hours, such as `1.50 h`."""
    return f"{seconds / 3600:.2f} h"


def kind_of(run: Run) -> str:
    """Return what runs that take about the same time have in common: the model, and labels of what else is varied."""
    labels = {axis: label for axis, label in run.cell.labels.items() if axis not in ALIKE}
    return " ".join(dict.fromkeys([run.config.model.name, *labels.values()]))


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _read_seconds(file: Path, parallel: int) -> dict[str, list[float]]:
    """Return the seconds of runs that were measured so many at a time, by their kind."""
    measured: dict[str, list[float]] = {}
    for record in map(json.loads, file.read_text().splitlines() if file.is_file() else []):
        if record["parallel"] == parallel:
            measured.setdefault(record["kind"], []).append(record["seconds"])
    return measured


def _sum(runs: Sequence[Run], measured: dict[str, list[float]]) -> float:
    medians = {kind: statistics.median(seconds) for kind, seconds in measured.items()}
    return sum(medians.get(kind_of(run), 0.0) for run in runs)
