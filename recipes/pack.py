"""Pack a data set: images resized once and kept as bytes in a few large files, which are read 20 times faster.

python recipes/pack.py --data.root <folder> --output <pack>
python recipes/pack.py --output <pack> --verify
"""

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from ols.command_line import one_line_errors
from ols.data.sources.opening import find_form


def main() -> None:
    """Read the command line, pack, verify."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data.root", type=str | None, help="images, in any form that recipes/pretrain.py takes")
    parser.add_argument("--data.splits", type=str | None, help="folder with RadImageNet's CSVs, if not a usual place")
    parser.add_argument("--data.mask", type=str | None, help="column of a table with masks, by default mask")
    parser.add_argument("--output", type=str, required=True, help="folder of the pack")
    parser.add_argument("--size", type=int, default=256, help="pixels that images are resized to: data.resize_size")
    parser.add_argument(
        "--aspect",
        type=Literal["shorter", "longest", "squash"],
        default="shorter",
        help="which side is: data.aspect. longest pads with black, squash does not keep the ratio of the sides",
    )
    parser.add_argument("--in_chans", type=Literal[1, 3], default=1, help="1 for grayscale, 3 for RGB")
    parser.add_argument(
        "--unreadable",
        type=Literal["error", "skip"],
        default="error",
        help="skip leaves out training images that cannot be read, and lists them in the manifest",
    )
    parser.add_argument("--shard_images", type=int, default=4096, help="images of a file")
    parser.add_argument("--workers", type=int | None, help="processes; by default one per core")
    parser.add_argument("--verify", action="store_true", help="read every byte of the pack again")
    arguments = parser.parse_args()
    if not arguments.data.root and not arguments.verify:
        parser.error("give --data.root to pack, or --verify to check a pack")

    if arguments.data.root:
        with one_line_errors():
            is_table = find_form(arguments.data.root) == "table"
            if is_table and Path(arguments.data.root).is_dir():
                raise ValueError(f"{arguments.data.root} is a pack")
            if is_table and arguments.unreadable == "skip":
                raise ValueError("of a table every image is packed, as none is a training image yet: leave out skip")

    # Imported here because it takes seconds: --help and a wrong key answer at once.
    from ols.data.packing import write_pack
    from ols.data.sources.opening import open_sources
    from ols.data.sources.pack import MASKS, load_manifest, verify_pack
    from ols.data.table_packing import write_table_pack
    from ols.runs.environment import available_cores

    output = Path(arguments.output)
    with one_line_errors():
        sizes = {name: getattr(arguments, name) for name in ("size", "aspect", "shard_images")}
        sizes["workers"] = arguments.workers or available_cores()
        if arguments.data.root and is_table:
            write_table_pack(
                arguments.data.root, output, mask=arguments.data.mask, in_chans=arguments.in_chans, **sizes
            )
        elif arguments.data.root:
            sources, description = open_sources(
                arguments.data.root, splits=arguments.data.splits, in_chans=arguments.in_chans
            )
            print(description)
            write_pack(sources, output, unreadable=arguments.unreadable, **sizes)
        manifest = load_manifest(output)
        if arguments.verify:
            verify_pack(output, manifest)
            if manifest.get("table", {}).get("mask"):
                verify_pack(output / MASKS, load_manifest(output / MASKS))
    images = {split: len(columns["ids"]) for split, columns in manifest["splits"].items()}
    print(f"{output}: {', '.join(f'{count:,} {split}' for split, count in images.items())} images in ", end="")
    print(f"{len(manifest['shards'])} files{', every checksum is right' if arguments.verify else ''}")
    if "table" in manifest:
        masks = manifest["table"]["mask"]
        print(f"a table of targets, {f'with masks of column {masks}' if masks else 'without masks'}")
    if manifest["skipped"]:
        print(f"left out because they cannot be read: {', '.join(manifest['skipped'])}")


if __name__ == "__main__":
    main()
