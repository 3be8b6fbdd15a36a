"""The folder of a run, between one command and the next."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from ols.checkpoint import list_checkpoints

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# What may change while a run continues, because its results do not depend on it.
FREE_KEYS = {
    "resume",
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
    before = _flatten(yaml.safe_load(stored.read_text()))
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
    now = _flatten(config)
    differences = [
        f"  {key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in FREE_KEYS
    ]
    if differences:
        raise ValueError(
            f"{run_dir} holds a run with another configuration:\n" + "\n".join(differences) + "\n"
            "Name another folder with --run_dir, or move that run aside with --resume never."
        )


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


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
