"""MR slices of the knee, by the split files of RadImageNet's repository (folders `acl` and `meniscus`)."""

import re
from pathlib import Path

from ols.data.preparation.prepared import Prepared
from ols.data.sources.csv_rows import read_csv

LABELS = {"yes": "1", "no": "0", "p": "1", "n": "0"}
LICENCE = "slices of MRNet, Bien et al. 2018; Stanford's research use agreement (non-commercial)."


def prepare_acl(folder: str | Path) -> Prepared:
    """Tears of the anterior cruciate ligament: `dataframe/{train,val,test}_fold{1..5}.csv`, `images/`.

    Args:
        folder: The folder `acl` of the repository.
    """
    return _prepare(folder, target="acl_tear")


def prepare_meniscus(folder: str | Path) -> Prepared:
    """Tears of the meniscus: `dataframe/meniscus_{train,val,test}_fold{1..5}.csv`, `images/`.

    Args:
        folder: The folder `meniscus` of the repository.
    """
    return _prepare(folder, target="meniscus_tear")


def _prepare(folder: str | Path, *, target: str) -> Prepared:
    """Join the split files of five folds; `test_fold` says in which fold an image is tested."""
    prepared = Prepared(folder, licence=LICENCE)
    label_of: dict[str, str] = {}
    tested: dict[str, str] = {}
    sides: dict[tuple[str, str], set[str]] = {}  # by fold and patient
    refused = set()
    lists = sorted(path for path in prepared.folder.rglob("*.csv") if _split_and_fold(path))
    if not lists:
        raise FileNotFoundError(f"{prepared.folder} has no `dataframe/...test_fold1.csv` or the like")
    for path in lists:
        split, fold = _split_and_fold(path) or ("", "")
        for row in read_csv(path, []):
            name = row.cells.get("filename") or row.cells.get("img_dir")
            given = row.cells.get("acl_label") or row.cells.get("label") or ""
            if not name:
                raise ValueError(f"{path}, line {row.line}: neither filename nor img_dir names an image")
            label = LABELS.get(given.lower(), "")
            if name in refused:
                continue
            if not label or label_of.setdefault(name, label) != label or not _exam(name):
                refused.add(name)
                why = "rows that contradict each other" if label else f"label {given!r} is unknown"
                prepared.leave_out(name, why if _exam(name) else "not named `<exam>_<plane>_<slice>`")
                continue
            sides.setdefault((fold, _exam(name)), set()).add(split)
            if split == "test" and tested.setdefault(name, fold) != fold:
                refused.add(name)
                prepared.leave_out(name, "tested in two folds")
    for name, label in label_of.items():
        if name not in refused and (file := prepared.find(name)):
            prepared.add(file, {target: label, "patient": _exam(name), "test_fold": tested.get(name, "")})
    divided = sorted({exam for (_, exam), splits in sides.items() if len(splits) > 1})
    prepared.note("A patient is the number of the exam at the start of each name.")
    prepared.note(
        f"{len(divided):,} exams lie in several splits of one of the published folds"
        + (f": {', '.join(divided[:20])}. Make folds anew by patient." if divided else ".")
    )
    return prepared


def _split_and_fold(path: Path) -> tuple[str, str] | None:
    match = re.fullmatch(r"(?:.*_)?(train|val|test)_fold(\d+)\.csv", path.name, re.IGNORECASE)
    return (match[1].lower(), match[2]) if match else None


def _exam(name: str) -> str:
    match = re.match(r"(\d+)_", name.rsplit("/", 1)[-1])
    return match[1] if match else ""
