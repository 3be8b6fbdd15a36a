"""What can be known of studies on SLURM where there is none."""

import sys

import pytest

from ols.studies.jobs import Job
from ols.studies.launchers.slurm import Slurm, run_jobs_on_slurm


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 0}, "slurm.minutes must be at least 1, got 0"),
        ({"cells_per_job": 0}, "slurm.cells_per_job must be at least 1, got 0"),
        ({"minutes": 1, "save_seconds": 60}, "slurm.save_seconds must be between 0 and the time limit, got 60"),
    ],
)
def test_options_out_of_their_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        Slurm(**options)


@pytest.fixture
def jobs(tmp_path) -> list[Job]:
    return [Job("a", ["true"], [tmp_path / "a"])]


def test_a_machine_without_slurm_is_told_so(tmp_path, jobs, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="no SLURM on this machine: there is no squeue"):
        list(run_jobs_on_slurm(jobs, tmp_path / "logs", Slurm(), parallel=1))


def test_without_submitit_the_message_says_how_to_install_it(tmp_path, jobs, monkeypatch):
    for name in ("squeue", "scontrol"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'online-label-smoothing\[slurm\]'"):
        list(run_jobs_on_slurm(jobs, tmp_path / "logs", Slurm(), parallel=1))
