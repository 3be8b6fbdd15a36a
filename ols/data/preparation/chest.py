"""X-rays of the chest: NIH ChestX-ray14, CheXpert and COVID-19 radiography."""

import math
import re
from pathlib import Path
from typing import Literal

from ols.data.preparation.masks import merge_masks, open_plain
from ols.data.preparation.prepared import Prepared, find_list
from ols.data.sources.csv_rows import read_csv

NIH_FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia"),
    *("Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax"),
)
NIH_SIZE = (1024, 1024)  # pixels, in which boxes are given
OLDEST = 120  # years
CHEXPERT_FINDINGS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    "Support Devices",
)
AS_CELL = {"unknown": "", "zero": "0", "one": "1"}
COVID_CLASSES = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")


def prepare_nih(folder: str | Path) -> Prepared:
    """NIH ChestX-ray14: `Data_Entry_2017.csv` (or `..._v2020.csv`), `BBox_List_2017.csv`, `images*/*.png`.

    The published split is taken over as `given_split` where `train_val_list.txt` and `test_list.txt` are there.

    Args:
        folder: What holds the lists and the folders with the images.
    """
    prepared = Prepared(
        folder, licence="NIH Clinical Center, Wang et al. 2017; free to use, with a link to the NIH and the citation."
    )
    split_of: dict[str, str] = {}
    file_of: dict[str, str] = {}
    for name, split in (("train_val_list.txt", "train"), ("test_list.txt", "test")):
        for path in prepared.folder.rglob(name):
            split_of |= dict.fromkeys(path.read_text(encoding="utf-8").split(), split)
    path = find_list(prepared.folder, "Data_Entry_2017_v2020.csv", "Data_Entry_2017*.csv")  # the corrected one
    for row in read_csv(path, ["Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position"]):
        name = row.cells["Image Index"]
        labels = set(row.cells["Finding Labels"].split("|"))
        age = _years(row.cells["Patient Age"])
        if unknown := sorted(labels - {*NIH_FINDINGS, "No Finding"}):
            prepared.leave_out(name, f"finding {unknown[0]!r} is unknown")
        elif "No Finding" in labels and len(labels) > 1:
            prepared.leave_out(name, "'No Finding' beside a finding")
        elif not row.cells["Patient ID"]:
            prepared.leave_out(name, "no patient is given")
        elif age is None:
            prepared.leave_out(name, f"an age that cannot be: {row.cells['Patient Age']!r}")
        elif split_of and name not in split_of:
            prepared.leave_out(name, "in none of the published splits")
        elif file := prepared.find(name):
            cells = {finding: str(int(finding in labels)) for finding in NIH_FINDINGS}
            cells |= {
                "patient": row.cells["Patient ID"],
                "age": f"{age:.4g}",
                "sex": row.cells.get("Patient Gender") or row.cells.get("Patient Sex", ""),
                "view": row.cells["View Position"],
                "follow_up": row.cells.get("Follow-up #", ""),
            }
            prepared.add(file, cells | ({"given_split": split_of[name]} if split_of else {}))
            file_of[name] = file
    _add_nih_boxes(prepared, file_of)
    prepared.note("Findings were read from reports by a program, not from the images.")
    return prepared


def _years(cell: str) -> float | None:
    """Return an age such as `58`, `058Y`, `011M` or `002D` in years; None where no one has it."""
    age = re.fullmatch(r"(\d+)([YMD]?)", cell)
    years = int(age[1]) / {"": 1, "Y": 1, "M": 12, "D": 365.25}[age[2]] if age else math.inf
    return years if years <= OLDEST else None


