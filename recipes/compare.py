"""Compare losses over seeds: `python recipes/compare.py RUNS... [--output DIR] [--reference LOSS] [--allow KEY ...]`.

RUNS are folders of runs that differ in loss and seed and have their predictions, which `recipes/evaluate.py` writes.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path


def main(arguments: Namespace) -> None:
    """Print the comparison, and write it where an output folder is named."""
    # Imported here because it takes seconds: --help answers at once.
    from ols.runs.folder import describe_conditions
    from ols.studies.comparison import compare_losses, load_runs, summarise
    from ols.studies.report import markdown, write_report
    from ols.tracking.dashboard import PERFECT

    # `runs/*` of a shell names files as well, and TensorBoard's diagonal.
    run_dirs = [run_dir for run_dir in arguments.runs if run_dir.is_dir() and run_dir.name != PERFECT]
    runs = load_runs(run_dirs, allow=arguments.allow)
    summaries = summarise(runs)
    comparisons = compare_losses(runs, arguments.reference)
    conditions = f"{len(runs)} runs, {runs[0].test_images:,} test images each. {describe_conditions(run_dirs)}"
    print(markdown(summaries, comparisons, conditions))
    if arguments.output:
        write_report(arguments.output, runs, summaries, comparisons, conditions)
        print(f"written to {arguments.output}")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--output", type=Path, help="folder for Markdown, CSV and the figure")
    parser.add_argument("--reference", help="loss that the others are compared with; hard where there is one")
    parser.add_argument("--allow", nargs="+", default=[], metavar="KEY", help="keys that may differ, such as model")
    try:
        main(parser.parse_args())
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
