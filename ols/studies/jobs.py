"""Commands as jobs, how they ended, and what is written down of each attempt at one.

Wherever a job runs, its output goes to `<folder>/<name>.log`, and `<folder>/<name>.attempts.jsonl` has a line when it
is started and another one when it ends. Only who holds the lock of a job writes them, so that they have one writer.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ols.files import FORMAT, append_line

Outcome = Literal["done", "complete", "failed", "stopped"]


@dataclass(frozen=True)
class Job:
    """A command, and what tells that it is done.

    Args:
        name: Name of its log and its lock.
        command: Command line.
        results: Files that are there once it is done.
    """

    name: str
    command: list[str]
    results: list[Path]

    @property
    def is_complete(self) -> bool:
        """Whether its results are there."""
        return all(path.is_file() for path in self.results)


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Args:
        job: The job.
        log: Where its output is.
        outcome: `done` by who tells so, `complete` when its turn came, `failed` or `stopped`.
        seconds: Wall time of the process, where it was made in one attempt that was seen from its start to its end.
    """

    job: Job
    log: Path
    outcome: Outcome
    seconds: float | None = None


@dataclass(frozen=True)
class Attempt:
    """One start of a job.

    Args:
        place: Where: the id of a job of SLURM, or the name of a machine.
        outcome: How it ended; None while it runs, and where it was killed together with who started it.
        seconds: Its wall time.
        peak_bytes: Resident memory of its largest process at its peak; None where the system does not tell.
    """

    place: str
    outcome: Outcome | None = None
    seconds: float | None = None
    peak_bytes: int | None = None


def log_file(folder: Path, name: str) -> Path:
    """Return the file with the output of a job."""
    return folder / f"{name}.log"


def record_start(folder: Path, name: str, place: str) -> None:
    """Write down that a job was started, and where."""
    _append(folder, name, {"start": _now(), "place": place, "process": os.getpid()})


def record_end(
    folder: Path, name: str, outcome: Outcome, seconds: float | None = None, peak_bytes: int | None = None
) -> None:
    """Write down how a job ended that was started, and what it took."""
    taken = {"seconds": seconds and round(seconds, 1), "peak_bytes": peak_bytes}
    _append(folder, name, {"end": _now(), "outcome": outcome} | taken)


def read_attempts(folder: Path, name: str) -> list[Attempt]:
    """Return the attempts at a job, the first one first; a line that a kill has cut off is passed over."""
    file, attempts = _attempts(folder, name), list[Attempt]()
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if "start" in record:
            attempts.append(Attempt(record["place"]))
        elif attempts:
            taken = (record["seconds"], record.get("peak_bytes"))  # of which earlier versions wrote the first
            attempts[-1] = Attempt(attempts[-1].place, record["outcome"], *taken)
    return attempts


def total_seconds(attempts: Sequence[Attempt]) -> float | None:
    """Return the wall time of all attempts together, None where that of one is not known."""
    seconds = [attempt.seconds for attempt in attempts]
    return sum(filter(None, seconds)) if seconds and None not in seconds else None


def peak_bytes(attempts: Sequence[Attempt]) -> int | None:
    """Return the peak memory of all attempts, None where that of none is known."""
    return max((attempt.peak_bytes for attempt in attempts if attempt.peak_bytes is not None), default=None)


def _attempts(folder: Path, name: str) -> Path:
    return folder / f"{name}.attempts.jsonl"


def _append(folder: Path, name: str, record: dict[str, Any]) -> None:
    append_line(_attempts(folder, name), json.dumps({"format": FORMAT} | record))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