def _add_nih_boxes(prepared: Prepared, file_of: dict[str, str]) -> None:
    try:
        path = find_list(prepared.folder, "BBox_List_2017*.csv")
    except FileNotFoundError:
        prepared.note("BBox_List_2017.csv is not there: no boxes.")
        return
    for row in read_csv(path, ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"]):
        name, finding = row.cells["Image Index"], row.cells["Finding Label"]
        finding = "Infiltration" if finding == "Infiltrate" else finding
        if file_of.get(name) not in prepared.rows:
            prepared.leave_out(f"{finding} box of {name}", "its image is not in the table")
            continue
        try:
            with open_plain(prepared.folder / file_of[name]) as image:
                size = image.size
        except ValueError as error:
            prepared.leave_out(f"{finding} box of {name}", f"its image {error}")
            continue
        if size != NIH_SIZE:
            prepared.leave_out(f"{finding} box of {name}", "its image is not of 1024 x 1024 pixels")
            continue
        x, y, width, height = (row.cells[column] for column in ("Bbox [x", "y", "w", "h]"))
        prepared.add_box(file_of[name], finding, (x, y, width, height))


def prepare_chexpert(
    folder: str | Path,
    *,
    uncertain: Literal["unknown", "zero", "one"] = "unknown",
    unmentioned: Literal["unknown", "zero"] = "zero",
    views: Literal["all", "frontal"] = "all",
) -> Prepared:
    """CheXpert: `train.csv` and `valid.csv`, paths `CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg`.

    An image is found by its path from the patient on: of the large images the training ones lie in folders of other
    names than the lists say, such as `CheXpert-v1.0 batch 2 (train 1)`.

    Args:
        folder: `CheXpert-v1.0` or `CheXpert-v1.0-small`, or what holds it.
        uncertain: What a label -1 becomes; an unknown label is an empty cell, which losses and measures pass over.
        unmentioned: What a label becomes that the report does not name; most publications take it for 0.
        views: `frontal` leaves out lateral images.

    Raises:
        ValueError: No image of one of the lists is there.
    """
    prepared = Prepared(
        folder,
        licence="CheXpert, Irvin et al. 2019; Stanford's research use agreement (non-commercial, no passing on).",
    )
    lists = {split: find_list(prepared.folder, f"{name}.csv") for name, split in (("train", "train"), ("valid", "val"))}
    as_cell = {"1.0": "1", "0.0": "0", "-1.0": AS_CELL[uncertain], "": AS_CELL[unmentioned]}
    as_cell |= {"1": "1", "0": "0", "-1": AS_CELL[uncertain]}
    files_of: dict[str, list[str]] = {}
    for file in prepared.files:
        if of_patient := re.search(r"patient\d+/.*", file.casefold()):
            files_of.setdefault(of_patient[0], []).append(file)
    for split, path in lists.items():
        for row in read_csv(path, ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS]):
            name = row.cells["Path"]
            patient = re.search(r"(patient\d+)/.*", name.casefold())
            if wrong := [finding for finding in CHEXPERT_FINDINGS if row.cells[finding] not in as_cell]:
                prepared.leave_out(name, f"{wrong[0]} {row.cells[wrong[0]]!r} is unknown")
            elif not patient:
                prepared.leave_out(name, "no patient in its path")
            elif views == "frontal" and row.cells["Frontal/Lateral"] != "Frontal":
                prepared.leave_out(name, "not frontal, left out as asked for")
            elif len(found := files_of.get(patient[0], [])) != 1:
                prepared.leave_out(name, f"{len(found)} files of this name" if found else "no such image")
            else:
                cells = {finding.replace(" ", "_"): as_cell[row.cells[finding]] for finding in CHEXPERT_FINDINGS}
                cells |= {
                    "patient": patient[1],
                    "sex": row.cells["Sex"],
                    "age": row.cells["Age"],
                    "view": row.cells["Frontal/Lateral"],
                    "projection": row.cells["AP/PA"],
                    "given_split": split,
                }
                prepared.add(found[0], cells)
        if not any(cells["given_split"] == split for cells in prepared.rows.values()):
            raise ValueError(f"{prepared.folder} has no image of {path.name}")
    prepared.note(f"Uncertain labels (-1) became {uncertain}, labels that are not mentioned {unmentioned}.")
    prepared.note("given_split has no test: the published test labels are elsewhere.")
    return prepared


def prepare_covid_radiography(folder: str | Path) -> Prepared:
    """COVID-19 radiography: `{COVID,Lung_Opacity,Normal,Viral Pneumonia}/{images,masks}/*.png`.

    Masks of the lungs have 256 x 256 pixels and images 299 x 299: masks are brought to the size of the image.

    Args:
        folder: `COVID-19_Radiography_Dataset`, or what holds it.
    """
    prepared = Prepared(
        folder, licence="Chowdhury et al. 2020, Rahman et al. 2021; joined from sets whose own terms apply."
    )
    class_of = {name.casefold().replace("_", " "): name for name in COVID_CLASSES}
    mask_of = {_without_part(file, "masks"): file for file in prepared.files if _is_in(file, "masks")}
    for file in prepared.files:
        if _is_in(file, "masks"):
            continue
        name = class_of.get(file.split("/")[-3].casefold().replace("_", " ")) if _is_in(file, "images") else None
        mask = mask_of.pop(_without_part(file, "images"), None) if name else None
        if not name:
            prepared.leave_out(file, "not in `images` of one of the four classes")
        elif not mask:
            prepared.leave_out(file, "no mask")
        else:
            try:
                with open_plain(prepared.folder / file) as image:
                    whole = merge_masks([prepared.folder / mask], image.size, resize=True)
            except ValueError as error:
                prepared.leave_out(file, str(error))
                continue
            made = f"masks/{file.rsplit('.', 1)[0]}.png"
            whole.save(prepared.make_path(made))
            prepared.add(file, {"class": name, "mask": f"prepared/{made}"})
    for mask in mask_of.values():
        prepared.leave_out(mask, "mask without an image")
    prepared.note("Each class comes from other hospitals: what tells classes apart may be the hospital.")
    return prepared


def _is_in(file: str, part: str) -> bool:
    parts = file.split("/")
    return len(parts) >= 3 and parts[-2].lower() == part


def _without_part(file: str, part: str) -> str:
    """Return class folder and name without its ending, in lower case: the same for an image and its mask."""
    parts = file.lower().split("/")
    return "/".join([*parts[:-2], parts[-1].rsplit(".", 1)[0]]) if _is_in(file, part) else file
