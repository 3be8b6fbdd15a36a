import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launched.running_jobs import jobs_of

from ols.studies.jobs import Ended, read_attempts
from ols.studies.launchers.local import run_jobs
from ols.studies.launchers.shares import divide_machine

RUNNING_JOBS = Path(__file__).parents[2] / "launched" / "running_jobs.py"
# Leaves a line with its process and group, waits while NAME.hold is there, ends well on SIGTERM without its result.
HOLDING = "trap 'exit 0' TERM; echo $$ >> {0}.pids; while [ -e {0}.hold ]; do sleep 0.05; done; touch {0}"


class Folder:
    """Jobs that write into a folder, which is the working directory."""

    def __init__(self, path: Path):
        self.path = path

    def run(self, parallel: int = 1, **scripts: str) -> dict[str, Ended]:
        jobs = jobs_of(self.path, scripts)
        return {ended.job.name: ended for ended in run_jobs(jobs, self.path / "logs", parallel=parallel)}

    def hold(self, name: str) -> Path:
        (self.path / f"{name}.hold").touch()
        return self.path / f"{name}.hold"

    def holds_lock(self, name: str) -> bool:
        """Whether a job has begun, and its starter has written down which group it is."""
        lock = self.path / "logs" / f".{name}.lock"
        return bool(self.pids(name)) and bool(lock.read_text())

    def pids(self, name: str) -> list[int]:
        file = self.path / f"{name}.pids"
        return [int(line) for line in file.read_text().split()] if file.exists() else []


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path)


def _outcomes(ends: dict[str, Ended]) -> dict[str, str]:
    return {name: ended.outcome for name, ended in ends.items()}


def _wait(condition) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_each_job_is_a_process_group_with_a_log_and_is_not_done_again(folder, capsys):
    group = "ps -o pgid= -p $$ > {0}.group; echo $$ >> {0}.pids; echo this is {0}; touch {0}"
    ends = folder.run(a=group.format("a"), b=group.format("b"))
    assert list(_outcomes(ends).items()) == [("a", "done"), ("b", "done")]
    for name, ended in ends.items():
        assert int(Path(f"{name}.group").read_text()) == folder.pids(name)[0] != os.getpgid(0)
        assert ended.log.read_text().endswith(f"\nthis is {name}\n")
        assert ended.seconds > 0
    assert f"a: sh -c '{group.format('a')}'" in capsys.readouterr().out
    assert _outcomes(folder.run(a=group.format("a"))) == {"a": "complete"}
    assert len(folder.pids("a")) == 1


def test_the_peak_memory_of_a_job_is_written_down(folder):
    fill = "memory = b'1' * {0}; import time; time.sleep(0.2)"
    ends = folder.run(
        small=f"{sys.executable} -c '1'; touch small", large=f'{sys.executable} -c "{fill.format(10**9)}"; touch large'
    )
    assert _outcomes(ends) == {"small": "done", "large": "done"}
    (small,), (large,) = (read_attempts(folder.path / "logs", name) for name in ("small", "large"))
    assert 1e9 < large.peak_bytes < small.peak_bytes + 1.1e9


def test_a_failing_job_stops_nobody_and_one_without_its_result_has_failed(folder):
    ends = folder.run(2, a="echo out of memory; exit 3", b="true", c="touch c")
    assert _outcomes(ends) == {"a": "failed", "b": "failed", "c": "done"}
    assert "out of memory" in ends["a"].log.read_text()


def test_sigterm_is_forwarded_what_runs_is_waited_for_and_the_rest_can_be_started_again(folder):
    stop = f"kill -TERM {os.getpid()}; " + HOLDING.format("b")
    for name in "ab":
        folder.hold(name)
    assert _outcomes(folder.run(2, a=HOLDING.format("a"), b=stop, c="touch c")) == dict.fromkeys("abc", "stopped")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    for name in "ab":
        Path(f"{name}.hold").unlink()
    assert set(_outcomes(folder.run(2, a=HOLDING.format("a"), c="touch c")).values()) == {"done"}


def test_a_second_signal_kills_what_ignores_the_first(folder):
    twice = f"trap '' TERM; kill -TERM {os.getpid()}; sleep 0.6; kill -TERM {os.getpid()}; sleep 60; touch a"
    started = time.monotonic()
    assert _outcomes(folder.run(a=twice)) == {"a": "stopped"}
    assert time.monotonic() - started < 30


def test_a_killed_starter_leaves_its_job_alone_and_the_next_one_waits_for_it(folder):
    hold = folder.hold("a")
    command = [sys.executable, str(RUNNING_JOBS), str(folder.path), f"a={HOLDING.format('a')}", "b=touch b"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as first:
        _wait(lambda: folder.holds_lock("a"))
        first.kill()
    unbuffered = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=unbuffered) as second:
        (pid,) = folder.pids("a")
        assert f"still running, started earlier (process group {pid} on " in second.stdout.readline()
        hold.unlink()
        rest = second.stdout.read()
    assert second.returncode == 0
    assert "a complete" in rest
    assert "b done" in rest
    assert len(folder.pids("a")) == 1  # there was no second process


def test_a_job_of_a_killed_starter_is_stopped_by_the_next_one(folder):
    folder.hold("a")
    command = [sys.executable, str(RUNNING_JOBS), str(folder.path), f"a={HOLDING.format('a')}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as first:
        _wait(lambda: folder.holds_lock("a"))
        first.kill()
    # The second job sends the signal once the first, which is held, has been seen.
    ends = folder.run(2, a=HOLDING.format("a"), b=f"trap '' TERM; kill -TERM {os.getpid()}; touch b")
    assert _outcomes(ends) == {"a": "stopped", "b": "done"}
    assert len(folder.pids("a")) == 1
    assert not Path("a").exists()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be confined to cores here")
def test_jobs_that_run_at_a_time_have_cores_and_gpus_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    say = "sleep 0.3; echo $CUDA_VISIBLE_DEVICES $(nproc) > {0}"
    monkeypatch.chdir(tmp_path)
    ends = Folder(tmp_path).run(parallel=2, **{name: say.format(name) for name in "abc"})
    assert {ended.outcome for ended in ends.values()} == {"done"}
    gpus, cores = zip(*((tmp_path / name).read_text().split() for name in "abc"), strict=True)
    assert sorted(gpus[:2]) == ["4,5", "6,7"]
    assert gpus[2] in gpus[:2]
    assert {int(count) for count in cores} <= {len(os.sched_getaffinity(0)) // 2, -(-len(os.sched_getaffinity(0)) // 2)}


def test_more_jobs_than_gpus_share_them_and_one_job_has_all(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-b")
    assert [share.gpus for share in divide_machine(3)] == [["0"], ["GPU-b"], ["0"]]
    assert divide_machine(1)[0].environment == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert divide_machine(2)[0].environment == {}
