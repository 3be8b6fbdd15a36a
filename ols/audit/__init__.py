"""What is wrong with a data set, before days are spent on training with it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ols.audit import near
from ols.audit.copies import confirm
from ols.audit.findings import Finding, NearPairs, Pictures, find, group_pictures
from ols.audit.rows import Rows, read_rows
from ols.audit.scan import scan_files
from ols.data.sources.medmnist import MedMNIST
from ols.data.sources.opening import find_form
from ols.data.sources.protocol import SPLITS
from ols.data.sources.radimagenet import TREE, class_table
from ols.files import written_aside


@dataclass(frozen=True)
class Audit:
    """A data set looked through.

    Args:
        rows: Rows of its CSVs.
        files: Record of each file, an array of `scan.FILE`, `[F]`.
        pictures: Which files show the same.
        near: Near-duplicates across splits or labels, confirmed.
        findings: What is wrong, the gravest first.
        opened: Files opened this time; the others had not changed since the last.
    """

    rows: Rows
    files: np.ndarray
    pictures: Pictures
    near: NearPairs
    findings: list[Finding]
    opened: int

    @property
    def leaks(self) -> bool:
        """Whether a picture, or nearly the same picture, is in two splits."""
        return any(finding.severity == "leak" for finding in self.findings)

    def class_counts(self) -> list[dict[str, Any]]:
        """Return `label`, `group` and the number of rows in each split, of every class."""
        names = [self.rows.filenames[f] if self.rows.folder else "" for f in self.rows.file]
        labels, groups = class_table(names, [self.rows.labels[label] for label in self.rows.label])
        counts = np.zeros((len(labels), len(SPLITS)), np.int64)
        np.add.at(counts, (self.rows.label, self.rows.split), 1)
        return [
            {"label": label, "group": group, **dict(zip(SPLITS, row, strict=True))}
            for label, group, row in zip(labels, groups, counts.tolist(), strict=True)
        ]

    def pixel_statistics(self) -> list[dict[str, Any]]:
        """Return `images`, and `mean`, `std`, `min` and `max` in [0, 1] over the gray pixels, of each modality."""
        grouped = self.rows.folder is not None  # class folders do not tell the modality
        modality = np.array(
            [name.split("/")[1] if grouped and name.count("/") > 1 else "" for name in self.rows.filenames]
        )
        return [
            {"modality": name, **_pool(self.files[(modality == name) & (self.files["fault"] == "")])}
            for name in np.unique(modality).tolist()
        ]


def audit(root: str | Path, *, splits: str | Path | None = None, log: str | Path, workers: int | None = None) -> Audit:
    """Open every image of the three splits and look for what would spoil a run.

    Args:
        root: Folder that contains `radiology_ai`, or `train`, `val` and `test` with class folders; or a MedMNIST file,
            whose images are written as PNG files into a folder beside the log first.
        splits: Folder with the CSVs of RadImageNet's form, where it is not one of the usual places.
        log: File for the results of each image; it is continued, and unchanged files are not opened again.
        workers: Processes; by default one for each core.

    Raises:
        FileNotFoundError: There is no such tree, or no training CSV.
        ValueError: CSVs lie in several of the usual places, `workers` is below 1, or it is a pack: its images are
            resized, and what is wrong with them was wrong before.
    """
    form = find_form(root)
    if form == "pack":
        raise ValueError(f"{root} is a pack: audit the data set that it was made of")
    if form == "npz":
        root = _write_images(Path(root), Path(log).with_suffix(".images"))
    rows = read_rows(root, splits)
    files, messages, opened = scan_files(rows.root, rows.filenames, Path(log), workers=workers)
    pictures = group_pictures(rows, files)
    pairs = _near_pairs(rows, files, pictures, workers)
    findings = find(rows, files, messages, pictures, pairs, _unnamed(rows))
    return Audit(rows, files, pictures, pairs, findings, opened)


def _write_images(file: Path, folder: Path) -> Path:
    """Write the images of a MedMNIST file as class folders; return their folder."""
    with written_aside(folder) as aside:
        for split in SPLITS:
            source = MedMNIST(file, split, in_chans=3)
            for label in source.classes:
                (aside / split / label).mkdir(parents=True)
            for index, target in enumerate(source.targets.tolist()):
                source.read(index).save(aside / split / source.classes[target] / f"{index:07d}.png", compress_level=1)
    return folder


def _near_pairs(rows: Rows, files: np.ndarray, pictures: Pictures, workers: int | None) -> NearPairs:
    plain = np.flatnonzero(pictures.comparable)
    hashes, thumbnails = (files[name][pictures.first_file[plain]] for name in ("phash", "thumbnail"))
    mask = pictures.in_split[plain] @ (1 << np.arange(len(SPLITS)))
    label = pictures.label[plain]
    found = [np.empty((0, 2), np.int64)]
    for i, j in near.hash_pairs(hashes, np.arange(len(plain))):
        # Each pair comes twice. Two pictures of one class in one and the same split neither leak nor contradict.
        alone = (mask[i] == mask[j]) & (np.bitwise_count(mask[i]) == 1)
        once = (i < j) & ~(alone & (label[i] == label[j]))
        i, j = i[once], j[once]
        kept = near.alike(thumbnails, i, j)
        found.append(np.stack([i[kept], j[kept]], 1))
    first, second = np.concatenate(found).T
    file_of = pictures.first_file[plain]
    correlation = confirm(rows.root, rows.filenames, file_of[first], file_of[second], workers=workers)
    sure = correlation >= near.CORRELATION
    return NearPairs(plain[first[sure]], plain[second[sure]], correlation[sure])


def _pool(files: np.ndarray) -> dict[str, Any]:
    if not len(files):
        return {"images": 0, "mean": None, "std": None, "min": None, "max": None}
    pixels = files["width"].astype(np.float64) * files["height"]
    mean = np.average(files["mean"], weights=pixels)
    variance = np.average(files["std"] ** 2 + (files["mean"] - mean) ** 2, weights=pixels)
    low, high = files["low"].min(), files["high"].max()
    return {"images": len(files), "mean": mean, "std": np.sqrt(variance), "min": low, "max": high}


def _unnamed(rows: Rows) -> list[str]:
    """Return the images in the tree that no row names."""
    images = {*Image.registered_extensions(), ".dcm"}
    named = set(rows.filenames)
    return sorted(
        name
        for folder, _, files in os.walk(rows.root / TREE)  # class folders are named by what lies in them
        for file in files
        if os.path.splitext(file)[1].lower() in images
        and not file.startswith(".")  # hidden: what systems leave, such as macOS's `._image.png`
        and (name := (Path(folder) / file).relative_to(rows.root).as_posix()) not in named
    )
