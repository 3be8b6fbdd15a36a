"""What a study may ask of each finished cell beside its measures: the options of `recipes/columns.py`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from ols.data.options import CONFOUNDER_STRENGTHS
from ols.files import read_record

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
    parser.add_argument("--boxes", type=str | None, help="localisation: CSV with filename and boxes")
    parser.add_argument("--findings", type=str | None, help="boxes of these alone, by their column finding: A,B")
    parser.add_argument("--masks", type=str | None, help="localisation: CSV with filename and the file of its mask")
    parser.add_argument("--mask_column", default="mask", help="name of that column")
    parser.add_argument("--explain", default="true", help="true: evidence for an image's class; predicted; or a class")
    parser.add_argument("--kind", choices=("grad_cam", "hires_cam", "layer_cam"), default="grad_cam")
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
    if options.boxes and options.masks:
        parser.error("what should be looked at: name one of --boxes and --masks")
    if options.findings and not options.boxes:
        parser.error("--findings chooses among --boxes, and none are named")
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
        asked["localisation"] = {"marked_by": regions, "explain": options.explain, "kind": options.kind} | chosen
    if options.confounder:
        asked["confounder"] = options.confounder
    return asked


def check_columns(words: Sequence[str]) -> None:
    """Make sure that a study can ask for these columns.

    Args:
        words: Options as the study's file has them, such as `["--confounder", "own"]`.

    Raises:
        ValueError: An option is wrong; the message names it.
    """
    try:
        parse_column_options(["run", *words], exit_on_error=False)
    except ArgumentError as error:
        raise ValueError(f"columns: {' '.join(str(error).split())}") from error


def are_columns_there(folder: "RunFolder", words: Sequence[str]) -> bool:
    """Return whether a run has the columns that a study asks for, whatever others it has."""
    if not folder.columns.is_file():
        return False
    there = read_record(folder.columns)["asked"]
    asked = asked_columns(parse_column_options(["run", *words]))
    return {family: there.get(family) for family in asked} == asked
