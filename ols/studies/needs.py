"""What the rest of a study needs of time, memory and disk, from what its runs have taken so far and nothing else."""

import json
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from ols.files import append_line
from ols.studies.grid import Run
from ols.studies.jobs import peak_bytes, read_attempts
from ols.studies.labels import FOLD, LOSS, SEED

ALIKE = (LOSS, SEED, FOLD, "lr", "optim.peak_lr")  # axes whose values take about the same time


def record_seconds(file: Path, run: Run, seconds: float, *, parallel: int) -> None:
    """Append how long a run took from its start to its end, and how many ran at a time."""
    record = {"format": 1, "run": run.run_dir.name, "kind": kind_of(run), "parallel": parallel}
    append_line(file, json.dumps(record | {"seconds": round(seconds, 1)}))


def estimate_time(file: Path, runs: Sequence[Run], *, parallel: int) -> str:
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


def estimate_memory(runs: Sequence[Run], logs: Path, *, parallel: int) -> str:
    """Say how much memory the runs that are left take, from what complete ones like them took at their peak.

    Args:
        runs: Runs of the study.
        logs: Folder with the logs of their jobs.
        parallel: Runs at a time.
    """
    known, left = _largest_like(runs, lambda run: peak_bytes(read_attempts(logs, run.run_dir.name)))
    at_a_time = sorted(known)[-parallel:]
    lines = [
        f"memory: about {sum(at_a_time) / 1e9:,.2f} GB for {len(at_a_time)} at a time, each as the largest of its kind"
    ]
    return _with_unknown("memory", lines, known, left)


def estimate_disk(runs: Sequence[Run]) -> str:
    """Say how much disk the runs that are left take, from the folders of complete ones like them.

    Args:
        runs: Runs of the study.
    """
    known, left = _largest_like(runs, lambda run: _bytes_of(run.run_dir))
    lines = [f"disk: about {sum(known) / 1e9:,.2f} GB for {len(known)} runs left, each as the largest of its kind"]
    return _with_unknown("disk", lines, known, left)


def seconds_left(file: Path, left: Sequence[Run], *, parallel: int) -> float | None:
    """Return how long the runs that are left take, as `estimate_time` does; None where a kind was not measured."""
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


def _largest_like(runs: Sequence[Run], size: Callable[[Run], int | None]) -> tuple[list[int], int]:
    """Return, for each run left, the largest size of complete runs of its kind, if any; and how many are left.

    Args:
        runs: Runs of the study.
        size: What is asked of each complete run; None where it is not known.
    """
    sizes: dict[str, int] = {}
    for run in runs:
        if run.is_complete and (bytes_taken := size(run)) is not None:
            sizes[kind_of(run)] = max(bytes_taken, sizes.get(kind_of(run), 0))
    left = [kind_of(run) for run in runs if not run.is_complete]
    return [sizes[kind] for kind in left if kind in sizes], len(left)


def _with_unknown(what: str, lines: list[str], known: Sequence[int], left: int) -> str:
    """Return lines about known runs, where there are any, and one that says how many are not known."""
    if len(known) < left:
        unknown = f"{what}: not known for {left - len(known)} runs left: none like them was measured"
        lines = [*(lines if known else []), unknown]
    return "\n".join(lines) if left else f"{what}: all runs are complete"


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
