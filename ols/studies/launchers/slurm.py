"""Jobs on a cluster: arrays of SLURM, submitted through submitit, and found again after their starter was killed.

SLURM is the only queue. Before an array is submitted, a file with its name and its jobs is written, and who comes later
asks SLURM which arrays of these names it still has. A job that is told to stop but was not cancelled, as before its
time limit or when it is preempted, lets its runs save, and is put back into the queue. How jobs ended is read from what
they left in the folder, which needs no accounting; where nothing is left, as after a kill, SLURM says what it knows.
"""

import json
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ols.files import FORMAT, write_file
from ols.studies.jobs import Attempt, Ended, Job, Outcome, log_file, read_attempts, record_end
from ols.studies.launchers.local import run_jobs

FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 1.0, 30.0  # the longer nothing changes, the less SLURM is asked
SETTLED_SECONDS = 2.0  # a job that is put back into the queue may seem over for a moment
SHOWN_WITHIN_SECONDS = 60.0  # what one machine wrote, a shared folder may show another one so much later
SAVE_AND_REQUEUE = getattr(signal, "SIGUSR2", signal.SIGTERM)  # what submitit asks SLURM to send; Windows lacks it
USUAL_MAX_ARRAY_SIZE = 1001
IDS_A_CALL, CALL_SECONDS = 500, 120
# States of jobs that SLURM has not done with are all others.
OVER = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
GONE = "no longer known to SLURM"

T = TypeVar("T")


