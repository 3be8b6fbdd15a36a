"""Slices of lung CT with and without a nodule: LUNA16, which is LIDC-IDRI as `.mhd` and `.raw`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ols.data.preparation.prepared import Prepared, find_list
from ols.data.sources.csv_rows import CsvRow, read_csv

WINDOW = (-1000.0, 400.0)  # HU, shown from black to white
APART = 5.0  # mm: as far as this from every nodule is a slice without one
PIXELS = {"MET_SHORT": "<i2", "MET_USHORT": "<u2", "MET_INT": "<i4", "MET_FLOAT": "<f4"}


class Nodule(NamedTuple):
    """A nodule of `annotations.csv`, in mm of the scanner."""

    x: float
    y: float
    z: float
    diameter: float


def prepare_luna16(folder: str | Path) -> Prepared:
    """LUNA16: `annotations.csv` (seriesuid, coordX, coordY, coordZ, diameter_mm), `subset*/<seriesuid>.mhd` and `.raw`.

    Of each scan the slice through the middle of every nodule is written, and as many without one, evenly spread over
    the rest of the scan's middle half; without nodules one slice. Masks are discs: where the plane cuts the sphere of
    the annotated diameter. Scans that are stored from left to right or from back to front are turned. Compressed
    files, as LUNA16's segmented lungs are, are no scans. LIDC's own DICOM and XML are not read.

    Args:
        folder: What holds the list and the subsets.
    """
    prepared = Prepared(
        folder, licence="LUNA16, Setio et al. 2017 (CC BY 4.0); LIDC-IDRI, Armato et al. 2011 (CC BY 3.0)."
    )
    path = find_list(prepared.folder, "annotations.csv")
    nodules: dict[str, list[Nodule]] = {}
    for row in read_csv(path, ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"]):
        nodule = _read_nodule(row)
        if nodule is None:
            prepared.leave_out(
                f"{row.cells['seriesuid']}, line {row.line}", "a nodule whose place or size is no number"
            )
        elif nodule in nodules.setdefault(row.cells["seriesuid"], []):
            prepared.leave_out(f"{row.cells['seriesuid']}, line {row.line}", "a nodule that is there twice")
        else:
            nodules[row.cells["seriesuid"]].append(nodule)
    scans: dict[str, Path] = {}
    headers = [path for path in prepared.folder.rglob("*") if path.suffix.lower() == ".mhd"]
    for scan in sorted(headers, key=lambda path: (_is_compressed(_read_header(path)), path)):
        scans.setdefault(scan.stem, scan)
    for series in sorted(nodules.keys() - scans.keys()):
        prepared.leave_out(series, "no scan of this series")
    for series, scan in scans.items():
        try:
            volume, spacing, offset = read_scan(scan)
        except (OSError, ValueError, KeyError) as error:
            prepared.leave_out(series, f"its scan cannot be read: {error}")
            continue
        _write_slices(prepared, series, nodules.get(series, []), volume, spacing, offset)
    prepared.note("patient is the series: LUNA16 does not say which series are of one patient (888 scans, few twice).")
    prepared.note(
        "A slice without a nodule may hold what the list leaves out: nodules below 3 mm, or marked by fewer than three "
        "of four readers. It comes from the middle half of its scan, a slice with a nodule from anywhere."
    )
    prepared.note("Gray values are -1000 to 400 HU. Masks are discs of the annotated diameter, no outlines.")
    return prepared


def read_scan(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read a scan in MetaImage form: a text header, and a file of voxels beside it.

    Returns:
        Values `[slices, rows, columns]`; size of a voxel and place of the first, in mm, in the order x, y, z.

    Raises:
        ValueError: It is compressed, turned, of another type, or has another number of voxels than the header says.
    """
    header = _read_header(path)
    if _is_compressed(header):
        raise ValueError("compressed")
    if header["ElementType"] not in PIXELS:
        raise ValueError(f"values of type {header['ElementType']}")
    axes = np.array(header.get("TransformMatrix", "1 0 0 0 1 0 0 0 1").split(), float).reshape(3, 3)
    if not np.array_equal(np.abs(axes), np.eye(3)):
        raise ValueError("turned axes")
    columns, rows, slices = (int(size) for size in header["DimSize"].split())
    values = np.fromfile(path.with_name(header["ElementDataFile"]), PIXELS[header["ElementType"]])
    if values.size != columns * rows * slices:
        raise ValueError(f"{values.size:,} voxels instead of {columns * rows * slices:,}")
    spacing, offset = (np.array(header[key].split(), float) for key in ("ElementSpacing", "Offset"))
    values = values.reshape(slices, rows, columns)
    for axis in np.flatnonzero(axes.diagonal() < 0).tolist():  # stored from the far end
        values = np.flip(values, 2 - axis)
        offset[axis] -= spacing[axis] * (values.shape[2 - axis] - 1)
    return values, spacing, offset


def _read_header(path: Path) -> dict[str, str]:
    lines = [line.split("=", 1) for line in path.read_text(encoding="latin-1").splitlines() if "=" in line]
    return {key.strip(): value.strip() for key, value in lines}


def _is_compressed(header: dict[str, str]) -> bool:
    return header.get("CompressedData", "False") != "False"


def _write_slices(
    prepared: Prepared, series: str, nodules: list[Nodule], volume: np.ndarray, spacing: np.ndarray, offset: np.ndarray
) -> None:
    depths = offset[2] + spacing[2] * np.arange(len(volume))  # mm
    shown: dict[int, int] = {}
    for nodule in nodules:
        index = round((nodule.z - offset[2]) / spacing[2])
        if 0 <= index < len(volume):
            shown[index] = 1
        else:
            prepared.leave_out(f"{series} at z {nodule.z:g}", "a nodule outside of its scan")
    free = [
        index
        for index in range(len(volume) // 4, len(volume) - len(volume) // 4)
        if all(abs(depths[index] - nodule.z) > nodule.diameter / 2 + APART for nodule in nodules)
    ]
    wanted = min(len(free), max(1, len(shown)))
    shown |= {free[(2 * number + 1) * len(free) // (2 * wanted)]: 0 for number in range(wanted)}
    y, x = np.meshgrid(*(offset[a] + spacing[a] * np.arange(volume.shape[2 - a]) for a in (1, 0)), indexing="ij")
    for index, label in sorted(shown.items()):
        mask = np.zeros(volume.shape[1:], bool)
        for nodule in nodules:
            square = (nodule.diameter / 2) ** 2 - (depths[index] - nodule.z) ** 2
            mask |= (x - nodule.x) ** 2 + (y - nodule.y) ** 2 <= square
        gray = np.clip((volume[index].astype(np.float64) - WINDOW[0]) / (WINDOW[1] - WINDOW[0]), 0, 1)
        name = f"{series}_{index:04d}.png"
        Image.fromarray(np.rint(gray * 255).astype(np.uint8)).save(prepared.make_path(f"images/{name}"))
        Image.fromarray(mask.astype(np.uint8) * 255).save(prepared.make_path(f"masks/{name}"))
        cells = {"nodule": str(label), "patient": series, "mask": f"prepared/masks/{name}", "slice": str(index)}
        prepared.add(f"prepared/images/{name}", cells)


def _read_nodule(row: CsvRow) -> Nodule | None:
    try:
        nodule = Nodule(*(float(row.cells[key]) for key in ("coordX", "coordY", "coordZ", "diameter_mm")))
    except ValueError:
        return None
    return nodule if np.isfinite(nodule).all() and nodule.diameter > 0 else None
