"""Make a table of targets of the official download of a public set, with what was left out and why.

python recipes/prepare.py busi data/Dataset_BUSI_with_GT

The folder receives `targets.csv`, `prepared.md` and, where there is something in them, `left_out.csv`, `boxes.csv` and
the folder `prepared`; what was downloaded stays as it is.
"""

from jsonargparse import ArgumentParser

from ols.command_line import one_line_errors
from ols.data.preparation.prepared import Prepared, as_csv
from ols.data.preparation.sets import SETS
from ols.files import write_file


def _name_near_copies(prepared: Prepared) -> str:
    from ols.audit.copies import near_copies  # here, so that --help answers at once

    names = sorted(prepared.rows)
    copies = near_copies(prepared.folder, names, log=prepared.make_path("near_copies.scan.jsonl"))
    pairs = [{"first": names[a], "second": names[b], "correlation": f"{similar:.4f}"} for a, b, similar in copies]
    path = prepared.folder / "near_copies.csv"
    write_file(path, as_csv(["first", "second", "correlation"], pairs))
    return f"{len(pairs):,} pairs of near-copies, named in {path}; `recipes/split.py --join_copies` keeps them together"


def main() -> None:
    """Read the command line, prepare the set, and say what is in it."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subcommands(dest="set")
    for name, prepare in SETS.items():
        command = ArgumentParser(description=(prepare.__doc__ or name).splitlines()[0])
        command.add_argument("folder", type=str, help="where the download was unpacked")
        command.add_function_arguments(prepare, skip={"folder"})
        command.add_argument(
            "--near_copies",
            action="store_true",
            help="look for nearly the same pictures, as the audit does, and write their names into near_copies.csv",
        )
        commands.add_subcommand(name, command)
    arguments = parser.parse_args()
    options = arguments[arguments.set].as_dict()
    with_copies = options.pop("near_copies")
    with one_line_errors():
        prepared = SETS[arguments.set](options.pop("folder"), **options)
        print(prepared.write())
        if with_copies:
            print(_name_near_copies(prepared))
        print(f"{prepared.folder / 'targets.csv'}: name it with --data.root")


if __name__ == "__main__":
    main()
