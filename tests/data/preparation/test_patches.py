import h5py
import numpy as np
import pytest
from data.preparation.trees import left_out, write_lines, written_table

from ols.data.preparation.patches import prepare_pcam


def _write_pcam(root, counts):
    for name, count in counts.items():
        stem = f"camelyonpatch_level_2_split_{name}"
        with h5py.File(root / f"{stem}_x.h5", "w") as file:
            file["x"] = np.arange(count * 48, dtype=np.uint8).reshape(count, 4, 4, 3)
        with h5py.File(root / f"{stem}_y.h5", "w") as file:
            file["y"] = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)
        rows = [f"{index},1,2,True,False,{name}_slide_{index // 2}" for index in range(count)]
        write_lines(root / f"{stem}_meta.csv", ",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi", *rows)


def test_patches_keep_their_pixels_split_and_slide(tmp_path):
    _write_pcam(tmp_path, {"train": 3, "valid": 1, "test": 2})
    prepared = prepare_pcam(tmp_path)
    table = written_table(prepared, "class", "tumour")
    assert table.attributes["given_split"].tolist() == ["test", "test", "train", "train", "val"]
    assert table.targets.tolist() == [0, 1, 0, 1, 0]
    assert table.sample_group(2) == table.sample_group(3) == "train_slide_0"
    assert left_out(prepared) == {"images/train_000002.png": "label 2 is unknown"}
    colour = np.asarray(type(table)(table.path, targets=["tumour"], in_chans=3).read(3))
    assert np.array_equal(colour, np.arange(48, 96).reshape(4, 4, 3))


def test_one_of_so_many_patches_is_written(tmp_path):
    _write_pcam(tmp_path, {"train": 2, "valid": 2, "test": 2})
    table = written_table(prepare_pcam(tmp_path, every=2), "multilabel", "tumour")
    assert [table.sample_id(index)[-15:] for index in range(3)] == [
        "test_000000.png",
        "rain_000000.png",
        "/val_000000.png",
    ]


def test_labels_of_another_number_are_refused(tmp_path):
    _write_pcam(tmp_path, {"train": 2, "valid": 1, "test": 1})
    with h5py.File(tmp_path / "camelyonpatch_level_2_split_test_y.h5", "w") as file:
        file["y"] = np.zeros((5, 1, 1, 1), np.uint8)
    with pytest.raises(ValueError, match=r"test_x\.h5 has 1 images, .*test_y\.h5 5 labels"):
        prepare_pcam(tmp_path)
