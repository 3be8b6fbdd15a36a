"""Jobs on this machine: how they are started, watched and stopped, and found again after their starter was killed.

A job is a process group of its own; where several run at a time, each has its part of the cores and GPUs. It inherits a
locked file, so the lock lasts as long as anything of the job does, however its starter ended: who comes later waits for
a job that is still there instead of starting a second one.
"""

import errno
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from ols.studies.jobs import Ended, Job, Outcome, log_file, record_end, record_start
from ols.studies.launchers.shares import Share, divide_machine

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # a module that can be missing has no type

POLL_SECONDS = 0.2
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # which Windows lacks, as it lacks process groups


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    *,
    parallel: int,
    place: str | None = None,
    stopped_by: Sequence[int] = (signal.SIGINT, signal.SIGTERM),
    kills: bool = True,
    on_change: Callable[[set[str]], None] = lambda running: None,
) -> Iterator[Ended]:
    """Run jobs whose results are not there yet, and yield each as it ends.

    Output goes to `<folder>/<name>.log`. On a signal, the process groups are told to stop, nothing more is started, and
    what still runs is waited for; a second signal kills it.

    Args:
        jobs: Jobs, started in this order.
        folder: Where logs and locks lie.
        parallel: Jobs at a time; each has its part of the cores and of the GPUs.
        place: Where attempts are said to be made; by default this machine.
        stopped_by: Signals to stop on. SIGINT is passed on as it is, all others as SIGTERM.
        kills: Whether a second signal kills; False where they come from who kills by itself when it has waited enough.
        on_change: Called with the names of the jobs that run, whenever these are others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    signals: list[int] = []
    before = {number: signal.signal(number, lambda number, _: signals.append(number)) for number in stopped_by}
    waiting, forwarded = list(jobs), 0
    running: list[_Attempt] = []
    seen: set[str] = set()
    shares = divide_machine(parallel)
    try:
        while running or (waiting and not signals):
            while waiting and shares and not signals:
                running.append(_Attempt(waiting.pop(0), folder, place or socket.gethostname(), shares.pop(0)))
            for attempt in list(running):
                if ended := attempt.poll(stopping=bool(signals)):
                    running.remove(attempt)
                    shares.append(attempt.share)
                    yield ended
            if len(signals) > forwarded and (kills or not forwarded):
                first = signal.SIGINT if signals[0] == signal.SIGINT else signal.SIGTERM
                for attempt in running:
                    attempt.send(first if forwarded == 0 else KILL)
                forwarded += 1
            if (now := {attempt.job.name for attempt in running if attempt.is_started}) != seen:
                seen = now
                on_change(now)
            time.sleep(POLL_SECONDS)
        for job in waiting:
            yield Ended(job, log_file(folder, job.name), "stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_running(folder: Path, name: str) -> bool:
    """Return whether anything of a job is there, whoever started it; False where files cannot be locked."""
    lock = _lock_file(folder, name)
    if fcntl is None or not lock.exists():
        return False
    with lock.open("a+") as file:
        return not _take(file)


class _Attempt:
    """A job that holds its lock or waits for it."""

    def __init__(self, job: Job, folder: Path, place: str, share: Share):
        self.job, self.folder, self.place, self.share = job, folder, place, share
        self.log, self.lock = log_file(folder, job.name), _lock_file(folder, job.name)
        self.process: subprocess.Popen | None = None
        self.announced = False

    @property
    def is_started(self) -> bool:
        """Whether it has its lock, or sees another process have it."""
        return self.process is not None or self.announced

    def poll(self, *, stopping: bool) -> Ended | None:
        """Start the job as soon as its lock is free; return how it ended, or None while it has not."""
        if self.process is not None:
            return self._ended(self.process, stopping=stopping)
        with self.lock.open("a+") as file:
            if not _take(file):
                if not self.announced:
                    print(f"{self.job.name}: still running, started earlier ({self.lock.read_text()}); waiting")
                    self.announced = True
                return None
            file.truncate(0)  # of the process group that had it before
            if self.job.is_complete:
                return Ended(self.job, self.log, "complete")
            if stopping:
                return Ended(self.job, self.log, "stopped")
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
        record_start(self.folder, self.job.name, self.place)
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
                env=os.environ | self.share.environment | {"PYTHONUNBUFFERED": "1"},  # a log that can be followed
            )
            with suppress(ProcessLookupError):  # it may have just ended
                self.share.confine(self.process.pid)
        self.started = time.monotonic()
        lock.write(f"process group {self.process.pid} on {socket.gethostname()}")

    def _ended(self, process: subprocess.Popen, *, stopping: bool) -> Ended | None:
        returncode, peak_bytes = _poll(process)
        if returncode is None:
            return None
        seconds = time.monotonic() - self.started
        outcome: Outcome = "stopped" if stopping else "failed"
        if returncode == 0 and self.job.is_complete:
            outcome = "done"
        record_end(self.folder, self.job.name, outcome, seconds, peak_bytes)
        return Ended(self.job, self.log, outcome, seconds if outcome == "done" else None)

    def _group(self) -> int | None:
        if self.process is not None:
            return self.process.pid
        held = re.fullmatch(rf"process group (\d+) on {re.escape(socket.gethostname())}", self.lock.read_text())
        return int(held[1]) if held else None


def _lock_file(folder: Path, name: str) -> Path:
    return folder / f".{name}.lock"


def _poll(process: subprocess.Popen) -> tuple[int | None, int | None]:
    """Return the exit status of a process, None while it runs; and the peak memory of its largest process, in bytes.

    The peak is that of itself or of a child that it has waited for. Linux counts what the process was before it became
    another program, so that the memory of this one is the least that is told.
    """
    if not hasattr(os, "wait4"):  # Windows
        return process.poll(), None
    ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    if not ended:
        return None, None
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _take(lock: IO[str]) -> bool:
    """Lock a file without waiting; return whether it is ours. Where files cannot be locked, it always is."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):  # a file system without locks
            raise
    return True
