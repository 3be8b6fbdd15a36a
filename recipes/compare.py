"""Compare runs along one axis: `python recipes/compare.py RUN ... [--along KEY ...] [--within KEY ...] [--output DIR]`.

RUNs are folders of runs that differ in the axis, by default the loss, and in the seed, and that have their predictions,
which `recipes/evaluate.py` writes. KEYs are sections or keys of the configuration, such as `model` or `optim.peak_lr`.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Namespace) -> None:
    """Print the comparison, and write it where an output folder is named."""
    # Imported here because it takes seconds: --help answers at once.
    from ols.runs.folder import describe_conditions
    from ols.studies.comparison import compare_runs, summarise
    from ols.studies.evaluated_runs import load_runs
    from ols.studies.report import markdown, write_comparison
    from ols.tracking.dashboard import PERFECT

    # `runs/*` of a shell names files as well, and TensorBoard's diagonal.
    run_dirs = [run_dir for run_dir in arguments.runs if run_dir.is_dir() and run_dir.name != PERFECT]
    runs = load_runs(run_dirs, along=arguments.along, within=arguments.within)
    summaries = summarise(runs)
    comparisons = compare_runs(runs, arguments.reference)
    conditions = f"{len(runs)} runs, {runs[0].test_images:,} test images each. {describe_conditions(run_dirs)}"
    print(markdown(summaries, comparisons, conditions))
    if arguments.output:
        write_comparison(arguments.output, runs, summaries, comparisons, conditions)
        print(f"written to {arguments.output}")


def parse_arguments(argv: Sequence[str] | None = None) -> Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--along", nargs="+", default=["loss"], metavar="KEY", help="what makes the axis; loss")
    parser.add_argument("--within", nargs="+", default=[], metavar="KEY", help="what may differ as well, such as model")
    parser.add_argument("--reference", help="value that the others are compared with; hard, or the first")
    parser.add_argument("--output", type=Path, help="folder for Markdown, CSV and the picture")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        main(parse_arguments())
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
