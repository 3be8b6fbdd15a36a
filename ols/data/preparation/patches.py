"""Patches of lymph nodes under the microscope: PatchCamelyon."""

from pathlib import Path

from PIL import Image

from ols.data.preparation.prepared import Prepared, find_list
from ols.data.sources.csv_rows import read_csv

SPLITS = {"train": "train", "valid": "val", "test": "test"}


def prepare_pcam(folder: str | Path, *, every: int = 1) -> Prepared:
    """PatchCamelyon: `camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5`, unpacked.

    Each patch is written as a PNG file into `prepared/images`. The slide of `..._meta.csv` stands for the patient where
    all three of these files are there.

    Args:
        folder: What holds the files.
        every: Of so many patches one is written, evenly through each file: 327,680 files are many.

    Raises:
        ImportError: h5py is missing.
        ValueError: `every` is below 1, or images and labels of a split do not fit each other.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 files need h5py: pip install 'online-label-smoothing[keras-weights]'") from error
    prepared = Prepared(folder, licence="PatchCamelyon, Veeling et al. 2018, and CAMELYON16; CC0.")
    slides = {name: _slides(prepared, name) for name in SPLITS}
    has_slides = all(slides.values())
    for name, split in SPLITS.items():
        stem = f"camelyonpatch_level_2_split_{name}"
        images_path, labels_path = (find_list(prepared.folder, f"{stem}_{part}.h5") for part in "xy")
        try:
            with h5py.File(images_path) as images_file, h5py.File(labels_path) as labels_file:
                images, labels = images_file["x"], labels_file["y"][:].reshape(-1)
                if len(images) != len(labels):
                    raise ValueError(f"{images_path} has {len(images):,} images, {labels_path} {len(labels):,} labels")
                if has_slides and len(slides[name]) != len(labels):
                    raise ValueError(f"{stem}_meta.csv has {len(slides[name]):,} rows for {len(labels):,} images")
                for index in range(0, len(labels), every):
                    file = f"images/{split}_{index:06d}.png"
                    if labels[index] not in (0, 1):
                        prepared.leave_out(file, f"label {labels[index]} is unknown")
                        continue
                    Image.fromarray(images[index]).save(prepared.make_path(file))
                    cells = {"tumour": str(int(labels[index])), "given_split": split}
                    if has_slides:
                        cells["patient"] = slides[name][index]
                    prepared.add(f"prepared/{file}", cells)
        except (OSError, KeyError) as error:
            raise ValueError(f"{images_path} or {labels_path} cannot be read as PatchCamelyon: {error}") from error
    if every > 1:
        prepared.note(f"One of {every} patches was written.")
    if has_slides:
        prepared.note("patient is the whole-slide image.")
    return prepared


def _slides(prepared: Prepared, name: str) -> list[str]:
    try:
        path = find_list(prepared.folder, f"camelyonpatch_level_2_split_{name}_meta.csv")
    except FileNotFoundError:
        return []
    return [row.cells["wsi"] for row in read_csv(path, ["wsi"])]
