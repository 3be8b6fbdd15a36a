"""Write phantom radiology in the on-disk form of RadImageNet, or draw a labelled sheet of it; or patients with lesions.

python recipes/make_phantoms.py --root data/phantoms --num_train 10000 --contact_sheet phantoms.png
python recipes/make_phantoms.py --kind lesions --root data/lesions --lesions.patients 240
"""

from dataclasses import fields, replace

import numpy as np
from jsonargparse import ArgumentParser
from PIL import Image, ImageDraw, ImageFont

from ols.phantoms import ANATOMIES, PHANTOM_CLASSES, PhantomConfig, render_phantoms, write_phantoms
from ols.phantoms.targets import LesionConfig, write_lesion_phantoms

TILE = 80  # pixels
COLUMNS = 8
GAP = 6  # pixels between columns
CAPTION = 13  # pixels below each row of tiles
MARGIN = 84  # pixels left of the tiles
GREYS = 24  # shades kept: noise compresses badly


def draw_contact_sheet(config: PhantomConfig) -> Image.Image:
    """Draw one row per anatomy: a normal and pathologies spread over its table, each with the name of its class folder.

    Args:
        config: Seed, contrast, jitter and noise of the images; they are rendered at the sheet's own size.

    Returns:
        Palette image of at most 300 kB as PNG.
    """
    config = replace(config, image_size=TILE)
    sheet = Image.new("L", (MARGIN + COLUMNS * (TILE + GAP), len(ANATOMIES) * (TILE + CAPTION)), 255)
    draw, name_font, row_font = ImageDraw.Draw(sheet), ImageFont.load_default(8.5), ImageFont.load_default(12)
    for row, group in enumerate(ANATOMIES):
        members = [k for k, c in enumerate(PHANTOM_CLASSES) if c.anatomy == group.prefix]
        normal = next(k for k in members if PHANTOM_CLASSES[k].lesion == "none")
        pathologies = sorted((k for k in members if k != normal), key=lambda k: PHANTOM_CLASSES[k].site)
        spread = np.linspace(0, len(pathologies) - 1, min(COLUMNS - 1, len(pathologies))).round().astype(int)
        shown = [normal, *(pathologies[i] for i in spread)]
        top = row * (TILE + CAPTION)
        draw.text((4, top + TILE / 2 - 14), f"{group.folder}\n{len(members)} classes", font=row_font, fill=0)
        images = render_phantoms(shown, np.arange(len(shown)) + COLUMNS * row, config)
        for column, (k, image) in enumerate(zip(shown, images, strict=True)):
            left = MARGIN + column * (TILE + GAP)
            sheet.paste(Image.fromarray(image), (left, top))
            name = PHANTOM_CLASSES[k].folder.rsplit("/", 1)[-1]
            draw.text((left + TILE / 2, top + TILE), name, font=name_font, fill=0, anchor="ma")
    return sheet.quantize(GREYS)


def main() -> None:
    """Read the command line, write the set, draw the sheet."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=str | None, help="folder to write; nothing is written without it")
    parser.add_argument("--workers", type=int | None, help="processes; by default one per core")
    parser.add_argument("--contact_sheet", type=str | None, help="PNG file to draw a sample of every anatomy into")
    parser.add_argument(
        "--kind", choices=("classes", "lesions"), default="classes", help="lesions: a table of targets with masks"
    )
    parser.add_class_arguments(PhantomConfig)
    parser.add_class_arguments(LesionConfig, "lesions")
    arguments = parser.parse_args()
    if not arguments.root and not arguments.contact_sheet:
        parser.error("give --root, --contact_sheet or both")
    if arguments.kind == "lesions":
        if not arguments.root:
            parser.error("--kind lesions needs --root")
        try:
            write_lesion_phantoms(arguments.root, LesionConfig(**arguments.lesions.as_dict()))
        except ValueError as error:
            parser.error(str(error))
        print(f"{arguments.root}/targets.csv: {arguments.lesions.patients} patients")
        return
    try:
        config = PhantomConfig(**{field.name: arguments[field.name] for field in fields(PhantomConfig)})
        if arguments.root:
            write_phantoms(arguments.root, config, workers=arguments.workers)
    except ValueError as error:
        parser.error(str(error))
    if arguments.root:
        print(f"{arguments.root}: {len(PHANTOM_CLASSES)} classes, {config.num_train} training images")
    if arguments.contact_sheet:
        draw_contact_sheet(config).save(arguments.contact_sheet, optimize=True)
        print(arguments.contact_sheet)


if __name__ == "__main__":
    main()
