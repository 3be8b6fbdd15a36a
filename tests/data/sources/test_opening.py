"""Whatever form a data set has, and that it is said which."""

import os
import pickle
import re

import numpy as np
import pytest
import torch
from conftest import SPLITS, build_loaders_of
from PIL import Image

from ols.data.packing import write_pack
from ols.data.sources import radimagenet
from ols.data.sources.folder import ImageFolder
from ols.data.sources.medmnist import MedMNIST
from ols.data.sources.opening import open_sources
from ols.data.sources.radimagenet import RadImageNet

COUNTS = {"train": 5, "val": 2, "test": 3}


def _class_folders(root, classes=("cat", "dog", "eel")):
    for split, count in COUNTS.items():
        for level, name in enumerate(classes):
            for number in range(count):
                folder = root / split / name / ("deeper" if number % 2 else "")
                folder.mkdir(parents=True, exist_ok=True)
                pixels = np.full((16, 20), 40 + 50 * level + number, np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def _arrays(shape=(12, 12), labels=(3, 5, 9)):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in COUNTS.items():
        size = count * len(labels)
        arrays[f"{split}_images"] = rng.integers(0, 256, (size, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.repeat(labels, count)[:, None].astype(np.uint8)
    return arrays


def test_a_tree_of_class_folders(tmp_path):
    root = _class_folders(tmp_path / "animals")
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    sources, description = open_sources(root)
    assert description == f"{root}, a tree of class folders"
    assert {split: len(source) for split, source in sources.items()} == {"train": 15, "val": 6, "test": 9}
    for split, source in sources.items():
        assert source.classes == ["cat", "dog", "eel"]
        assert source.groups == ["animals"] * 3
        for index in range(len(source)):
            name = source.sample_id(index)
            assert name.split("/")[:2] == [split, source.classes[source.targets[index]]]
            with Image.open(root / name) as expected:
                assert np.array_equal(np.asarray(source.read(index)), np.asarray(expected))
    assert ImageFolder(root, "val", in_chans=3).read(0).mode == "RGB"


def test_a_tree_of_class_folders_is_checked(tmp_path):
    root = _class_folders(tmp_path / "animals")
    (root / "val" / "fox").mkdir()
    with pytest.raises(ValueError, match=r"val/fox: class 'fox' does not occur in the training split"):
        open_sources(root)
    (root / "val" / "fox").rmdir()
    (root / "test").rename(root / "later")
    with pytest.raises(FileNotFoundError, match=r"it has the folders later, train, val: split off test by patient"):
        open_sources(root)
    (root / "test" / "cat").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"animals/test has no class folders with images"):
        open_sources(root)


def test_an_unreadable_image_of_a_class_folder_is_named(tmp_path):
    root = _class_folders(tmp_path / "animals")
    (root / "val" / "dog" / "0.png").write_bytes(b"oops")
    source = open_sources(root)[0]["val"]
    with pytest.raises(ValueError, match=r"cannot read .*val/dog/0\.png"):
        [source.read(index) for index in range(len(source))]


@pytest.mark.parametrize("shape", [(12, 14), (12, 14, 3)])
def test_a_medmnist_file(tmp_path, shape):
    arrays, path = _arrays(shape), tmp_path / "organmnist.npz"
    np.savez_compressed(path, **arrays)
    for in_chans, mode in ((1, "L"), (3, "RGB")):
        sources, description = open_sources(path, in_chans=in_chans)
        assert description == f"{path}, a MedMNIST file"
        for split, source in sources.items():
            assert source.classes == ["3", "5", "9"]
            assert source.groups == ["organmnist"] * 3
            labels = [int(source.classes[target]) for target in source.targets]
            assert labels == arrays[f"{split}_labels"][:, 0].tolist()
            assert source.sample_id(1) == f"{split}/1"
            expected = Image.fromarray(arrays[f"{split}_images"][4]).convert(mode)
            assert source.read(4).mode == mode
            assert np.array_equal(np.asarray(source.read(4)), np.asarray(expected))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "val_labels",
            np.zeros((6, 14), np.uint8),
            "chest.npz is multi-label: val_labels has 14 columns",
        ),
        ("test_labels", np.full((9, 1), 4, np.uint8), "label 4 of test does not occur in the training split"),
        (
            "train_images",
            np.zeros((15, 12, 12, 12), np.uint8),
            r"train_images must be .* got uint8 \(15, 12, 12, 12\)",
        ),
        ("val_images", np.zeros((6, 12, 12)), "val_images must be uint8 .* got float64"),
        ("val_images", np.zeros((5, 12, 12), np.uint8), "5 images and 6 labels of val"),
        ("train_labels", np.zeros((15, 1)), "train_labels must be integers"),
        ("train_labels", np.zeros(15, bool), r"train_labels must be integers .* got bool"),
        ("train_labels", np.int64(3), r"train_labels must be integers .* got int64 \(\)"),
        ("val_labels", np.zeros((0, 1), np.uint8), "one at least, got uint8"),
        ("val_images", np.zeros((6, 0, 12), np.uint8), r"val_images must be uint8 .* got uint8 \(6, 0, 12\)"),
        ("val_images", np.zeros((6, 12, 12, 1), np.uint8), "val_images must be uint8"),
        ("train_labels", np.array([{}] * 15), r"cannot read .*chest\.npz: Object arrays"),
        ("test_images", None, "chest.npz has no array test_images"),
    ],
)
def test_a_medmnist_file_is_checked(tmp_path, name, array, message):
    arrays = _arrays() | {name: array}
    np.savez(tmp_path / "chest.npz", **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(ValueError, match=message):
        open_sources(tmp_path / "chest.npz")


@pytest.mark.parametrize("keep", [0, 100, -50])
def test_a_damaged_medmnist_file_is_named(tmp_path, keep):
    path = tmp_path / "blood.npz"
    np.savez(path, **_arrays())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cannot read .*blood\.npz"):
        MedMNIST(path, "train")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_medmnist_file_with_a_wrong_byte_anywhere_reads_the_same_or_is_named(tmp_path, save):
    path = tmp_path / "blood.npz"
    save(path, **_arrays())
    content, before, named, same = path.read_bytes(), MedMNIST(path, "train"), 0, 0
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 300).tolist():
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        try:
            found = MedMNIST(path, "train")
        except ValueError as error:
            named += "blood.npz" in str(error)
        else:
            assert (found.content(), found.targets.tolist()) == (before.content(), before.targets.tolist())
            same += 1
    assert named + same == 300
    assert named > 30


