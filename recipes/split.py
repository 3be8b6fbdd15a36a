"""Divide a table of targets into folds, once, as a file that every run names.

python recipes/split.py --data.root targets.csv --task binary --data.targets '[malignant]' --output folds.json

Groups (patients) are never divided, folds are stratified by the target. Near-copies that lie in different folds are
listed: images of one patient under two names, or of an unknown one. A set that was published with a split keeps it by
`--given`, as one fold; by `--fixed_test` every fold tests its test images, and all else is divided into folds.
"""

from pathlib import Path

from jsonargparse import ArgumentParser

from ols.command_line import one_line_errors
from ols.data.options import SourceOptions
from ols.data.sources.opening import find_form
from ols.tasks import TASKS, find_task


def main() -> None:
    """Read the command line, make the folds, and say what is in them."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_class_arguments(SourceOptions, "data", skip={"splits", "side"})
    parser.add_argument("--task", choices=tuple(TASKS), default="multiclass", help="what the targets are for")
    parser.add_argument("--output", type=str, required=True, help="split file to write")
    parser.add_argument("--folds", type=int, default=5, help="number of folds; each tests images of its own")
    parser.add_argument("--val_share", type=float, default=0.2, help="of the images outside the test fold")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--given", type=str | None, help="column with train, val or test: taken over as one fold")
    parser.add_argument(
        "--fixed_test",
        type=str | None,
        help="column with train, val or test: all folds test its test images, and every other image validates once",
    )
    parser.add_argument("--near_copies", type=bool, default=True, help="false: do not look for them")
    parser.add_argument(
        "--join_copies",
        action="store_true",
        help="treat near-copies as images of one patient, so that none are divided",
    )
    arguments = parser.parse_args()
    output = Path(arguments.output)
    with one_line_errors():
        if find_form(arguments.data.root) != "table":
            raise ValueError(f"{arguments.data.root} is no table of targets: it has splits of its own")
        if output.exists():
            raise ValueError(f"{output} is there: a split is made once; name another file")
        if arguments.given and arguments.fixed_test:
            raise ValueError("--given is one fold and --fixed_test several: give one of the two")
        published = arguments.given or arguments.fixed_test
        if arguments.join_copies and (published or not arguments.near_copies):
            raise ValueError("--join_copies needs --near_copies, and cannot change a split that is given")
    # Imported here because it takes seconds: --help and a wrong key answer at once.
    from ols.audit.copies import joined_groups, near_copies
    from ols.audit.findings import count
    from ols.data.sources.opening import open_table
    from ols.data.sources.packed_table import PackedTable
    from ols.data.splits import adopt_split, describe_folds, make_folds, make_folds_of_training, save_folds

    with one_line_errors():
        table = open_table(SourceOptions(**arguments.data.as_dict()), kind=find_task(arguments.task).kind)
        groups = [table.sample_group(index) for index in range(len(table))]
        if not table.has_patients:
            print("WARNING: patients are not known: images of one patient may lie on both sides of a split")
        copies = []
        packed = isinstance(table, PackedTable)
        if packed and arguments.join_copies:
            raise ValueError("near-copies are looked for among files: split the .csv, which fits the pack, too")
        if packed:
            print("near-copies are not looked for in a pack: a split of its .csv fits the pack, too")
        elif arguments.near_copies:
            names = [table.sample_id(index) for index in range(len(table))]
            copies = near_copies(table.root, names, log=output.with_suffix(".scan.jsonl"))
        if arguments.join_copies:
            groups = joined_groups(groups, copies)
        if published and published not in table.attributes:
            raise ValueError(f"{arguments.data.root} has no column {published!r}")
        if arguments.given:
            folds = adopt_split(table, table.attributes[published], val_share=arguments.val_share, seed=arguments.seed)
        elif arguments.fixed_test:
            given = table.attributes[published]
            folds = make_folds_of_training(table, given, folds=arguments.folds, seed=arguments.seed)
        else:
            folds = make_folds(
                table, folds=arguments.folds, val_share=arguments.val_share, seed=arguments.seed, groups=groups
            )
        save_folds(output, folds)
    print(describe_folds(folds, table))
    divided = [(first, second) for first, second, _ in copies if folds.divides(first, second)]
    if not packed:
        print(f"{count(len(copies), 'pair')} of near-copies, {len(divided):,} of them in different splits of a fold")
    for first, second in divided[:20]:
        print(f"  {table.sample_id(first)} ({groups[first]})  {table.sample_id(second)} ({groups[second]})")
    if divided:
        print("look at them; --join_copies keeps them together")
    print(f"{output}: name it with --split.file")


if __name__ == "__main__":
    main()
