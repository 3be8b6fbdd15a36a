"""A sweep: the runs that one description stands for, and how they are started, watched and stopped.

A run is a process group of its own. It inherits a locked file, so the lock lasts as long as anything of the run does,
however its sweep ended: a restarted sweep waits for a run that is still there instead of starting a second one.
"""

import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

from ols.config import Config, parse_config
from ols.runs.folder import RunFolder, config_differences, flat_config, flatten

POLL_SECONDS = 0.2
# What a sweep varies, and so what its overrides cannot set.
VARIED_KEYS = ("seed", "run_dir", "dry_run", "config", "loss", "model.name")


@dataclass(frozen=True)
class Sweep:
    """Losses x architectures x seeds.

    Args:
        folder: Where the sweep lies: `runs/`, `logs/` and what is made of them.
        configs: Configurations that all runs start from, relative to the sweep's file; later ones win.
        losses: Name and options of each loss, by a label of letters, digits, `_`, `-` and `.`.
        architectures: Names that timm knows.
        seeds: Seeds.
        overrides: What all runs change in `configs`, in the same form.
        launcher: Command that starts a Python script, such as `[torchrun, --nproc_per_node, 8]`.
        parallel: Runs at a time; each takes all cores unless `train.threads` says otherwise.
        evaluate: Write the predictions of complete runs at the end.
        format: Version of this schema.

    Raises:
        ValueError: A list is empty or repeats itself, a label cannot name a folder, `parallel` is less than 1, there is
            no such launcher, or an override sets what the sweep varies.
    """

    folder: str
    configs: list[str]
    losses: dict[str, dict[str, Any]]
    architectures: list[str]
    seeds: list[int]
    overrides: dict[str, Any] = field(default_factory=dict)
    launcher: list[str] = field(default_factory=lambda: [sys.executable])
    parallel: int = 1
    evaluate: bool = True
    format: Literal[1] = 1

    def __post_init__(self):
        for name in ("configs", "losses", "architectures", "seeds", "launcher"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty")
        if shutil.which(self.launcher[0]) is None:
            raise ValueError(f"launcher: no command {self.launcher[0]!r}")
        for name in ("architectures", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} has a value twice: {values}")
        for label, loss in self.losses.items():
            if not re.fullmatch(r"\w[\w.-]*", label):
                raise ValueError(f"losses: the label {label!r} may only have letters, digits, _, - and .")
            if "name" not in loss:
                raise ValueError(f"losses.{label} has no name")
        if self.parallel < 1:
            raise ValueError(f"parallel must be at least 1, got {self.parallel}")
        _check_overrides(flatten(self.overrides))


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Args:
        run_dir: Its folder.
        architecture: Its architecture.
        arguments: Arguments of `recipes/pretrain.py`.
        config: Resolved configuration.
    """

    run_dir: Path
    architecture: str
    arguments: list[str]
    config: Config

    @property
    def is_complete(self) -> bool:
        """Whether it has come to its end."""
        return RunFolder(self.run_dir).is_complete

    @property
    def has_begun(self) -> bool:
        """Whether its folder holds something to continue, or all of it."""
        return self.is_complete or bool(RunFolder(self.run_dir).list_checkpoints())


@dataclass(frozen=True)
class Job:
    """A command, and what tells that it is done.

    Args:
        name: Name of its log and its lock.
        command: Command line.
        is_complete: Whether its results are there.
    """

    name: str
    command: list[str]
    is_complete: Callable[[], bool]


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Args:
        job: The job.
        log: Where its output is.
        outcome: `done` by this process, `complete` when its turn came, `failed` or `stopped`.
        seconds: Wall time of the process, where this process started it.
    """

    job: Job
    log: Path
    outcome: Literal["done", "complete", "failed", "stopped"]
    seconds: float | None = None


def plan_runs(sweep: Sweep, source: Path, overrides: Sequence[str] = ()) -> list[Run]:
    """Return the runs of a sweep, seeds in the outermost loop so that all losses have their first results early.

    Args:
        sweep: The sweep.
        source: File that it was read from.
        overrides: Dotted overrides from the command line, such as `["--data.root", "data"]`.

    Raises:
        ValueError: A folder holds a run with another configuration, or an override sets what the sweep varies.
        SystemExit: A key or a value of a run's configuration is wrong; the message on stderr names it.
    """
    _check_overrides(token[2:].split("=")[0] for token in overrides if token.startswith("--"))
    configs = [f"--config={os.path.relpath(source.parent / config)}" for config in sweep.configs]
    shared = [*configs, *_options(flatten(sweep.overrides)), *overrides]
    runs = []
    for seed, architecture, (label, loss) in product(sweep.seeds, sweep.architectures, sweep.losses.items()):
        run_dir = Path(sweep.folder) / "runs" / f"{architecture}-{label}-seed{seed}"
        own = {"model.name": architecture, **flatten(loss, "loss."), "seed": seed, "run_dir": str(run_dir)}
        arguments = [*shared, *_options(own)]
        run = Run(run_dir, architecture, arguments, parse_config(source, arguments))
        now = flatten(asdict(run.config))
        if run.has_begun and (differences := config_differences(flat_config(RunFolder(run_dir).load_config()), now)):
            raise ValueError(
                f"{run_dir} holds a run with another configuration:\n" + "\n".join(differences) + "\n"
                "Name another folder for the sweep, or remove that run."
            )
        runs.append(run)
    return runs


def run_jobs(jobs: Sequence[Job], folder: Path, *, parallel: int) -> Iterator[Ended]:
    """Run jobs whose results are not there yet, and yield each as it ends.

    Output goes to `<folder>/<name>.log`. SIGINT and SIGTERM are forwarded to the process groups, nothing more is
    started, and what still runs is waited for; a second signal kills it.

    Args:
        jobs: Jobs, started in this order.
        folder: Where logs and locks lie.
        parallel: Jobs at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    signals: list[int] = []
    before = {
        number: signal.signal(number, lambda n, _: signals.append(n)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    waiting, running, forwarded = list(jobs), [], 0
    try:
        while running or (waiting and not signals):
            while waiting and len(running) < parallel and not signals:
                running.append(_Attempt(waiting.pop(0), folder))
            for attempt in list(running):
                if ended := attempt.poll(stopping=bool(signals)):
                    running.remove(attempt)
                    yield ended
            if len(signals) > forwarded:
                number = signals[forwarded] if forwarded == 0 else signal.SIGKILL
                forwarded += 1
                for attempt in running:
                    attempt.send(number)
            time.sleep(POLL_SECONDS)
        for job in waiting:
            yield Ended(job, folder / f"{job.name}.log", "stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Attempt:
    """A job that holds its lock or waits for it."""

    def __init__(self, job: Job, folder: Path):
        self.job, self.log, self.lock = job, folder / f"{job.name}.log", folder / f".{job.name}.lock"
        self.process: subprocess.Popen | None = None
        self.announced = False

    def poll(self, *, stopping: bool) -> Ended | None:
        """Start the job as soon as its lock is free; return how it ended, or None while it has not."""
        if self.process is not None:
            return self._ended(stopping=stopping)
        with self.lock.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not self.announced:
                    print(f"{self.job.name}: still running, started earlier (process group {self._group()}); waiting")
                    self.announced = True
                return None
            file.truncate(0)  # of the process group that had it before
            if self.job.is_complete():
                return self._end("complete")
            if stopping:
                return self._end("stopped")
            self._start(file)
        return None

    def send(self, number: int) -> None:
        """Send a signal to the process group, also to one that an earlier sweep started."""
        group = self._group()
        if group is not None:
            with suppress(ProcessLookupError):  # it may have just ended
                os.killpg(group, number)

    def _start(self, lock) -> None:
        print(f"{self.job.name}: {shlex.join(self.job.command)}", flush=True)
        with self.log.open("ab") as log:
            log.write(f"$ {shlex.join(self.job.command)}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                self.job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock.fileno()],
                env=os.environ | {"PYTHONUNBUFFERED": "1"},  # a log that can be followed
            )
        self.started = time.monotonic()
        lock.write(str(self.process.pid))

    def _ended(self, *, stopping: bool) -> Ended | None:
        returncode = self.process.poll()
        if returncode is None:
            return None
        if returncode == 0 and self.job.is_complete():
            return self._end("done", time.monotonic() - self.started)
        return self._end("stopped" if stopping else "failed")

    def _end(self, outcome, seconds: float | None = None) -> Ended:
        return Ended(self.job, self.log, outcome, seconds)

    def _group(self) -> int | None:
        if self.process is not None:
            return self.process.pid
        return int(self.lock.read_text() or 0) or None


def record_seconds(file: Path, run: Run, seconds: float, *, parallel: int) -> None:
    """Append how long a run took from its start to its end, and how many ran at a time."""
    record = {"format": 1, "run": run.run_dir.name, "architecture": run.architecture, "parallel": parallel}
    with file.open("a") as lines:
        lines.write(json.dumps(record | {"seconds": round(seconds, 1)}) + "\n")


def estimate(file: Path, runs: Sequence[Run], *, parallel: int) -> str:
    """Say how long the runs that are left take, from the measured seconds of earlier ones and nothing else.

    Args:
        file: What `record_seconds` wrote.
        runs: Runs of the sweep.
        parallel: Runs at a time; only what was measured so is used.
    """
    left = [run for run in runs if not run.is_complete]
    if not left:
        return "all runs are complete"
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    lines, total = [], 0.0
    for architecture in dict.fromkeys(run.architecture for run in left):
        seconds = [r["seconds"] for r in records if (r["architecture"], r["parallel"]) == (architecture, parallel)]
        count = sum(run.architecture == architecture for run in left)
        if not seconds:
            lines.append(f"{architecture}: {count} runs left, time not known: none measured {parallel} at a time")
            continue
        median = statistics.median(seconds)
        total += count * median / parallel
        measured = f"median of {len(seconds)} measured {parallel} at a time"
        lines.append(f"{architecture}: {count} runs left, {median:,.0f} s each ({measured})")
    if total:
        begun = sum(run.has_begun for run in left)
        lines.append(f"about {total / 3600:.2f} h" + (f", less what {begun} begun runs have done" if begun else ""))
    return "\n".join(lines)


def _check_overrides(keys) -> None:
    for key in keys:
        if any(key == varied or key.startswith(f"{varied}.") for varied in VARIED_KEYS):
            raise ValueError(f"overrides cannot set {key}: the sweep does")


def _options(flat: dict[str, Any]) -> list[str]:
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in flat.items()]
