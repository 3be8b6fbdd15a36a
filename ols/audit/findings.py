"""What is wrong with a data set, from its rows and the records of its files."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ols.audit.rows import Rows
from ols.data.sources.protocol import SPLITS

Severity = Literal["leak", "error", "warning", "note"]
SEVERITIES = ("leak", "error", "warning", "note")
FOLDER_MAJORITY = 0.9  # of a folder's rows have one label before another label there is suspected
SIZE_MAJORITY = 0.9  # of the images have one size before the others are listed


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and everywhere it occurs.

    Args:
        kind: Name, the same in every report.
        severity: `leak`: splits are not independent. `error`: training would stop, or learn from a contradiction.
            `warning`: probably not meant. `note`: worth knowing.
        title: What was found, in a few words.
        meaning: What it does to a run.
        items: Every occurrence: `rows` (the rows concerned, or files without rows) and `note`.
        count: Occurrences, where they are counted and not listed.
    """

    kind: str
    severity: Severity
    title: str
    meaning: str
    items: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0

    def __post_init__(self):
        object.__setattr__(self, "count", max(self.count, len(self.items)))


@dataclass(frozen=True)
class Pictures:
    """Which files show the same pixels.

    Args:
        of_file: Index of each file's picture, int64 `[F]`; a file that cannot be read, or that is of one value, is a
            picture of its own.
        comparable: Which pictures hold something to compare, bool `[P]`.
        first_file: A file of each picture, int64 `[P]`.
        in_split: Which splits have a picture, bool `[P, 3]`.
        label: A label of each picture, int64 `[P]`.
    """

    of_file: np.ndarray
    comparable: np.ndarray
    first_file: np.ndarray
    in_split: np.ndarray
    label: np.ndarray


def group_pictures(rows: Rows, files: np.ndarray) -> Pictures:
    """Group files by the hash of their decoded pixels, or of their bytes where training refuses the pixels."""
    plain, refused = (files["fault"] == "") & (files["low"] < files["high"]), files["fault"] == "refused"
    known = plain | refused
    _, groups = np.unique(np.where(refused, files["file_hash"], files["pixel_hash"])[known], return_inverse=True)
    of_file = np.empty(len(files), np.int64)
    of_file[known] = groups
    of_file[~known] = groups.max(initial=-1) + 1 + np.arange((~known).sum())
    _, first_file = np.unique(of_file, return_index=True)
    in_split = np.zeros((len(first_file), len(SPLITS)), bool)
    in_split[of_file[rows.file], rows.split] = True
    label = np.zeros(len(first_file), np.int64)
    label[of_file[rows.file]] = rows.label
    return Pictures(of_file, plain[first_file], first_file, in_split, label)


@dataclass(frozen=True)
class NearPairs:
    """Pictures of different splits or labels that are nearly the same.

    Args:
        first: Index of a picture, int64 `[M]`.
        second: Index of another, int64 `[M]`.
        correlation: Of the two `[M]`.
    """

    first: np.ndarray
    second: np.ndarray
    correlation: np.ndarray

    def where(self, chosen: np.ndarray) -> "NearPairs":
        """Return some of the pairs, chosen by bool `[M]`."""
        return NearPairs(self.first[chosen], self.second[chosen], self.correlation[chosen])


def find(
    rows: Rows, files: np.ndarray, messages: dict[int, str], pictures: Pictures, near: NearPairs, unnamed: list[str]
) -> list[Finding]:
    """Return the findings that apply, the gravest first.

    Args:
        rows: Rows of the three CSVs.
        files: Record of each file, `[F]`.
        messages: What is wrong with a file, by its index.
        pictures: Which files show the same.
        near: Near-duplicates across splits.
        unnamed: Images in the tree that no row names.
    """
    found = [
        *_leaks(rows, files, pictures, near),
        *_faults(rows, files, messages),
        *_contradictions(rows, files, pictures, near),
        *_repetitions(rows, files, pictures),
        *_oddities(rows, files),
        *_absences(rows),
    ]
    if unnamed:
        items = [{"rows": [{"filename": name}], "note": ""} for name in unnamed]
        meaning = "These images lie in the tree and are never used."
        found.append(Finding("unnamed", "note", "Images that no CSV names", meaning, items))
    meaning = (
        "The CSVs do not say which images belong to one patient, so different images of one patient in two splits "
        "cannot be seen; only copies and near-copies can. Where patients are known, check them against the splits."
    )
    found.append(Finding("patients", "note", "Patients are not known", meaning))
    present = [finding for finding in found if finding.count or finding.kind == "patients"]
    return sorted(present, key=lambda finding: SEVERITIES.index(finding.severity))


