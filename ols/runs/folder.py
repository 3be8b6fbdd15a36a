"""The folder of a run: the names in it, whose it is, and what it holds between one command and the next."""

import hashlib
import json
import os
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import yaml

from ols.config import Config, config_from
from ols.files import DamagedFileError, delete, read_record

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # a module that can be missing has no type

# What may change while a run continues, because its results do not depend on it.
FREE_KEYS = {
    "run_dir",  # a run may be moved, and its folder spelled in another way
    "cell",
    "resume",
    "profile",
    "data.workers",
    "data.root",  # checkpoints know by a checksum whether it is the same data set
    "data.splits",
    "split.file",
    "features",  # which are known by a checksum
    "train.keep_last",
    "train.checkpoint_every_minutes",
    "train.checkpoint_every_steps",
    "train.max_nonfinite_steps",
}


# What a run fills in where its configuration leaves it open, from other keys of it: from the weights it starts from.
FILLED_IN = {"data.mean", "data.std"}


class RunFolder:
    """Every name in a run's folder.

    Args:
        path: The folder; nothing is read or made.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.command = self.path / "command.txt"
        self.environment = self.path / "environment.jsonl"  # one line for each time the command was started
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.checkpoints / "best.json"
        self.export = self.path / "export"
        self.last_file = self.export / "config.json"  # of all that a run writes
        self.evaluation = self.path / "evaluation"
        self.columns = self.path / "columns.json"  # further numbers that a study asked for
        self.earlier_columns = self.path / "columns.earlier.json"  # those of other options, while new ones are made
        self.probe = self.path / "probe.json"  # of heads on frozen features, which are no run that is trained
        self.unreadable_samples = self.path / "unreadable_samples.json"
        self.nonfinite_samples = self.path / "nonfinite_samples.json"
        self.identity_file = self.path / "run.json"
        # Which run and which configuration checkpoints bear; filled in by `claim`.
        self.identity: dict[str, str] = {}
        # Beside the folder, so that it stays where it is when the folder is moved or deleted.
        self.lock = self.path.with_name(f".{self.path.name}.lock")

    def __str__(self) -> str:
        return str(self.path)

    def checkpoint(self, epoch: int, step: int | None = None) -> Path:
        """Return the folder of the checkpoint at the end of an epoch, or after a step inside the next one.

        Names sort as the run goes.
        """
        inside = "" if step is None else f"-step-{step:08d}"
        return self.checkpoints / f"epoch-{epoch:04d}{inside}"

    def list_checkpoints(self) -> list[Path]:
        """Return the complete checkpoints, oldest first."""
        return sorted(path for path in self.checkpoints.glob("epoch-*") if path.is_dir() and not path.is_symlink())

    def predictions(self, split: str, form: str = "") -> Path:
        """Return the file with the predictions of the exported model on a split, or a form of a confounder's test."""
        return self.evaluation / form / f"{split}.safetensors"

    @property
    def is_complete(self) -> bool:
        """Whether the run has come to its end."""
        return self.last_file.is_file()

    def load_config(self) -> Config:
        """Return the configuration of the run.

        Raises:
            FileNotFoundError: The folder holds no run.
            DamagedFileError: The file is no configuration.
        """
        if not self.config.is_file():
            raise FileNotFoundError(f"no run in {self.path}: config.yaml is missing")
        try:
            return config_from(yaml.safe_load(self.config.read_text()))
        except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError) as error:
            raise DamagedFileError(f"{self.config} is damaged, or of another version: {error}") from error


@contextmanager
def claim(run_dir: str | Path, config: Config, resume: str, *, enabled: bool = True) -> Iterator[RunFolder]:
    """Keep a run's folder for this process, and make sure that what lies there is this run.

    A lock beside the folder is taken before anything is looked at, and held to the end of the block. Nothing but a
    dry run is deleted.

    Args:
        run_dir: Folder of the run.
        config: Resolved configuration.
        resume: `auto` continues the run that is there, `never` moves it aside.
        enabled: False on every process but the main one, whose lock is that of all.

    Raises:
        RuntimeError: Another process holds the folder; the message says which.
        ValueError: The run that is there has another configuration; the message shows the difference.
        DamagedFileError: The run that is there has lost its configuration, or it cannot be read.
    """
    folder = RunFolder(run_dir)
    with locked(folder.lock, folder.path) if enabled else nullcontext():
        if enabled:
            _make_room(folder, config, resume)
            folder.identity = _identify(folder, config)
        yield folder


