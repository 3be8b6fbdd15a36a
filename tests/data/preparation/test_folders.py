import pytest
from data.preparation.trees import left_out, write_image, written_table

from ols.data.preparation.folders import prepare_brain_tumour, prepare_folders


def test_copies_of_pixels_are_named_once_and_the_one_in_testing_stays(tmp_path):
    for value, name in enumerate(
        ("Training/glioma_tumor/a.png", "Training/no_tumor/b.PNG", "Testing/glioma_tumor/c.png"), start=50
    ):
        write_image(tmp_path / name, value)
    write_image(tmp_path / "Training/glioma_tumor/copy.bmp", 52, mode="RGB")  # of c, in another form
    write_image(tmp_path / "Training/glioma_tumor/d.png", 70)
    write_image(tmp_path / "Training/no_tumor/d.png", 70)
    write_image(tmp_path / "Training/stroke/e.png", 80)
    (tmp_path / "Testing/no_tumor").mkdir()
    (tmp_path / "Testing/no_tumor/broken.jpg").write_bytes(b"no image")
    prepared = prepare_brain_tumour(tmp_path)
    table = written_table(prepared, "class", "class")
    names = [table.sample_id(index) for index in range(len(table))]
    assert names == ["Testing/glioma_tumor/c.png", "Training/glioma_tumor/a.png", "Training/no_tumor/b.PNG"]
    assert table.classes == ["glioma", "none"]
    assert table.attributes["given_split"].tolist() == ["test", "train", "train"]
    assert not table.has_patients
    assert left_out(prepared) == {
        "Training/glioma_tumor/copy.bmp": "the same pixels as an image in test, which stays",
        "Training/glioma_tumor/d.png": "the same pixels under several classes",
        "Training/no_tumor/d.png": "the same pixels under several classes",
        "Training/stroke/e.png": "class 'stroke' is unknown",
        "Testing/no_tumor/broken.jpg": "cannot be read",
    }


def test_any_tree_of_training_and_testing_becomes_a_table(tmp_path):
    for value, name in enumerate(("set/train/cat/1.png", "set/valid/dog/1.png", "set/TEST/cat/2.png", "loose/1.png")):
        write_image(tmp_path / name, 30 + value)
    prepared = prepare_folders(tmp_path)
    table = written_table(prepared, "class", "class")
    assert dict(zip(table.attributes["given_split"].tolist(), table.targets.tolist(), strict=True)) == {
        "test": 0,
        "train": 0,
        "val": 1,
    }
    assert left_out(prepared) == {"loose/1.png": "not in a class folder of Training or Testing"}


def test_a_table_of_someone_else_is_not_written_over(tmp_path):
    write_image(tmp_path / "Training/cat/1.png")
    (tmp_path / "targets.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"targets\.csv is there and was not written by this command"):
        prepare_folders(tmp_path)
    assert (tmp_path / "targets.csv").read_text() == "mine"


def test_a_folder_without_a_usable_image_is_refused_with_the_reasons(tmp_path):
    write_image(tmp_path / "images/1.png")
    with pytest.raises(ValueError, match=r"no image can be used; not in a class folder of Training or Testing \(1\)"):
        prepare_folders(tmp_path).write()
    assert not (tmp_path / "targets.csv").exists()