def count(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 row` and `1,200 rows`."""
    return f"{number:,} {noun}" + ("s" if number != 1 else "")


def describe_rows(rows: Rows, which: Iterable[int]) -> list[dict[str, Any]]:
    """Return file name, split, label and CSV line of rows."""
    return [
        {
            "filename": rows.filenames[rows.file[r]],
            "split": SPLITS[rows.split[r]],
            "label": rows.labels[rows.label[r]],
            "line": int(rows.line[r]),
        }
        for r in which
    ]


def _groups(keys: np.ndarray, differ: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each key that has at least two values of `differ`, each group in order of the rows."""
    order = np.argsort(keys, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)
    return [group for group in groups if len(group) > 1 and (differ[group] != differ[group[0]]).any()]


def _items(rows: Rows, groups: list[np.ndarray]) -> list[dict[str, Any]]:
    return [{"rows": describe_rows(rows, group), "note": ""} for group in groups]


def _picture_items(rows: Rows, files: np.ndarray, groups: list[np.ndarray]) -> list[dict[str, Any]]:
    notes = [
        "the same bytes"
        if len(set(files["file_hash"][rows.file[group]].tolist())) == 1
        else "other bytes, the same pixels"
        for group in groups
    ]
    return [item | {"note": note} for item, note in zip(_items(rows, groups), notes, strict=True)]


def _leaks(rows: Rows, files: np.ndarray, pictures: Pictures, near: NearPairs) -> list[Finding]:
    picture = pictures.of_file[rows.file]
    across = near.where(_across_splits(pictures, near))
    same_file = _groups(rows.file, rows.split)
    same_picture = [group for group in _groups(picture, rows.split) if len(set(rows.file[group])) > 1]
    return [
        Finding(
            "file_across_splits",
            "leak",
            "One file in several splits",
            "The model is evaluated on images it was trained on, or chosen on images it is tested on.",
            _items(rows, same_file),
        ),
        Finding(
            "picture_across_splits",
            "leak",
            "One picture under several names, in several splits",
            "The decoded pixels are identical: copied, renamed, or saved again without loss.",
            _picture_items(rows, files, same_picture),
        ),
        Finding(
            "near_across_splits",
            "leak",
            "Nearly the same picture in several splits",
            "Copies that differ in noise, brightness, compression or a small shift, or neighbouring slices of one "
            "series: what is measured on them is memory. One item for each picture of the later split, with the most "
            "similar picture of an earlier one.",
            _near_items(rows, pictures, across),
        ),
    ]


def _across_splits(pictures: Pictures, near: NearPairs) -> np.ndarray:
    """Return which pairs are in more than one split, bool `[M]`."""
    return (pictures.in_split[near.first] | pictures.in_split[near.second]).sum(axis=1) > 1


def _near_items(rows: Rows, pictures: Pictures, near: NearPairs) -> list[dict[str, Any]]:
    rank = pictures.in_split @ (1 << np.arange(len(SPLITS)))
    swap = rank[near.first] < rank[near.second]
    later, earlier = np.where(swap, [near.second, near.first], [near.first, near.second])
    alike = Counter(later.tolist())
    first_row = {p: r for r, p in reversed(list(enumerate(pictures.of_file[rows.file].tolist())))}
    items, seen = [], set()
    for m in np.argsort(-near.correlation, kind="stable"):
        if later[m] not in seen:
            seen.add(later[m])
            more = f"; {alike[later[m]]} such pictures in all" if alike[later[m]] > 1 else ""
            pair = describe_rows(rows, (first_row[int(later[m])], first_row[int(earlier[m])]))
            items.append({"rows": pair, "note": f"correlation {near.correlation[m]:.4f}{more}"})
    return items


FAULTS = {
    "missing": ("Missing files", "A row names a file that is not there: training refuses to start."),
    "truncated": ("Truncated files", "The file was cut off: training stops when it is reached, or sees what is left."),
    "unreadable": ("Unreadable files", "The file cannot be decoded: training stops when it is reached."),
    "refused": ("Images that are not 8-bit", "Training refuses the mode of the image when it is reached."),
}


def _faults(rows: Rows, files: np.ndarray, messages: dict[int, str]) -> list[Finding]:
    by_file = defaultdict(list)
    for r in np.flatnonzero(files["fault"][rows.file] != "").tolist():
        by_file[int(rows.file[r])].append(r)
    found = []
    for fault, (title, meaning) in FAULTS.items():
        which = np.flatnonzero(files["fault"] == fault).tolist()
        items = [{"rows": describe_rows(rows, by_file[f]), "note": messages[f]} for f in which]
        found.append(Finding(fault, "error", title, meaning, items))
    items = [{"rows": [], "note": f"{name}, line {line}: {reason}"} for name, line, reason in rows.unusable]
    found.append(
        Finding("unusable_rows", "error", "Rows or CSVs that cannot be used", "Training refuses to start.", items)
    )
    meaning = "Read without them here; most other programs make a class of its own of every spelling, in silence."
    items = [{"rows": [], "note": f"{name}, line {line}: {cell}"} for name, line, cell in rows.spaced]
    found.append(Finding("spaces", "error", "Names or labels with spaces around them", meaning, items))
    return found


def _contradictions(rows: Rows, files: np.ndarray, pictures: Pictures, near: NearPairs) -> list[Finding]:
    picture = pictures.of_file[rows.file]
    same_file = _groups(rows.file, rows.label)
    same_picture = [group for group in _groups(picture, rows.label) if len(set(rows.file[group])) > 1]
    known = set(rows.label[rows.split == 0].tolist())
    unknown = defaultdict(list)
    for r in np.flatnonzero(~np.isin(rows.label, list(known))).tolist():
        unknown[int(rows.label[r])].append(r)
    return [
        Finding(
            "file_under_labels",
            "error",
            "One file under several labels",
            "At least one of the labels is wrong.",
            _items(rows, same_file),
        ),
        Finding(
            "picture_under_labels",
            "error",
            "One picture under several labels",
            "Files of identical pixels: at least one of the labels is wrong.",
            _picture_items(rows, files, same_picture),
        ),
        Finding(
            "near_under_labels",
            "warning",
            "Nearly the same picture under two labels, in one split",
            "Copies or neighbouring slices that are called by different names: one of the labels may be wrong.",
            _near_items(rows, pictures, near.where(~_across_splits(pictures, near))),
        ),
        Finding(
            "unknown_labels",
            "error",
            "Labels that training lacks",
            "They occur in validation or test only, often by a spelling; training refuses to start.",
            [
                {"rows": describe_rows(rows, which), "note": f"{rows.labels[label]!r}: {count(len(which), 'row')}"}
                for label, which in unknown.items()
            ],
        ),
    ]


def _repetitions(rows: Rows, files: np.ndarray, pictures: Pictures) -> list[Finding]:
    by_row = (rows.split * len(rows.filenames) + rows.file) * len(rows.labels) + rows.label
    by_picture = rows.split * len(pictures.first_file) + pictures.of_file[rows.file]
    return [
        Finding(
            "duplicate_rows",
            "warning",
            "Duplicate rows",
            "The row counts twice, in training as in every metric.",
            _items(rows, _groups(by_row, np.arange(len(rows)))),
        ),
        Finding(
            "picture_repeated",
            "warning",
            "One picture under several names, in one split",
            "The decoded pixels are identical; the picture counts as often as it has names.",
            _picture_items(rows, files, _groups(by_picture, rows.file)),
        ),
    ]


def _oddities(rows: Rows, files: np.ndarray) -> list[Finding]:
    first_row = {f: r for r, f in reversed(list(enumerate(rows.file.tolist())))}
    readable = np.flatnonzero(files["fault"] == "")

    def items(which: np.ndarray, note: str) -> list[dict[str, Any]]:
        return [{"rows": describe_rows(rows, [first_row[f]]), "note": note.format(*files[f])} for f in which.tolist()]

    sizes = Counter(zip(files["width"][readable].tolist(), files["height"][readable].tolist(), strict=True))
    usual, usual_count = sizes.most_common(1)[0] if sizes else ((0, 0), 0)
    odd_size = readable[(files["width"][readable] != usual[0]) | (files["height"][readable] != usual[1])]
    listed = items(odd_size, "{2} x {3}") if usual_count >= SIZE_MAJORITY * len(readable) else []
    common = ", ".join(f"{width} x {height} ({count:,})" for (width, height), count in sizes.most_common(8))
    more = f" and {len(sizes) - 8} more" if len(sizes) > 8 else ""
    return [
        Finding(
            "label_unlike_folder",
            "warning",
            "A label unlike the others of its folder",
            f"At least {FOLDER_MAJORITY:.0%} of the folder's rows have another label: this one may be wrong.",
            _unlike_folder(rows),
        ),
        Finding(
            "blank",
            "warning",
            "Images of one value",
            "Every pixel is the same, so there is nothing to learn; they are not compared with each other.",
            items(readable[files["low"][readable] == files["high"][readable]], "every pixel {9:.3f}"),
        ),
        Finding(
            "turned",
            "note",
            "Images that EXIF turns or mirrors",
            "They are trained on as viewers show them; a program that passes over EXIF sees them otherwise.",
            items(readable[files["turned"][readable]], "{2} x {3} upright"),
        ),
        Finding(
            "odd_mode",
            "warning",
            "Modes other than L and RGB",
            "They are converted when they are read, and what they mean by it (transparency, palettes) is lost.",
            items(readable[~np.isin(files["mode"][readable], ("L", "RGB"))], "{1}"),
        ),
        Finding(
            "odd_size",
            "note",
            f"Images of another size than most ({usual[0]} x {usual[1]})" if listed else "Images of many sizes",
            f"They are resized when they are read. In all: {common}{more}.",
            listed,
            len(odd_size),
        ),
    ]


def _unlike_folder(rows: Rows) -> list[dict[str, Any]]:
    folders: dict[str, int] = {}
    of_file = np.array([folders.setdefault(name.rpartition("/")[0], len(folders)) for name in rows.filenames], np.int64)
    folder = of_file[rows.file]
    counts = np.zeros((len(folders), len(rows.labels)), np.int64)
    np.add.at(counts, (folder, rows.label), 1)
    usual = counts.argmax(1)
    clear = counts.max(1, initial=0) >= FOLDER_MAJORITY * counts.sum(1)
    return [
        {"rows": describe_rows(rows, [r]), "note": f"others of the folder: {rows.labels[usual[folder[r]]]!r}"}
        for r in np.flatnonzero(clear[folder] & (rows.label != usual[folder])).tolist()
    ]


def _absences(rows: Rows) -> list[Finding]:
    trained = set(rows.label[rows.split == 0].tolist())
    items = []
    for index, split in enumerate(SPLITS[1:], 1):
        for label in sorted(trained - set(rows.label[rows.split == index].tolist())):
            items.append({"rows": [], "note": f"{rows.labels[label]!r}: not in {split}"})
    meaning = "Nothing can be said about these classes there; averages over classes leave them out."
    return [Finding("absent_labels", "warning", "Labels absent from a split", meaning, items)]