@contextmanager
def locked(lock: Path, folder: Path) -> Iterator[None]:
    """Hold a lock file, which is deleted at the end; a process that is killed lets go of it.

    Args:
        lock: The file.
        folder: What it keeps for this process.

    Raises:
        RuntimeError: Another process holds it; the message says which.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with lock.open("a+") as file:
            _take(file, folder)
            if not _is_still_there(file, lock):
                continue  # whoever held it has deleted it meanwhile
            file.truncate(0)
            print(f"process {os.getpid()} on {_host_name()}", file=file, flush=True)
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _take(file: IO[str], folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RuntimeError(f"another process uses {folder}: {_read_holder(file)}") from None


def _read_holder(file: IO[str]) -> str:
    """Return what the process that holds a lock says of itself; it may have taken it only just now."""
    for _ in range(40):
        file.seek(0)
        if line := file.read().strip():
            return line
        time.sleep(0.05)
    return "a process that has not written its name"


def _is_still_there(file: IO[str], lock: Path) -> bool:
    return lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat())


def _host_name() -> str:
    return os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "this machine")


def _make_room(folder: RunFolder, config: Config, resume: str) -> None:
    """Move or delete the run that is there, or make sure that it can be continued."""
    has_checkpoints = bool(folder.list_checkpoints())
    if not folder.config.is_file() and not has_checkpoints:
        return
    if resume == "never" and not config.dry_run:
        move_aside(folder)
        return
    if not folder.config.is_file():
        raise DamagedFileError(
            f"{folder.config} is missing, so nobody knows whose checkpoints lie beside it. "
            "Put it back, or move that run aside with --resume never."
        )
    before = folder.load_config()
    if before.dry_run:
        delete(folder.path)
    elif has_checkpoints and (differences := config_differences(flat_config(before), flat_config(config))):
        raise ValueError(
            f"{folder} holds a run with another configuration:\n" + "\n".join(differences) + "\n"
            "Name another folder with --run_dir, or move that run aside with --resume never."
        )


def _identify(folder: RunFolder, config: Config) -> dict[str, str]:
    """Return the run's own name, drawn when it began, and a digest of all in the configuration that results depend on.

    Where the file with the name is lost or damaged, it is the one that the newest checkpoint bears.
    """
    own = {key: value for key, value in flat_config(config).items() if not is_free(key) and key not in FILLED_IN}
    digest = hashlib.blake2b(json.dumps(own, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
    try:
        run = read_record(folder.identity_file)["run"]
    except DamagedFileError:
        checkpoints = folder.list_checkpoints()
        run = (_run_of(checkpoints[-1]) if checkpoints else None) or uuid.uuid4().hex
    return {"run": run, "config": digest}


def _run_of(checkpoint: Path) -> str | None:
    """Return the run that a checkpoint says it is of; None where it says nothing."""
    try:
        return json.loads((checkpoint / "state.json").read_text())["identity"]["run"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def move_aside(folder: RunFolder) -> None:
    """Give a run's folder the first name `<name>.<n>` that is free."""
    path = folder.path
    aside = next(free for n in range(1, 10**6) if not (free := path.with_name(f"{path.name}.{n}")).exists())
    path.rename(aside)
    print(f"moved the earlier run to {aside}")


def flat_config(config: Config) -> dict[str, Any]:
    """Return a configuration by dotted keys."""
    return flatten(asdict(config))


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested dictionary by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def is_free(key: str) -> bool:
    """Return whether a dotted key may change while a run continues, because its results do not depend on it."""
    return key in FREE_KEYS or key.split(".")[0] in FREE_KEYS


def config_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return a line for each dotted key that two configurations differ in and that matters for results."""
    differing = (key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key))
    return [
        f"  {key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in differing
        if not is_free(key) and not (key in FILLED_IN and None in (before.get(key), now.get(key)))
    ]


def describe_conditions(run_dirs: Sequence[Path]) -> str:
    """Return devices, versions, commits and dates of runs in a sentence, from the last attempt of each."""
    records = []
    for run_dir in run_dirs:
        file = RunFolder(run_dir).environment
        if file.is_file() and (record := _last_record(file)) is not None:
            records.append(record)
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


def _last_record(file: Path) -> dict[str, Any] | None:
    """Return the last line of a file that is whole; a kill or a full disk may have cut the one after it."""
    for number, line in reversed(list(enumerate(file.read_bytes().splitlines(), 1))):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            return record
        warnings.warn(f"{file}, line {number}, is damaged and passed over", stacklevel=3)
    return None


def _distinct(values: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(values))
