"""What a study may ask of each finished cell beside its measures: the options of `recipes/columns.py`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from ols.data.options import CONFOUNDER_STRENGTHS
from ols.files import read_record
from ols.localisation.options import add_region_options, check_region_options

if TYPE_CHECKING:
    from ols.runs.folder import RunFolder  # takes seconds

DESCRIPTION = "Add columns to the cells of a study."


def parse_column_options(argv: Sequence[str] | None = None, *, exit_on_error: bool = True) -> Namespace:
    """Read the command line of `recipes/columns.py`.

    Args:
        argv: Without the program's name; that of the process by default.
        exit_on_error: Whether a wrong option ends the process with a message that names it, or raises.

    Raises:
        ArgumentError: An option is wrong, or no columns are asked for.
    """
    parser = ArgumentParser(description=DESCRIPTION, exit_on_error=exit_on_error)
    parser.add_argument("runs", nargs="+", help="folders of runs")
    parser.add_argument("--similarity", action="store_true", help="each layer before and after training: CCA and CKA")
    parser.add_argument("--rows", type=int, default=10_000, help="most points of images that layers are compared in")
    add_region_options(parser)
    parser.add_argument(
        "--confounder",
        choices=("own", *CONFOUNDER_STRENGTHS),
        help="own: that of the run; or another one, at its default strength, for runs trained without",
    )
    parser.add_argument("--data.root", type=str | None, help="data set, by default that of the run")
    parser.add_argument("--batch_size", type=int, default=64, help="images per forward pass")
    parser.add_argument("--threads", type=int | None, help="torch's threads, by default all cores")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu uses no accelerator")
    options = parser.parse_args(argv)
    check_region_options(parser, options)
    if not asked_columns(options):
        parser.error("no columns are asked for: name --similarity, --boxes or --masks, or --confounder")
    return options


def asked_columns(options: Namespace) -> dict[str, Any]:
    """Return what decides each family of columns that is asked for, by its name."""
    asked: dict[str, Any] = {}
    if options.similarity:
        asked["similarity"] = {"rows": options.rows}
    if regions := options.boxes or options.masks:
        chosen = {"findings": options.findings} if options.boxes else {"mask_column": options.mask_column}
        chosen |= {"layer": options.layer} if options.layer else {}
        asked["localisation"] = {"marked_by": regions, "explain": options.explain, "kind": options.kind} | chosen
    if options.confounder:
        asked["confounder"] = options.confounder
    return asked


def columns_of_study(words: Sequence[str]) -> dict[str, Any]:
    """Return `asked_columns` of what a study asks for.

    Args:
        words: Options as the study's file has them, such as `["--confounder", "own"]`; empty asks for none.

    Raises:
        ValueError: An option is wrong; the message names it.
    """
    if not words:
        return {}
    try:
        return asked_columns(parse_column_options(["run", *words], exit_on_error=False))
    except ArgumentError as error:
        raise ValueError(f"columns: {' '.join(str(error).split())}") from error


def are_columns_there(folder: "RunFolder", asked: Mapping[str, Any]) -> bool:
    """Return whether a run has the columns of `asked_columns`, whatever others it has."""
    if not folder.columns.is_file():
        return False
    there = read_record(folder.columns)["asked"]
    return {family: there.get(family) for family in asked} == asked