@dataclass(frozen=True)
class Slurm:
    """What jobs ask SLURM for.

    Args:
        partition: Partition; by default the cluster's.
        minutes: Time limit of a job. A run that takes longer is continued.
        cpus: Cores of a job.
        gpus: GPUs of a job.
        memory_gb: Memory of a job, in GB; by default the partition's.
        cells_per_job: Cells that a job runs one after another, for those that take minutes.
        save_seconds: How long before the time limit runs are told to save.
        timeouts: How often a job may come to its time limit.
        setup: Lines of shell before, such as `[module load cuda]`.
        sbatch: Other options of sbatch, such as `{account: radiology, qos: low}`.

    Raises:
        ValueError: A number is out of its range.
    """

    partition: str | None = None
    minutes: int = 60
    cpus: int = 1
    gpus: int = 0
    memory_gb: float | None = None
    cells_per_job: int = 1
    save_seconds: int = 120
    timeouts: int = 100
    setup: list[str] = field(default_factory=list)
    sbatch: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name, least in {"minutes": 1, "cpus": 1, "gpus": 0, "cells_per_job": 1, "timeouts": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"slurm.{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.save_seconds < 60 * self.minutes:
            raise ValueError(f"slurm.save_seconds must be between 0 and the time limit, got {self.save_seconds}")


def run_jobs_on_slurm(
    jobs: Sequence[Job],
    folder: Path,
    options: Slurm,
    *,
    parallel: int,
    on_change: Callable[[set[str]], None] = lambda running: None,
) -> Iterator[Ended]:
    """Run jobs whose results are not there yet, and yield each as it ends.

    Those that an earlier call has submitted and SLURM still has are waited for. On SIGINT and SIGTERM all of them are
    cancelled, which lets runs save; on SIGHUP they go on.

    Args:
        jobs: Jobs; SLURM starts them in this order.
        folder: Where logs and locks lie, seen by all nodes.
        options: What a job of SLURM asks for.
        parallel: Jobs of SLURM at a time.
        on_change: Called with the names of the jobs that run, whenever these are others.

    Raises:
        ModuleNotFoundError: submitit is not installed; the message says how to.
        OSError: There is no SLURM here, or it takes no such job; the message has its words.
    """
    queue = _Queue(folder / "slurm", options)
    left = {job.name: job for job in jobs if not job.is_complete}
    for job in jobs:
        if job.name not in left:
            yield Ended(job, log_file(folder, job.name), "complete")
    tasks = queue.find(left)
    known = {job.name for task in tasks for job in task.jobs}
    if known:
        print(f"{len(known)} cells are in SLURM's queue since earlier; waiting", flush=True)
    if new := [job for job in left.values() if job.name not in known]:
        tasks += queue.submit(new, folder, parallel=parallel)
    yield from _watch(tasks, queue, folder, on_change)


@dataclass
class _Task:
    """A job of SLURM, and the jobs that it runs one after another."""

    id: str
    jobs: list[Job]
    state: str = "PENDING"
    over_since: float | None = None


class _Queue:
    """The jobs of one study in SLURM's queue."""

    def __init__(self, folder: Path, options: Slurm):
        self.folder, self.options = folder, options
        folder.mkdir(parents=True, exist_ok=True)

    def find(self, jobs: dict[str, Job]) -> list[_Task]:
        """Return what SLURM still has of earlier arrays, with those jobs that are left."""
        plans = {path.stem: path for path in self.folder.glob("*.json")}
        tasks = []
        for task_id, (state, name) in self.states().items():
            if name in plans and state not in OVER:
                chunk = json.loads(plans[name].read_text())["jobs"][int(task_id.partition("_")[2] or 0)]
                if members := [jobs[member] for member in chunk if member in jobs]:
                    tasks.append(_Task(task_id, members, state))
        return tasks

    def submit(self, jobs: Sequence[Job], folder: Path, *, parallel: int) -> list[_Task]:
        """Submit jobs as arrays, as few as SLURM's limit allows."""
        chunks = _split(jobs, self.options.cells_per_job)
        arrays = _split(chunks, _max_array_size())
        tasks = []
        for array in arrays:
            name = re.sub(r"[^\w.-]", "_", f"{folder.absolute().parent.name}-{secrets.token_hex(4)}")
            plan = {"format": FORMAT, "jobs": [[job.name for job in chunk] for chunk in array]}
            write_file(self.folder / f"{name}.json", json.dumps(plan))
            ids = self._submit_array(name, array, folder, parallel=max(1, parallel // len(arrays)))
            print(f"submitted {ids[0]}{f' to {ids[-1]}' if ids[1:] else ''} of {name}", flush=True)
            tasks += [_Task(task_id, chunk) for task_id, chunk in zip(ids, array, strict=True)]
        return tasks

    def states(self) -> dict[str, tuple[str, str]]:
        """Return state and name by id, of all jobs of this user that SLURM still knows."""
        command = ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%T|%j"]
        lines = _call(command).splitlines()
        fields = [line.split("|", 2) for line in lines if line.count("|") >= 2]
        return {task_id: (state.strip(), name.strip()) for task_id, state, name in fields}

    def log(self, task: _Task) -> Path:
        """Return the file with the output of a job of SLURM itself."""
        return self.folder / f"{task.id}_0_log.out"

    def _submit_array(self, name: str, array: list[list[Job]], folder: Path, *, parallel: int) -> list[str]:
        submitit, options = _submitit(), self.options
        executor = submitit.SlurmExecutor(self.folder.absolute(), max_num_timeout=options.timeouts)
        asked = {"partition": options.partition, "mem": options.memory_gb and f"{int(1024 * options.memory_gb)}MB"}
        executor.update_parameters(
            job_name=name,
            time=options.minutes,
            cpus_per_task=options.cpus,
            array_parallelism=parallel,
            signal_delay_s=options.save_seconds,
            stderr_to_stdout=True,
            setup=options.setup or None,
            additional_parameters={"requeue": True} | options.sbatch,
            **{key: value for key, value in asked.items() if value},
            **({"gpus_per_node": options.gpus} if options.gpus else {}),
        )
        try:
            return [job.job_id for job in executor.map_array(_RunTask(str(folder.absolute())), array)]
        except submitit.core.utils.FailedJobError as error:
            raise OSError(f"SLURM takes no such job: {' '.join(str(error).split())}") from error


class _RunTask:
    """What a job of SLURM does: its jobs one after another, and back into the queue where it has to stop meanwhile."""

    def __init__(self, folder: str):
        self.folder = folder

    def __call__(self, jobs: list[Job]) -> dict[str, Outcome]:
        requeue: Any = signal.getsignal(SAVE_AND_REQUEUE)  # of submitit
        folder, place, outcomes = Path(self.folder), _own_id(), dict[str, Outcome]()
        left = [job for job in jobs if not _has_failed(_attempts_at(place, folder, job))]  # before it was requeued
        # SLURM sends the signal to all processes, of which it would end those that do not expect it.
        deaf = [replace(job, command=["sh", "-c", 'trap "" USR2; exec "$@"', "sh", *job.command]) for job in left]
        stopped_by = (signal.SIGTERM, SAVE_AND_REQUEUE)
        for ended in run_jobs(deaf, folder, parallel=1, place=place, stopped_by=stopped_by, kills=False):
            outcomes[ended.job.name] = ended.outcome
        if "stopped" in outcomes.values() and not _is_cancelled():
            requeue(SAVE_AND_REQUEUE, None)
        return outcomes

    def checkpoint(self, jobs: list[Job]) -> Any:
        """Return what submitit puts into the queue again: the same, for runs continue by themselves."""
        return _submitit().helpers.DelayedSubmission(self, jobs)


def _watch(tasks: list[_Task], queue: _Queue, folder: Path, on_change: Callable[[set[str]], None]) -> Iterator[Ended]:
    """Yield jobs as they end; cancel all of them on a signal."""
    signals: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: signals.append(number)) for number in numbers}
    seen, cancelled, poll_seconds = set[str](), False, FIRST_POLL_SECONDS
    try:
        while tasks:
            _ask(queue, tasks)
            ends = [ended for task in tasks for ended in _collect(task, queue, folder, stopping=cancelled)]
            yield from ends
            tasks = [task for task in tasks if task.jobs]
            running = {task.jobs[0].name for task in tasks if task.state == "RUNNING"}
            if running != seen:
                on_change(running)
            poll_seconds = FIRST_POLL_SECONDS if ends or running != seen else min(1.3 * poll_seconds, LAST_POLL_SECONDS)
            seen = running
            wake = time.monotonic() + poll_seconds
            while tasks and time.monotonic() < wake and (cancelled or not signals):
                time.sleep(0.2)
            if signals and not cancelled:
                cancelled = True
                _cancel([task.id for task in tasks])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _collect(task: _Task, queue: _Queue, folder: Path, *, stopping: bool) -> Iterator[Ended]:
    """Yield the jobs of a task that have ended, and take them out of it."""
    if task.state == "PENDING":
        return
    for job in list(task.jobs):
        ended = _ended(job, _attempts_at(task.id, folder, job), task, queue, folder, stopping=stopping)
        if ended is not None:
            task.jobs.remove(job)
            yield ended


def _ended(
    job: Job, attempts: list[Attempt], task: _Task, queue: _Queue, folder: Path, *, stopping: bool
) -> Ended | None:
    """Return how a job has ended; None while it may go on, or what it left may not be seen yet."""
    last, log = attempts[-1] if attempts else None, log_file(folder, job.name)
    over_for = 0.0 if task.over_since is None else time.monotonic() - task.over_since
    if job.is_complete and (last is None or last.outcome is not None or over_for > SETTLED_SECONDS):
        return Ended(job, log, "done", attempts[0].seconds if len(attempts) == 1 else None)
    if _has_failed(attempts):
        return Ended(job, log, "failed")
    if over_for < SETTLED_SECONDS:
        return None
    if stopping or task.state == "CANCELLED" or (last is not None and last.outcome is not None):
        return Ended(job, log, "stopped")
    if task.state in ("COMPLETED", GONE) and over_for < SHOWN_WITHIN_SECONDS:
        return None
    if last is None and task.state == GONE:  # cancelled before its turn
        return Ended(job, log, "stopped")
    if last is None:  # it did not come so far as to start the job
        return Ended(job, queue.log(task), "failed")
    with log.open("a") as file:
        print(f"job {task.id} of SLURM ended meanwhile: {task.state}", file=file)
    record_end(folder, job.name, "failed")
    return Ended(job, log, "failed")


def _attempts_at(place: str, folder: Path, job: Job) -> list[Attempt]:
    return [attempt for attempt in read_attempts(folder, job.name) if attempt.place == place]


def _has_failed(attempts: Sequence[Attempt]) -> bool:
    return bool(attempts) and attempts[-1].outcome == "failed"


def _split(values: Sequence[T], size: int) -> list[list[T]]:
    """Cut a sequence into pieces of this size, the last one shorter."""
    return [list(values[start : start + size]) for start in range(0, len(values), size)]


def _own_id() -> str:
    """Return the id of the job of SLURM that this process runs in, as squeue writes it.

    SLURM_JOB_ID is that of the whole array in one of its jobs.
    """
    array, raw = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ["SLURM_JOB_ID"]
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else raw


def _is_cancelled() -> bool:
    """Return whether the job of SLURM that this process runs in is ended for good; one that is preempted runs on."""
    try:
        state = _call(["squeue", "--noheader", f"--jobs={_own_id()}", "--format=%T"])
    except OSError:
        return True
    return state.strip() != "RUNNING"


def _ask(queue: _Queue, tasks: Sequence[_Task]) -> None:
    """Ask SLURM for the states of jobs; where it does not answer, which passes, they stay as they are."""
    try:
        states = queue.states()
    except OSError as error:
        print(f"{error}; asking again", flush=True)
        return
    for task in tasks:
        task.state = states.get(task.id, (GONE, ""))[0]
        is_over = task.state in OVER | {GONE}
        task.over_since = (task.over_since or time.monotonic()) if is_over else None


def _cancel(ids: Sequence[str]) -> None:
    """Ask SLURM to end jobs; what it has to say of those that end just now is only printed."""
    print(f"cancelling {len(ids)} jobs of SLURM", flush=True)
    for some in _split(ids, IDS_A_CALL):
        try:
            _call(["scancel", "--quiet", *some])
        except OSError as error:
            print(error, flush=True)


def _max_array_size() -> int:
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _call(["scontrol", "show", "config"]), re.MULTILINE)
    return max(1, int(found[1]) if found else USUAL_MAX_ARRAY_SIZE)


def _call(command: Sequence[str]) -> str:
    """Return what a command of SLURM prints.

    Raises:
        OSError: It failed; the message has its words.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CALL_SECONDS)
    except FileNotFoundError:
        raise OSError(f"no SLURM on this machine: there is no {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]} does not answer within {CALL_SECONDS} s") from None
    if done.returncode:
        raise OSError(f"{command[0]}: {' '.join(done.stderr.split())}")
    return done.stdout


def _submitit() -> Any:
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("SLURM needs submitit: pip install 'online-label-smoothing[slurm]'") from error
    return submitit
