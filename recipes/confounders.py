"""Look at what each confounder does to images of a data set, at each strength: one picture.

python recipes/confounders.py --data.root data/phantoms --output confounders.png
"""

from pathlib import Path

from jsonargparse import ArgumentParser

from ols.command_line import one_line_errors
from ols.data.options import SizeOptions, SourceOptions
from ols.data.sources.opening import find_form
from ols.tasks import TASKS, find_task


def main() -> None:
    """Read the command line and draw the sheet."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_class_arguments(SourceOptions, "data", skip={"side", "patient"})
    parser.add_class_arguments(SizeOptions, "size", skip={"mean", "std"})
    parser.add_argument(
        "--task", choices=tuple(TASKS), default="multiclass", help="what the targets of a table are for"
    )
    parser.add_argument("--images", type=int, default=4, help="how many, evenly spread over the training images")
    parser.add_argument("--output", type=str, default="confounders.png", help="picture to write")
    arguments = parser.parse_args()
    if arguments.images < 1:
        parser.error(f"--images must be at least 1, got {arguments.images}")
    options, sizes = SourceOptions(**arguments.data.as_dict()), SizeOptions(**arguments.size.as_dict())
    with one_line_errors():
        form = find_form(options.root)
    # Imported here because it takes seconds: --help and a wrong key answer at once.
    from ols.data.confounder_sheet import contact_sheet
    from ols.data.sources.opening import open_sources, open_table
    from ols.data.sources.protocol import ImageSource
    from ols.data.transforms import Preprocessing
    from ols.files import written_aside

    with one_line_errors():
        source: ImageSource
        if form == "table":
            source = open_table(options, kind=find_task(arguments.task).kind, in_chans=sizes.in_chans)
        else:
            source = open_sources(options.root, splits=options.splits, in_chans=sizes.in_chans)[0]["train"]
        count = min(arguments.images, len(source))
        chosen = [number * len(source) // count for number in range(count)]
        sheet = contact_sheet(source, chosen, Preprocessing.from_options(sizes))
        with written_aside(Path(arguments.output)) as aside:
            sheet.save(aside, "PNG")
    print(f"{arguments.output}: {count} images, the first row as they are")


if __name__ == "__main__":
    main()
