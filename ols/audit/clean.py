"""Split CSVs without what the audit found, in a folder beside the originals."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np

from ols.audit import Audit
from ols.data.sources.protocol import SPLITS
from ols.files import written_aside

FOLDER = "cleaned"


def rows_to_drop(audit: Audit) -> dict[int, str]:
    """Decide which rows a cleaned data set does without.

    1. Files that are missing or cannot be used.
    2. Files and pictures under several labels: every row of them.
    3. Of rows that show one picture, all but one: kept is test before validation before training, then the first.
    4. Of near-duplicates in two splits, the one of the earlier split, in the same order.
    5. Rows of validation and test whose label training no longer has.

    Returns:
        The reason for each row that goes, by its index.
    """
    rows, pictures = audit.rows, audit.pictures
    picture = pictures.of_file[rows.file]
    reasons: dict[int, str] = {}
    for r in np.flatnonzero(audit.files["fault"][rows.file] != "").tolist():
        reasons[r] = f"file {audit.files['fault'][rows.file[r]]}"

    pairs = np.unique(np.stack([picture, rows.label]), axis=1)
    shown, labels = np.unique(pairs[0], return_counts=True)
    for r in np.flatnonzero(np.isin(picture, shown[labels > 1])).tolist():
        reasons.setdefault(r, "several labels")

    keeper: dict[int, int] = {}
    for r in np.lexsort((np.arange(len(rows)), -rows.split)).tolist():
        if r not in reasons:
            kept = keeper.setdefault(int(picture[r]), r)
            if kept != r:
                where = "this split" if rows.split[kept] == rows.split[r] else SPLITS[rows.split[kept]]
                same = "duplicate row" if rows.file[kept] == rows.file[r] else "same picture"
                reasons[r] = f"{same}, kept in {where}"

    near = [
        sorted((keeper[a], keeper[b]), key=lambda r: rows.split[r])
        for a, b in zip(audit.near.first.tolist(), audit.near.second.tolist(), strict=True)
        if a in keeper and b in keeper
    ]
    # Validation gives way to test first: what it loses costs training nothing.
    for earlier, later in sorted(near, key=lambda pair: -rows.split[pair[0]]):
        if rows.split[earlier] != rows.split[later] and not {earlier, later} & reasons.keys():
            reasons[earlier] = f"near-duplicate, kept in {SPLITS[rows.split[later]]}"

    stays = ~np.isin(np.arange(len(rows)), list(reasons))
    lost = ~np.isin(rows.label, rows.label[stays & (rows.split == 0)])
    for r in np.flatnonzero(lost & (rows.split > 0)).tolist():
        reasons.setdefault(r, "label not in training")
    return reasons


def write_cleaned(audit: Audit) -> tuple[Path, dict[str, Counter[str]]]:
    """Write the three CSVs again without `rows_to_drop`, as `cleaned/RadiologyAI_*.csv` beside the originals.

    Their names and columns are those of the originals, so that `--data.splits <folder>/cleaned` uses them. Rows that
    lack a file name or a label are dropped as well. Nothing else is written, and earlier cleaned files are replaced.

    Returns:
        The folder, and of each split how many rows were dropped for which reason.

    Raises:
        ValueError: A split cannot be read at all, nothing would be left of one, or there are no CSVs.
    """
    rows = audit.rows
    if rows.folder is None:
        raise ValueError(f"{rows.root} has no CSVs to clean: delete or move the files that the report names")
    reasons = rows_to_drop(audit)
    dropped: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    kept_lines: dict[str, set[int]] = {split: set() for split in SPLITS}
    for r in range(len(rows)):
        split = SPLITS[rows.split[r]]
        if r in reasons:
            dropped[split][reasons[r]] += 1
        else:
            kept_lines[split].add(int(rows.line[r]))
    for split in SPLITS:
        unusable = [reason for name, _, reason in rows.unusable if name == f"RadiologyAI_{split}.csv"]
        if not kept_lines[split]:
            raise ValueError(f"nothing would be left of {split}: {unusable[0] if unusable else dict(dropped[split])}")
        dropped[split].update(unusable)
    folder = rows.folder / FOLDER
    for split in SPLITS:
        name = f"RadiologyAI_{split}.csv"
        with (
            written_aside(folder / name) as aside,
            (rows.folder / name).open(newline="", encoding="utf-8-sig") as source,
            aside.open("w", newline="", encoding="utf-8") as target,
        ):
            original = csv.reader(source)
            cleaned = csv.writer(target, lineterminator="\n")
            cleaned.writerow(next(original))
            cleaned.writerows(
                [cell.strip() for cell in row] for row in original if original.line_num in kept_lines[split]
            )
    return folder, dropped