def test_an_array_or_a_pickle_with_the_name_of_a_medmnist_file_is_named(tmp_path):
    path = tmp_path / "blood.npz"
    for content in (pickle.dumps({}), b"\x93NUMPY\x01\x00", b"PK"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot read .*blood\.npz"):
            MedMNIST(path, "train")


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.uint64, ">i4"])
def test_labels_of_a_medmnist_file_may_be_integers_of_any_type(tmp_path, dtype):
    arrays = _arrays()
    labels = {name: array.astype(dtype) for name, array in arrays.items() if name.endswith("labels")}
    np.savez(tmp_path / "one.npz", **arrays)
    np.savez(tmp_path / "other.npz", **arrays | labels)
    one, other = (open_sources(tmp_path / name)[0] for name in ("one.npz", "other.npz"))
    for split in SPLITS:
        assert other[split].targets.tolist() == one[split].targets.tolist()
        assert other[split].classes == one[split].classes


def test_a_pack_of_any_form_trains_as_the_form_does(tree, tmp_path):
    tree.write_csvs()
    np.savez(tmp_path / "organ.npz", **_arrays((14, 14)))
    roots = {
        tree.root: "a tree in RadImageNet's form",
        _class_folders(tmp_path / "animals"): "a tree of class folders",
        tmp_path / "organ.npz": "a MedMNIST file",
    }
    for number, (root, form) in enumerate(roots.items()):
        pack = tmp_path / f"pack{number}"
        write_pack(open_sources(root)[0], pack, size=14)
        loaders = [
            build_loaders_of(where, image_size=12, resize_size=14, workers=0, global_batch_size=4)
            for where in (root, pack)
        ]
        assert loaders[0].description == f"{root}, {form}"
        assert loaders[1].description == f"{pack}, a pack of 14 px (shorter)"
        assert loaders[0].groups == loaders[1].groups
        for split in SPLITS:
            for expected, found in zip(*(getattr(each, split) for each in loaders), strict=True):
                assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_is_no_data_set_is_named_with_the_forms(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no data set: neither a pack .* radiology_ai"):
        open_sources(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere is no data set"):
        open_sources(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"in_chans must be 1 .* got 2"):
        open_sources(tmp_path, in_chans=2)


def test_the_training_csv_is_read_once(tree, monkeypatch):
    tree.write_csvs()
    read, original = [], radimagenet._read_csv
    monkeypatch.setattr(radimagenet, "_read_csv", lambda path: read.append(path.name) or original(path))
    sources, _ = open_sources(tree.root)
    assert sorted(read) == ["RadiologyAI_test.csv", "RadiologyAI_train.csv", "RadiologyAI_val.csv"]
    assert sources["val"].groups == RadImageNet(tree.root, "val").groups


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["Training", "Testing"], "Testing, Training: rename Testing to test, Training to train, and split off val by"),
        (["train", "valid", "test"], "test, train, valid: rename valid to val"),
        (["glioma", "notumor"], "the folders glioma, notumor: if these are classes, split each, by patient"),
        ([], "it has no folders"),
    ],
)
def test_a_folder_that_is_no_data_set_is_answered_by_what_lies_in_it(tmp_path, folders, said):
    for name in folders:
        (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match=re.escape(said)):
        open_sources(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is nothing of that name"):
        open_sources(tmp_path / "nowhere")


def test_pipes_devices_and_folders_named_as_images_are_refused_and_never_opened(tree):
    tree.write_csvs()
    pipe, device, folder = (tree.root / tree.rows["train"][i][0] for i in range(3))
    for path in (pipe, device, folder):
        path.unlink()
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    folder.mkdir()
    source = open_sources(tree.root)[0]["train"]
    for index in range(3):
        with pytest.raises(ValueError, match=rf"line {index + 2}: cannot read .*not a regular file"):
            source.read(index)
