"""Train every cell of a study: `python recipes/sweep.py STUDY.yaml [--dry_run] [overrides]`.

The same command typed again skips what is complete and continues what is not. Keys of the study can be given on the
command line (`--parallel 2`, `--axes.seed [0,1]`, `--launcher slurm --slurm.partition gpu`); all other options go to
every run (`--data.root <folder>`).
"""

import os
import shlex
import sys
from argparse import ArgumentParser as PlainParser
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import yaml

from ols.command_line import NearestKeyParser, one_line_errors
from ols.data.sources.opening import find_form
from ols.runs.folder import RunFolder, locked
from ols.studies.columns import are_columns_there, columns_of_study
from ols.studies.grid import Run, Study, keep_apart, plan_runs
from ols.studies.jobs import Ended, Job
from ols.studies.labels import LOSS, SEED, is_within
from ols.studies.launchers.local import run_jobs
from ols.studies.launchers.slurm import Slurm, run_jobs_on_slurm
from ols.studies.needs import estimate_disk, estimate_memory, estimate_time, record_seconds, seconds_left
from ols.studies.progress import Progress
from ols.tasks import find_task

LAST_LINES = 15  # of a failed run's log


def parse_study(argv: Sequence[str] | None = None) -> tuple[Study, list[Run], bool]:
    """Read a study: its description, its runs, and whether they are only listed."""
    first = PlainParser(description=__doc__, usage="%(prog)s STUDY.yaml [--dry_run] [overrides]", allow_abbrev=False)
    first.add_argument("study", type=Path, help="YAML file")
    first.add_argument(
        "--dry_run", action="store_true", help="list commands, and the time, memory and disk that are left"
    )
    keys = [field.name for field in fields(Study)] + [f"slurm.{field.name}" for field in fields(Slurm)]
    for key in keys:
        first.add_argument(f"--{key}", help="instead of the file's")
    known, overrides = first.parse_known_args(argv)
    if not known.study.is_file():
        first.error(f"no such file: {known.study}")
    parser = NearestKeyParser()
    parser.add_class_arguments(Study)
    given = [f"--{key}={getattr(known, key)}" for key in keys if getattr(known, key) is not None]
    values = parser.parse_args(given, namespace=parser.parse_object(yaml.safe_load(known.study.read_text()))).as_dict()

    # Values of single axes
    of_axes = PlainParser(add_help=False, allow_abbrev=False)
    for name in values["axes"]:
        of_axes.add_argument(f"--axes.{name}", dest=name, type=yaml.safe_load)
    axes, overrides = of_axes.parse_known_args(overrides)
    values["axes"] |= {name: new for name, new in vars(axes).items() if new is not None}
    for token in overrides:
        if token.startswith("--axes."):
            first.error(f"{token}: no such axis; the study has {', '.join(values['axes'])}")
    try:
        study = Study(**values | {"slurm": Slurm(**values["slurm"])})
        return study, plan_runs(study, known.study, overrides), known.dry_run
    except (FileNotFoundError, ValueError) as error:
        first.error(str(error))


def main(study: Study, runs: list[Run], *, dry_run: bool) -> int:
    """Run a study; return the exit status: 0, 1 where a run failed, 130 where it was stopped."""
    folder = Path(study.folder)
    logs, seconds = folder / "logs", folder / "logs" / "seconds.jsonl"
    by_name = {run.run_dir.name: run for run in runs}
    jobs = [
        Job(name, [*study.command, _recipe(f"{study.recipe}.py"), *run.arguments], [run.last_file])
        for name, run in by_name.items()
    ]
    if dry_run:
        for job in jobs:
            run = by_name[job.name]
            state = "complete" if run.is_complete else "continues" if run.has_begun else "to do"
            print(f"{state:9}  {shlex.join(job.command)}")
        print(Progress(folder / "cells.csv", runs, logs).describe())
        print(estimate_time(seconds, runs, parallel=study.parallel))
        print(estimate_memory(runs, logs, parallel=study.parallel))
        print(estimate_disk(runs))
        return 0
    with one_line_errors():  # before anything is made
        for root in dict.fromkeys(run.config.data.root for run in runs if not run.config.data.phantoms):
            find_form(root)
    try:
        with locked(logs / ".sweep.lock", folder):
            return _run(study, by_name, jobs)
    except (ModuleNotFoundError, RuntimeError) as error:
        print(f"sweep.py: error: {error}", file=sys.stderr)
        return 2


