"""Ultrasound of the breast (BUSI) and of the thyroid (DDTI)."""

import json
import re
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from ols.data.preparation.masks import fill_outlines, merge_masks, open_plain
from ols.data.preparation.prepared import Prepared

TI_RADS = ("2", "3", "4a", "4b", "4c", "5")


def prepare_busi(folder: str | Path, *, normal: Literal["own", "benign", "leave_out"] = "own") -> Prepared:
    """Breast ultrasound, `benign/benign (1).png` with `benign (1)_mask.png`, `benign (1)_mask_1.png` and so on.

    Args:
        folder: `Dataset_BUSI_with_GT`, or what holds it.
        normal: What images without a lesion are: a class of their own, benign (as in the split files of RadImageNet),
            or left out. The column `finding` keeps what they were.
    """
    prepared = Prepared(
        folder, licence="BUSI, Al-Dhabyani et al. 2020, doi 10.1016/j.dib.2019.104863; copies say CC0 or CC BY 4.0."
    )
    pattern = re.compile(r"(.*/)?(benign|malignant|normal) \((\d+)\)\.(png|jpe?g|bmp)", re.IGNORECASE)
    masks: dict[str, list[str]] = {}
    for file in prepared.files:
        if match := re.fullmatch(r"(.*)_mask(_\d+)?\.\w+", file, re.IGNORECASE):
            masks.setdefault(match[1].casefold(), []).append(file)
    images = [file for file in prepared.files if not re.search(r"_mask(_\d+)?\.\w+$", file, re.IGNORECASE)]
    several = 0
    for file in images:
        match = pattern.fullmatch(file)
        if not match:
            prepared.leave_out(file, "not named `<class> (<number>)`")
            continue
        finding, found = match[2].lower(), masks.pop(file.rsplit(".", 1)[0].casefold(), [])
        if finding == "normal" and normal == "leave_out":
            prepared.leave_out(file, "normal, left out as asked for")
            continue
        if not found and finding != "normal":
            prepared.leave_out(file, "no mask")
            continue
        try:
            with open_plain(prepared.folder / file) as image:
                mask = merge_masks([prepared.folder / name for name in found], image.size)
        except ValueError as error:
            prepared.leave_out(file, str(error))
            continue
        if finding != "normal" and mask.getbbox() is None:
            prepared.leave_out(file, "its mask is empty")
            continue
        name = f"masks/{file.rsplit('.', 1)[0]}.png"
        mask.save(prepared.make_path(name))
        several += len(found) > 1
        label = "benign" if finding == "normal" and normal == "benign" else finding
        prepared.add(file, {"class": label, "mask": f"prepared/{name}", "finding": finding})
    for names in masks.values():
        for name in names:
            prepared.leave_out(name, "mask without an image")
    prepared.note(f"{several:,} images have several masks, which were merged.")
    prepared.note(
        {
            "own": "Normal images are a class of their own.",
            "benign": "Normal images count as benign.",
            "leave_out": "Normal images are left out.",
        }[normal]
    )
    prepared.note("780 images of 600 women in the publication, without numbers of patients; some are near-copies.")
    return prepared


def prepare_ddti(folder: str | Path) -> Prepared:
    """Thyroid ultrasound, `1.xml` with TI-RADS and outlines as JSON in XML, and its images `1_1.jpg`, `1_2.jpg`.

    Two columns say what malignant is: `malignant_4a` is TI-RADS 4a and above, `malignant_4b` is 4b and above. A case is
    a patient.

    Args:
        folder: The folder with the XML files and the images, or what holds it.
    """
    prepared = Prepared(
        folder, licence="DDTI, Pedraza et al. 2015, doi 10.1117/12.2073532; open to research, no licence is named."
    )
    of_case: dict[str, list[tuple[int, str]]] = {}
    for file in prepared.files:
        if match := re.fullmatch(r"(?:.*/)?(\d+)_(\d+)\.jpe?g", file, re.IGNORECASE):
            of_case.setdefault(match[1], []).append((int(match[2]), file))
        else:
            prepared.leave_out(file, "not named `<case>_<number>.jpg`")
    described = set()
    for path in sorted(prepared.folder.rglob("*")):
        if path.suffix.lower() == ".xml":
            described.add(path.stem)
            _add_case(prepared, path, of_case.get(path.stem, []))
    for case in of_case.keys() - described:
        for _, file in of_case[case]:
            prepared.leave_out(file, "no XML of its case")
    prepared.note("malignant_4a: TI-RADS 4a, 4b, 4c and 5; malignant_4b: 4b, 4c and 5. No pathology is published.")
    prepared.note("The split files of RadImageNet have 349 of these images, 288 of them malignant: 4a and above.")
    return prepared


def _add_case(prepared: Prepared, path: Path, images: list[tuple[int, str]]) -> None:
    if not images:
        prepared.leave_out(path.name, "no image of this case")
    try:
        case = ElementTree.fromstring(path.read_bytes())
    except ElementTree.ParseError:
        for _, file in images:
            prepared.leave_out(file, "its XML cannot be read")
        return
    grade = (case.findtext("tirads") or "").strip().lower()
    if grade not in TI_RADS:
        for _, file in images:
            prepared.leave_out(file, f"TI-RADS {grade!r} is unknown" if grade else "no TI-RADS is given")
        return
    marks: dict[str, list[str]] = {}
    for mark in case.findall("mark"):
        marks.setdefault((mark.findtext("image") or "").strip(), []).append(mark.findtext("svg") or "")
    for number, file in images:
        try:
            outlines = [outline for text in marks.get(str(number), []) for outline in _read_outlines(text)]
            with open_plain(prepared.folder / file) as image:
                mask = fill_outlines(outlines, image.size)
        except ValueError as error:
            prepared.leave_out(file, str(error))
            continue
        if not outlines:
            prepared.leave_out(file, "no outline")
            continue
        name = f"masks/{file.rsplit('.', 1)[0]}.png"
        mask.save(prepared.make_path(name))
        cells = {
            "malignant_4a": str(int(TI_RADS.index(grade) >= TI_RADS.index("4a"))),
            "malignant_4b": str(int(TI_RADS.index(grade) >= TI_RADS.index("4b"))),
            "patient": path.stem,
            "mask": f"prepared/{name}",
            "tirads": grade,
        }
        for column in ("age", "sex", "composition", "echogenicity", "margins", "calcifications"):
            cells[column] = (case.findtext(column) or "").strip()
        prepared.add(file, cells)


def _read_outlines(text: str) -> list[list[tuple[float, float]]]:
    """Return the outlines with at least three points of JSON such as `[{"points": [{"x": 1, "y": 2}, ...]}]`."""
    if not text.strip():
        return []
    try:
        regions = json.loads(text)
        outlines = [[(point["x"], point["y"]) for point in region["points"]] for region in regions]
    except (ValueError, LookupError, TypeError):
        raise ValueError("its outline is cut off or damaged") from None
    return [outline for outline in outlines if len(outline) >= 3]
