"""Commands as jobs: how they are started, watched and stopped, and found again after whoever started them was killed.

A job is a process group of its own. It inherits a locked file, so the lock lasts as long as anything of the job does,
however its starter ended: who comes later waits for a job that is still there instead of starting a second one.
"""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # a module that can be missing has no type

POLL_SECONDS = 0.2
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # which Windows lacks, as it lacks process groups

Outcome = Literal["done", "complete", "failed", "stopped"]


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
    outcome: Outcome
    seconds: float | None = None


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
    waiting, forwarded = list(jobs), 0
    running: list[_Attempt] = []
    try:
        while running or (waiting and not signals):
            while waiting and len(running) < parallel and not signals:
                running.append(_Attempt(waiting.pop(0), folder))
            for attempt in list(running):
                if ended := attempt.poll(stopping=bool(signals)):
                    running.remove(attempt)
                    yield ended
            if len(signals) > forwarded:
                number = signals[forwarded] if forwarded == 0 else KILL
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
            return self._ended(self.process, stopping=stopping)
        with self.lock.open("a+") as file:
            if not _take(file):
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
        """Send a signal to the process group, also to one that was started earlier and by another process."""
        group = self._group()
        if not hasattr(os, "killpg"):
            if self.process is not None:
                self.process.terminate()
        elif group is not None:
            with suppress(ProcessLookupError):  # it may have just ended
                os.killpg(group, number)

    def _start(self, lock: IO[str]) -> None:
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
                pass_fds=[lock.fileno()] if fcntl else [],
                env=os.environ | {"PYTHONUNBUFFERED": "1"},  # a log that can be followed
            )
        self.started = time.monotonic()
        lock.write(str(self.process.pid))

    def _ended(self, process: subprocess.Popen, *, stopping: bool) -> Ended | None:
        returncode = process.poll()
        if returncode is None:
            return None
        if returncode == 0 and self.job.is_complete():
            return self._end("done", time.monotonic() - self.started)
        return self._end("stopped" if stopping else "failed")

    def _end(self, outcome: Outcome, seconds: float | None = None) -> Ended:
        return Ended(self.job, self.log, outcome, seconds)

    def _group(self) -> int | None:
        if self.process is not None:
            return self.process.pid
        return int(self.lock.read_text() or 0) or None


def _take(lock: IO[str]) -> bool:
    """Lock a file without waiting; return whether it is ours. Where files cannot be locked, it always is."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