def _run(study: Study, by_name: dict[str, Run], jobs: list[Job]) -> int:
    """Run what is not complete, evaluate it, and say what failed."""
    folder, runs = Path(study.folder), list(by_name.values())
    logs, seconds = folder / "logs", folder / "logs" / "seconds.jsonl"

    # What runs have in common, made once
    from ols.training.inputs import make_inputs  # takes seconds

    with one_line_errors():
        keep_apart(study)
        for run in runs:
            split = Path(run.config.split.file or "")
            make_inputs(run.config, folds=split if split.parent == folder / "folds" else None)

    # Train; only a run that is made in one go tells how long a run takes
    progress = Progress(folder / "cells.csv", runs, logs)

    def show(running: Collection[str] | None = None, ended: Collection[str] = ()) -> None:
        progress.update(ended, running)
        progress.write()
        print(progress.describe(seconds_left(seconds, progress.left, parallel=study.parallel)), flush=True)

    show()
    anew = {run.run_dir.name for run in runs if not run.has_begun}
    ends = []
    for ended in launch(study, jobs, logs, on_change=show):
        ends.append(ended)
        report(ended)
        if ended.outcome == "done" and ended.seconds is not None and ended.job.name in anew:
            record_seconds(seconds, by_name[ended.job.name], ended.seconds, parallel=study.parallel)
        if ended.outcome in ("done", "failed"):
            show(ended=[ended.job.name])
    progress.update(running=())

    # Evaluate, and add the columns that the study asks for
    complete = [RunFolder(run.run_dir) for run in runs if run.is_complete]
    for further in (evaluations, further_columns):
        if not any(ended.outcome == "stopped" for ended in ends):
            for ended in launch(study, further(study, complete), logs):
                ends.append(ended)
                report(ended)
    progress.update(names=by_name)
    progress.write()

    # Say what failed, and what to do next
    outcomes = {ended.outcome for ended in ends}
    for ended in ends:
        if ended.outcome == "failed":
            lines = ended.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
            print("\n".join([f"\n{ended.job.name} failed; the end of {ended.log}:", *lines]))
    print(f"\n{len(complete)} of {len(runs)} runs are complete")
    if outcomes & {"failed", "stopped"}:
        print(f"continue     {shlex.join([Path(sys.executable).name, *sys.argv])}")
    if study.recipe == "pretrain":
        print(f"compare      {comparison_command(study)}")
    if "stopped" not in outcomes:
        write_page(study, runs)
    from ols.tracking.dashboard import write_comparison_page  # takes seconds

    tasks = {run.config.task for run in runs}
    page = write_comparison_page(folder / "runs", find_task(tasks.pop()), runs=list(by_name)) if len(tasks) == 1 else ""
    print(f"curves       tensorboard --logdir {folder}/runs{page and f', then open {page}'}")
    return 130 if "stopped" in outcomes else int("failed" in outcomes)


def evaluations(study: Study, complete: Sequence[RunFolder]) -> list[Job]:
    """Return a job for each run that has not predicted its test images."""
    missing = [run for run in complete if study.evaluate and not run.predictions("test").is_file()]
    return [_further(study, run, "evaluate", [], run.predictions("test")) for run in missing]


def further_columns(study: Study, complete: Sequence[RunFolder]) -> list[Job]:
    """Return a job for each run without the columns that the study asks for; those of other options are put aside."""
    asked = columns_of_study(study.columns)
    missing = [run for run in complete if not are_columns_there(run, asked)] if asked else []
    for run in missing:
        if run.columns.is_file():
            run.columns.replace(run.earlier_columns)
    return [_further(study, run, "columns", study.columns, run.columns) for run in missing]


def _further(study: Study, run: RunFolder, recipe: str, options: Sequence[str], result: Path) -> Job:
    command = [*study.command, _recipe(f"{recipe}.py"), str(run.path), *options]
    return Job(f"{recipe}-{run.path.name}", command, [result])


def launch(
    study: Study, jobs: list[Job], logs: Path, on_change: Callable[[set[str]], None] = lambda running: None
) -> Iterator[Ended]:
    """Run jobs where the study says, and yield each as it ends; a cluster that refuses them ends the sweep."""
    if study.launcher == "local":
        yield from run_jobs(jobs, logs, parallel=study.parallel, on_change=on_change)
    else:
        with one_line_errors():
            yield from run_jobs_on_slurm(jobs, logs, study.slurm, parallel=study.parallel, on_change=on_change)


def report(ended: Ended) -> None:
    """Print how a job ended."""
    after = "" if ended.seconds is None else f" after {ended.seconds:,.0f} s"
    print(f"{ended.job.name}: {ended.outcome}{after}", flush=True)


def write_page(study: Study, runs: list[Run]) -> None:
    """Write the page of a study from the cells that are complete, or say why there is none."""
    along, folder = study.compared_along, Path(study.folder)
    if along is None:
        return
    from ols.studies.findings.page import write_study_page  # takes seconds
    from ols.studies.results import load_cells

    try:
        cells = load_cells(runs, folder / "logs")
        if not cells:
            return
        page = write_study_page(
            folder,
            cells,
            along=along,
            choose_over=study.choose_over,
            question=study.question or f"{folder.name}: what does it matter which {along}?",
            planned=len(runs),
        )
    except (OSError, ValueError) as error:
        print(f"no page      {error}")
    else:
        print(f"page         {page}, as Markdown {page.with_suffix('.md')}")


def comparison_command(study: Study) -> str:
    """Return the command that compares the losses of a study, or else the values of its first axis that is no seed."""
    axes = {axis.name: axis.section_keys for axis in study.list_axes() if axis.name != SEED}
    along = study.along or (LOSS if LOSS in axes or not axes else next(iter(axes)))
    keys = axes.pop(along, [LOSS])
    options = ["--output", f"{study.folder}/comparison"]
    if keys != [LOSS]:
        options += ["--along", *keys]
    # Options of losses are part of the loss, and losses are told apart in every comparison.
    within = [key for keys in axes.values() for key in keys if not is_within(key, [LOSS])]
    if within:
        options += ["--within", *within]
    return f"python {_recipe('compare.py')} {shlex.quote(study.folder)}/runs/* {shlex.join(options)}"


def _recipe(name: str) -> str:
    return os.path.relpath(Path(__file__).parent / name)


if __name__ == "__main__":
    study, runs, dry_run = parse_study()
    sys.exit(main(study, runs, dry_run=dry_run))
