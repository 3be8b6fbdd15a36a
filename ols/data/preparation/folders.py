"""Any tree of `Training/` and `Testing/` with class folders, as on Kaggle; the tumours of the brain are one."""

import hashlib
from pathlib import Path

from ols.data.preparation.masks import open_plain
from ols.data.preparation.prepared import Prepared

SPLIT_NAMES = {
    "training": "train",
    "train": "train",
    "testing": "test",
    "test": "test",
    "validation": "val",
    "valid": "val",
    "val": "val",
}
TUMOURS = {"glioma": "glioma", "meningioma": "meningioma", "pituitary": "pituitary", "no": "none"}


def prepare_folders(folder: str | Path) -> Prepared:
    """Class folders in `Training/` and `Testing/` (or train, val, valid, validation, test): `given_split` says which.

    Copies of the same pixels, however they are named and stored, are named once; under several classes all are left
    out; in several splits the one in testing stays.

    Args:
        folder: What holds the two folders.
    """
    return _prepare(Prepared(folder, licence="not known to this command; see where the set came from."), None)


def prepare_brain_tumour(folder: str | Path) -> Prepared:
    """Tumours of the brain in MR: `Training/` and `Testing/` with glioma, meningioma, notumor and pituitary.

    Class folders may be named as in older copies, `glioma_tumor` and `no_tumor`. See `prepare_folders` for copies.

    Args:
        folder: What holds the two folders.
    """
    prepared = Prepared(
        folder,
        licence="brain tumour MRI of Kaggle; it joins figshare (Cheng 2017, CC BY 4.0), SARTAJ and Br35H (terms vary).",
    )
    _prepare(prepared, TUMOURS)
    prepared.note("The slices come from a few hundred patients whose numbers these copies do not have.")
    return prepared


def _prepare(prepared: Prepared, known: dict[str, str] | None) -> Prepared:
    found: dict[str, list[tuple[str, str, str]]] = {}  # by pixels: file, class, split
    for file in prepared.files:
        parts = file.split("/")
        at = next((place for place, part in enumerate(parts[:-2]) if part.lower() in SPLIT_NAMES), None)
        if at is None:
            prepared.leave_out(file, "not in a class folder of Training or Testing")
            continue
        split, name = SPLIT_NAMES[parts[at].lower()], parts[at + 1]
        if known is not None:
            plain = name.lower().removesuffix("_tumor").removesuffix("tumor")
            if plain not in known:
                prepared.leave_out(file, f"class {name!r} is unknown")
                continue
            name = known[plain]
        try:
            with open_plain(prepared.folder / file) as image:
                gray = image.convert("RGB")
        except ValueError as error:
            prepared.leave_out(file, str(error))
            continue
        pixels = hashlib.blake2b(f"{gray.size}".encode() + gray.tobytes(), digest_size=16).hexdigest()
        found.setdefault(pixels, []).append((file, name, split))
    for copies in found.values():
        if len({name for _, name, _ in copies}) > 1:
            for file, _, _ in copies:
                prepared.leave_out(file, "the same pixels under several classes")
            continue
        kept, *others = sorted(copies, key=_testing_first)
        prepared.add(kept[0], {"class": kept[1], "given_split": kept[2]})
        for file, _, split in others:
            where = "the same split" if split == kept[2] else kept[2]
            prepared.leave_out(file, f"the same pixels as an image in {where}, which stays")
    crossing = sum(len({split for _, _, split in copies}) > 1 for copies in found.values())
    prepared.note(f"{crossing:,} pictures lay in several splits; the copy in testing stays.")
    return prepared


def _testing_first(copy: tuple[str, str, str]) -> tuple[int, str]:
    return ("test", "val", "train").index(copy[2]), copy[0]
