"""Run shell scripts as jobs, `NAME=SCRIPT`, in the folder named first; a job is complete once a file NAME is there."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ols.studies.jobs import Job
from ols.studies.launchers.local import run_jobs


def jobs_of(folder: Path, scripts: dict[str, str]) -> list[Job]:
    return [Job(name, ["sh", "-c", script], [folder / name]) for name, script in scripts.items()]


if __name__ == "__main__":
    folder, *scripts = sys.argv[1:]
    jobs = jobs_of(Path(folder), dict(script.split("=", 1) for script in scripts))
    for ended in run_jobs(jobs, Path(folder) / "logs", parallel=1):
        print(ended.job.name, ended.outcome, flush=True)
