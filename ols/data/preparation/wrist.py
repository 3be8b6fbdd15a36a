"""X-rays of children's wrists: GRAZPEDWRI-DX."""

from pathlib import Path

import numpy as np
from PIL import Image

from ols.data.preparation.masks import open_plain
from ols.data.preparation.prepared import Prepared, find_list
from ols.data.sources.csv_rows import read_csv

FLAGS = ("fracture_visible", "cast", "osteopenia", "metal", "diagnosis_uncertain", "initial_exam")
FLAG_CELLS = {"": "0", "0": "0", "0.0": "0", "1": "1", "1.0": "1"}
PROJECTIONS = {"1": "AP", "2": "lateral", "3": "oblique", "1.0": "AP", "2.0": "lateral", "3.0": "oblique"}
EIGHT_BIT = ("L", "RGB", "P", "LA", "RGBA")


def prepare_grazpedwri(folder: str | Path) -> Prepared:
    """GRAZPEDWRI-DX: `dataset.csv` and `images_part1` to `images_part4` with `<filestem>.png`.

    Images of 16 bits are written again with 8, from their darkest to their brightest value, into `prepared/images`.

    Args:
        folder: What holds the list and the images.
    """
    prepared = Prepared(folder, licence="GRAZPEDWRI-DX, Nagy et al. 2022, doi 10.1038/s41597-022-01328-z; CC BY 4.0.")
    written = 0
    for row in read_csv(
        find_list(prepared.folder, "dataset.csv"), ["filestem", "patient_id", "age", "gender", "projection", *FLAGS]
    ):
        cells = row.cells
        name = f"{cells['filestem']}.png"
        if wrong := [flag for flag in FLAGS if cells[flag] not in FLAG_CELLS]:
            prepared.leave_out(name, f"{wrong[0]} {cells[wrong[0]]!r} is unknown")
        elif not cells["patient_id"]:
            prepared.leave_out(name, "no patient is given")
        elif file := prepared.find(name):
            try:
                with open_plain(prepared.folder / file) as image:
                    if image.mode not in EIGHT_BIT:
                        file, written = f"prepared/images/{name}", written + 1
                        _as_eight_bits(image).save(prepared.make_path(f"images/{name}"))
            except ValueError as error:
                prepared.leave_out(name, str(error))
                continue
            given = {flag: FLAG_CELLS[cells[flag]] for flag in FLAGS}
            given = {"fracture": given.pop("fracture_visible")} | given
            kept = {
                "patient": cells["patient_id"],
                "age": cells["age"],
                "sex": cells["gender"],
                "projection": PROJECTIONS.get(cells["projection"], cells["projection"]),
                "laterality": cells.get("laterality", ""),
                "ao_classification": cells.get("ao_classification", ""),
            }
            prepared.add(file, {"fracture": given.pop("fracture"), **kept, **given})
    prepared.note(f"{written:,} images of 16 bits were written again with 8.")
    prepared.note("An empty cell of fracture_visible, cast, osteopenia or metal means that there is none.")
    return prepared


def _as_eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, np.float64)
    low, high = values.min(), values.max()
    return Image.fromarray(np.rint((values - low) * (255 / max(high - low, 1))).astype(np.uint8))
