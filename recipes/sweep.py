"""Train losses x architectures x seeds: `python recipes/sweep.py SWEEP.yaml [--dry_run] [overrides]`.

The same command typed again skips what is complete and continues what is not. Keys of the sweep can be given on the
command line (`--parallel 2`, `--seeds [0,1]`); all other options go to every run (`--data.root <folder>`).
"""

import os
import shlex
import sys
from argparse import ArgumentParser as PlainParser
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import yaml

from ols.config import NearestKeyParser
from ols.phantoms import write_phantoms
from ols.studies.sweep import Ended, Job, Run, Sweep, estimate, plan_runs, record_seconds, run_jobs

LAST_LINES = 15  # of a failed run's log


def parse_sweep(argv: Sequence[str] | None = None) -> tuple[Sweep, list[Run], bool]:
    """Read a sweep: its description, its runs, and whether they are only listed."""
    first = PlainParser(description=__doc__, usage="%(prog)s SWEEP.yaml [--dry_run] [overrides]", allow_abbrev=False)
    first.add_argument("sweep", type=Path, help="YAML file")
    first.add_argument("--dry_run", action="store_true", help="list commands and estimated time")
    keys = [field.name for field in fields(Sweep)]
    for key in keys:
        first.add_argument(f"--{key}", help="instead of the file's")
    known, overrides = first.parse_known_args(argv)
    if not known.sweep.is_file():
        first.error(f"no such file: {known.sweep}")
    parser = NearestKeyParser()
    parser.add_class_arguments(Sweep)
    given = [f"--{key}={getattr(known, key)}" for key in keys if getattr(known, key) is not None]
    values = parser.parse_args(given, namespace=parser.parse_object(yaml.safe_load(known.sweep.read_text())))
    try:
        sweep = Sweep(**values.as_dict())
        return sweep, plan_runs(sweep, known.sweep, overrides), known.dry_run
    except ValueError as error:
        first.error(str(error))


def main(sweep: Sweep, runs: list[Run], *, dry_run: bool) -> int:
    """Run a sweep; return the exit status: 0, 1 where a run failed, 130 where it was stopped."""
    folder = Path(sweep.folder)
    logs, seconds = folder / "logs", folder / "logs" / "seconds.jsonl"
    by_name = {run.run_dir.name: run for run in runs}
    jobs = [
        Job(name, [*sweep.launcher, _recipe("pretrain.py"), *run.arguments], lambda run=run: run.is_complete)
        for name, run in by_name.items()
    ]
    if dry_run:
        for job in jobs:
            run = by_name[job.name]
            state = "complete" if run.is_complete else "continues" if run.has_begun else "to do"
            print(f"{state:9}  {shlex.join(job.command)}")
        print(estimate(seconds, runs, parallel=sweep.parallel))
        return 0

    # Phantoms, once for all runs
    for run in runs:
        if run.config.data.phantoms:
            write_phantoms(run.config.data.root, run.config.phantoms)

    # Train; only a run that is made in one go tells how long a run takes
    anew = {run.run_dir.name for run in runs if not run.has_begun}
    ends = []
    for ended in run_jobs(jobs, logs, parallel=sweep.parallel):
        ends.append(ended)
        report(ended)
        if ended.outcome == "done" and ended.job.name in anew:
            record_seconds(seconds, by_name[ended.job.name], ended.seconds, parallel=sweep.parallel)

    # Evaluate
    complete = [run.run_dir for run in runs if run.is_complete]
    missing = [run_dir for run_dir in complete if not has_predictions(run_dir)]
    if sweep.evaluate and missing and not any(ended.outcome == "stopped" for ended in ends):
        command = [*sweep.launcher, _recipe("evaluate.py"), *map(str, missing)]
        job = Job("evaluate", command, lambda: all(map(has_predictions, missing)))
        for ended in run_jobs([job], logs, parallel=1):
            ends.append(ended)
            report(ended)

    # Say what failed, and what to do next
    outcomes = {ended.outcome for ended in ends}
    for ended in ends:
        if ended.outcome == "failed":
            lines = ended.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
            print("\n".join([f"\n{ended.job.name} failed; the end of {ended.log}:", *lines]))
    print(f"\n{len(complete)} of {len(runs)} runs are complete")
    if outcomes & {"failed", "stopped"}:
        print(f"continue     {shlex.join([Path(sys.executable).name, *sys.argv])}")
    several = " --allow model" if len(sweep.architectures) > 1 else ""
    print(f"compare      python {_recipe('compare.py')} {folder}/runs/*-seed* --output {folder}/comparison{several}")
    from ols.tracking.dashboard import write_comparison_page  # takes seconds

    page = write_comparison_page(folder / "runs", runs=list(by_name))
    print(f"curves       tensorboard --logdir {folder}/runs, then open {page}")
    return 130 if "stopped" in outcomes else int("failed" in outcomes)


def report(ended: Ended) -> None:
    """Print how a job ended."""
    after = "" if ended.seconds is None else f" after {ended.seconds:,.0f} s"
    print(f"{ended.job.name}: {ended.outcome}{after}", flush=True)


def has_predictions(run_dir: Path) -> bool:
    """Return whether a run was evaluated."""
    return (run_dir / "evaluation" / "test.safetensors").is_file()


def _recipe(name: str) -> str:
    return os.path.relpath(Path(__file__).parent / name)


if __name__ == "__main__":
    sweep, runs, dry_run = parse_sweep()
    sys.exit(main(sweep, runs, dry_run=dry_run))
