"""Two challenges of the RSNA: pneumonia on X-rays of the chest (DICOM), and the age of bones."""

import json
from pathlib import Path

from ols.data.preparation.prepared import Prepared, find_list
from ols.data.sources.csv_rows import read_csv

CORNER_AND_SIZE = ("x", "y", "width", "height")
SEXES = {"true": "M", "false": "F", "m": "M", "f": "F"}
OLDEST = 240  # months of bone age


def prepare_rsna_pneumonia(folder: str | Path) -> Prepared:
    """RSNA pneumonia: `stage_2_train_labels.csv` (a row a box), `stage_2_train_images/<patientId>.dcm`.

    `finding` is the class of `stage_2_detailed_class_info.csv` where that is there. The challenge's patientId names an
    image; who is on it, says RSNA's `pneumonia-challenge-dataset-mappings_2018.json`, by the number of NIH's patient.
    Without that file each image counts as a patient.

    Args:
        folder: What holds the lists and the images.

    Raises:
        ImportError: pydicom is missing: sex, age and view stand in the files.
    """
    prepared = Prepared(folder, licence="RSNA 2018, Shih et al. 2019; RSNA's terms (non-commercial) and NIH's.")
    path = find_list(prepared.folder, "stage_2_train_labels.csv")
    patient_of = _nih_patients(prepared)
    finding_of = _detailed_classes(prepared)
    labels: dict[str, set[str]] = {}
    boxes: dict[str, list[tuple[str, str, str, str]]] = {}
    for row in read_csv(path, ["patientId", *CORNER_AND_SIZE, "Target"]):
        name, label = row.cells["patientId"], row.cells["Target"]
        x, y, width, height = (row.cells[column] for column in CORNER_AND_SIZE)
        labels.setdefault(name, set()).add(label)
        if (label == "1") != all((x, y, width, height)):
            labels[name].add("a box that does not fit")
        elif label == "1" and (x, y, width, height) in boxes.setdefault(name, []):
            prepared.leave_out(f"box of {name}", "a second row that says the same (the first stays)")
        elif label == "1":
            boxes[name].append((x, y, width, height))
    for name, given in labels.items():
        if "a box that does not fit" in given:
            prepared.leave_out(name, "Target 1 without a box, or 0 with one")
        elif len(given) > 1:
            prepared.leave_out(name, "rows that contradict each other")
        elif not given <= {"0", "1"}:
            prepared.leave_out(name, f"Target {min(given)!r} is unknown")
        elif patient_of and name not in patient_of:
            prepared.leave_out(name, "not in RSNA's list of NIH's images")
        elif file := prepared.find(f"{name}.dcm"):
            try:
                header = _header(prepared.folder / file)
            except ValueError as error:
                prepared.leave_out(name, str(error))
                continue
            cells = {"pneumonia": min(given), "patient": patient_of.get(name, name)} | header
            prepared.add(file, cells | ({"finding": finding_of.get(name, "")} if finding_of else {}))
            for box in boxes.get(name, []):
                prepared.add_box(file, "pneumonia", box)
    if not patient_of:
        prepared.note(
            "WARNING: patientId names an image, not a patient, and patients have several. Put RSNA's "
            "pneumonia-challenge-dataset-mappings_2018.json into the folder and prepare again."
        )
    return prepared


def _nih_patients(prepared: Prepared) -> dict[str, str]:
    """Return NIH's patient of each patientId: the first part of the file's name there, `00000001_000.png`."""
    try:
        path = find_list(prepared.folder, "pneumonia-challenge-dataset-mappings_2018.json")
    except FileNotFoundError:
        return {}
    try:
        entries = json.loads(path.read_bytes())
        return {entry["subset_img_id"]: entry["img_id"].split("_")[0] for entry in entries}
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ValueError(f"{path} is not a list of subset_img_id and img_id") from None


def _detailed_classes(prepared: Prepared) -> dict[str, str]:
    try:
        path = find_list(prepared.folder, "stage_2_detailed_class_info.csv")
    except FileNotFoundError:
        return {}
    return {row.cells["patientId"]: row.cells["class"] for row in read_csv(path, ["patientId", "class"])}


def _header(path: Path) -> dict[str, str]:
    try:
        import pydicom
    except ImportError as error:
        raise ImportError("DICOM files need pydicom: pip install 'online-label-smoothing[dicom]'") from error
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
    except (pydicom.errors.InvalidDicomError, OSError, EOFError) as error:
        raise ValueError("cannot be read as DICOM") from error
    age = str(header.get("PatientAge", ""))
    age = str(int(age.rstrip("Y"))) if age.rstrip("Y").isdecimal() else ""
    return {"age": age, "sex": str(header.get("PatientSex", "")), "view": str(header.get("ViewPosition", ""))}


def prepare_bone_age(folder: str | Path) -> Prepared:
    """RSNA bone age: `boneage-training-dataset.csv` or `train.csv` (id, boneage, male), images `<id>.png`.

    The validation set of RSNA's page, `Validation Dataset.csv` (Image ID, male, Bone Age (months)), is `val` in
    `given_split` where it is there; of the test set the download has no ages.

    Args:
        folder: What holds the lists and the folders of images.
    """
    prepared = Prepared(folder, licence="RSNA 2017, Halabi et al. 2019; RSNA's terms (non-commercial).")
    lists = [(find_list(prepared.folder, "boneage-training-dataset.csv", "train.csv"), "id", "boneage", "train")]
    try:
        valid = find_list(prepared.folder, "Validation Dataset.csv")
        lists.append((valid, "Image ID", "Bone Age (months)", "val"))
    except FileNotFoundError:
        prepared.note("Validation Dataset.csv is not there: all images are of training.")
    for path, name_column, age_column, split in lists:
        for row in read_csv(path, [name_column, age_column, "male"]):
            name, age, male = row.cells[name_column], row.cells[age_column], row.cells["male"].lower()
            if not age.isdecimal() or not 0 < int(age) <= OLDEST:
                prepared.leave_out(name, f"bone age {age!r} is no number of months up to {OLDEST}")
            elif male not in SEXES:
                prepared.leave_out(name, f"male {row.cells['male']!r} is unknown")
            elif file := prepared.find(f"{name}.png"):
                prepared.add(file, {"bone_age": age, "sex": SEXES[male], "given_split": split})
    prepared.note("bone_age is in months; use sex as side information (`--data.side '[sex]'`).")
    return prepared
