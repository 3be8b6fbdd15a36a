"""The folder of a run, between one command and the next."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ols.runs.checkpoint import list_checkpoints

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# What may change while a run continues, because its results do not depend on it.
FREE_KEYS = {
    "resume",
    "profile",
    "data.workers",
    "data.root",  # checkpoints know by a checksum whether it is the same data set
    "data.splits",
    "train.keep_last",
    "train.checkpoint_every_minutes",
    "train.checkpoint_every_steps",
    "train.max_nonfinite_steps",
}


def prepare_run_dir(run_dir: Path, config: dict[str, Any], resume: str) -> None:
    """Make sure that what lies in a run's folder is this run; nothing but a dry run is deleted.

    Args:
        run_dir: Folder of the run.
        config: Resolved configuration.
        resume: `auto` continues the run that is there, `never` moves it aside.

    Raises:
        ValueError: The run that is there has another configuration; the message shows the difference.
    """
    stored = run_dir / "config.yaml"
    if not stored.exists():
        return
    before = load_config(run_dir)
    if before["dry_run"]:
        shutil.rmtree(run_dir)
        return
    if resume == "never":
        aside = next(path for n in range(1, 10**6) if not (path := run_dir.with_name(f"{run_dir.name}.{n}")).exists())
        run_dir.rename(aside)
        print(f"moved the earlier run to {aside}")
        return
    if not list_checkpoints(run_dir / "checkpoints"):
        return  # stopped before anything was worth keeping
    if differences := config_differences(before, flatten(config)):
        raise ValueError(
            f"{run_dir} holds a run with another configuration:\n" + "\n".join(differences) + "\n"
            "Name another folder with --run_dir, or move that run aside with --resume never."
        )


def is_complete(run_dir: Path) -> bool:
    """Return whether a run has come to its end: its export is the last thing that it writes."""
    return (run_dir / "export" / "config.json").is_file()


def load_config(run_dir: Path) -> dict[str, Any]:
    """Return the configuration that a run's folder holds, by dotted keys.

    Raises:
        FileNotFoundError: The folder holds no run.
    """
    stored = run_dir / "config.yaml"
    if not stored.is_file():
        raise FileNotFoundError(f"no run in {run_dir}: config.yaml is missing")
    return flatten(yaml.safe_load(stored.read_text()))


def config_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a line for each dotted key that two configurations differ in and that matters for results."""
    return [
        f"  {key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in FREE_KEYS
    ]


@contextmanager
def sole_owner(run_dir: Path) -> Iterator[None]:
    """Keep other processes from training in a run's folder, as long as this one lives.

    A launcher that was killed may have left its training behind, which goes on.

    Raises:
        RuntimeError: Another process trains there.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+") as file:
        if fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise RuntimeError(f"another process trains in {run_dir}: {file.read().strip()}") from None
            file.truncate(0)
            print(f"process {os.getpid()} on {os.uname().nodename}", file=file, flush=True)
        yield


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def describe_conditions(run_dirs: Sequence[Path]) -> str:
    """Return devices, versions, commits and dates of runs in a sentence, from the last attempt of each."""
    records = []
    for run_dir in run_dirs:
        file = run_dir / "environment.jsonl"
        if file.is_file():
            records.append(json.loads(file.read_text().splitlines()[-1]))
    if not records:
        return "Their device and versions are not recorded."
    parts = [_distinct(record["device"] for record in records)]
    for package in ("torch", "torchvision", "timm"):
        parts.append(f"{package} {_distinct(record['versions'][package] for record in records)}")
    parts.append(f"Python {_distinct(record['python'] for record in records)}")
    parts.append(f"commit {_distinct((record['commit'] or 'unknown')[:7] for record in records)}")
    dates = sorted(record["date"][:10] for record in records)
    parts.append(dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}")
    return "; ".join(parts) + "."


def _distinct(values: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(values))
