"""What should have been looked at, and for which answer: the options that all recipes of localisation have."""

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

if TYPE_CHECKING:
    from ols.localisation.regions import Regions


def add_region_options(parser: ArgumentParser) -> None:
    """Add the options to a parser, for `check_region_options` and `read_regions`."""
    parser.add_argument("--boxes", type=str | None, help="CSV with filename and x0,y0,x1,y1 or x,y,width,height")
    parser.add_argument("--findings", type=str | None, help="boxes of these alone, by their column finding: A,B")
    parser.add_argument("--masks", type=str | None, help="CSV with filename and a column with the file of its mask")
    parser.add_argument("--mask_column", default="mask", help="name of that column")
    parser.add_argument("--explain", default="true", help="true: evidence for an image's class; predicted; or a class")
    parser.add_argument("--kind", choices=("grad_cam", "hires_cam", "layer_cam"), default="grad_cam")
    parser.add_argument("--layer", type=str | None, help="whose output is the feature map, by default the last such")


def check_region_options(parser: ArgumentParser, options: Namespace) -> None:
    """End as the parser does on an error where options contradict each other."""
    if options.boxes and options.masks:
        parser.error("what should be looked at: name one of --boxes and --masks")
    if options.findings and not options.boxes:
        parser.error("--findings chooses among --boxes, and none are named")


def read_regions(options: Namespace, *, masks: str | None = None) -> "Regions | None":
    """Return the boxes or the masks that are named, or else those of a table; None without any.

    Args:
        options: Parsed options.
        masks: Table with a column of masks that is read where none is named.
    """
    from ols.localisation.regions import Boxes, MaskFiles  # here, so that --help answers at once

    if options.boxes:
        return Boxes(Path(options.boxes), findings=options.findings.split(",") if options.findings else ())
    named = options.masks or masks
    return MaskFiles(Path(named), column=options.mask_column) if named else None
