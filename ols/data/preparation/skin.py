"""Pictures of skin lesions: the ISIC challenges of 2018 (task 3, HAM10000) and 2019."""

from pathlib import Path

from ols.data.preparation.prepared import Prepared, find_list
from ols.data.sources.csv_rows import read_csv

YES, NO = ("1", "1.0"), ("0", "0.0")
METADATA = ("HAM10000_metadata*", "ISIC2018_Task3_Training_LesionGroupings.csv", "ISIC_2019_Training_Metadata.csv")
ATTRIBUTES = {
    "age": ("age", "age_approx"),
    "sex": ("sex",),
    "site": ("localization", "anatom_site_general"),
    "confirmed_by": ("dx_type", "diagnosis_confirm_type"),
}


def prepare_isic(folder: str | Path) -> Prepared:
    """ISIC: `ISIC2018_Task3_Training_GroundTruth.csv` or `ISIC_2019_Training_GroundTruth.csv`, and `<image>.jpg`.

    One column a class, 1 in one of them. Lesions, and with them all pictures of one, come from
    `ISIC2018_Task3_Training_LesionGroupings.csv`, `HAM10000_metadata.csv` or `ISIC_2019_Training_Metadata.csv`. They
    stand in for patients, who are not published; a picture whose lesion is not given counts as a lesion of its own.

    Args:
        folder: What holds the lists and the folder of one year's images.
    """
    prepared = Prepared(
        folder, licence="ISIC; HAM10000 (Tschandl et al. 2018), BCN_20000, MSK; CC BY-NC 4.0 for most of the images."
    )
    about: dict[str, dict[str, str]] = {}
    try:
        for row in read_csv(find_list(prepared.folder, *METADATA), []):
            about[row.cells.get("image") or row.cells.get("image_id", "")] = row.cells
    except FileNotFoundError:
        prepared.note("WARNING: no list of lesions is there: pictures of one lesion may lie on both sides of a split.")
    without = 0
    for row in read_csv(find_list(prepared.folder, "ISIC*_Training_GroundTruth.csv"), ["image"]):
        name, classes = row.cells["image"], {key: value for key, value in row.cells.items() if key != "image"}
        chosen = [key for key, value in classes.items() if value in YES]
        if wrong := [key for key, value in classes.items() if value not in YES + NO]:
            prepared.leave_out(name, f"{wrong[0]} {classes[wrong[0]]!r} is unknown")
        elif len(chosen) != 1:
            prepared.leave_out(name, f"{len(chosen)} classes")
        elif file := prepared.find(f"{name}.jpg"):
            known = about.get(name, {})
            cells = {"class": chosen[0]}
            if about:
                without += not known.get("lesion_id")
                cells["patient"] = known.get("lesion_id") or name
                for column, names in ATTRIBUTES.items():
                    cells[column] = next((known[key] for key in names if key in known), "")
            prepared.add(file, cells)
    if about:
        prepared.note(f"patient is the lesion; {without:,} images have none and stand for themselves.")
    return prepared
