"""Is a fine-tuned classifier as good for everyone: subgroups of all test folds together, and their largest gaps.

python recipes/subgroups.py <folder> --subgroups sex view age:40,60

<folder> holds the folds of one start, as recipes/finetune.py leaves them; of a single run recipes/evaluate.py
takes --subgroups.
"""

from pathlib import Path

from jsonargparse import ArgumentParser

from ols.command_line import one_line_errors


def main() -> None:
    """Read the command line, measure, print and write `subgroups.md`."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="with fold0, fold1 and so on")
    parser.add_argument("--subgroups", nargs="+", help="columns of the table; numbers in bands as age:40,60")
    parser.add_argument("--data.root", type=str | None, help="table of targets, by default that of the runs")
    options = parser.parse_args()
    if not options.subgroups:
        parser.error("--subgroups must name a column of the table")
    # Imported here because it takes seconds: --help and a wrong key answer at once.
    from dataclasses import replace

    from ols.data.sources.opening import open_table
    from ols.evaluation.draws import BinaryOutputs
    from ols.evaluation.fold_runs import fold_runs, load_fold_runs
    from ols.evaluation.subgroup_page import INTRODUCTION, asked_of, measure_subgroups
    from ols.evaluation.subgroups import markdown
    from ols.files import write_file

    folder = Path(options.folder)
    with one_line_errors():
        found = load_fold_runs(folder)
        asked = asked_of(found.tasks[0])
        data = fold_runs(folder)[0].load_config().data
        table = open_table(replace(data, root=options.data.root or data.root), in_chans=data.in_chans)
        outputs = {name: BinaryOutputs.of_folds(found, name) for name in asked}
        text = markdown(*measure_subgroups(outputs, table, options.subgroups))
    images = len(set(found.sample_ids))
    head = f"{images:,} images of {len(found.folds)} test folds; an AUC is the mean of the folds'."
    write_file(folder / "subgroups.md", f"# Subgroups of {folder.name}\n\n{head} {INTRODUCTION}\n\n{text}")
    print(f"{text}\n{folder / 'subgroups.md'}")


if __name__ == "__main__":
    main()
