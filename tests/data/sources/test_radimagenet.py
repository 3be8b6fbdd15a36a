import numpy as np
import pytest
from PIL import Image

from ols.data.sources.radimagenet import RadImageNet


@pytest.mark.parametrize("place", ["", "radiology_ai", "RadImageNet_split", "radiology_ai/RadImageNet_split"])
def test_csvs_are_found_wherever_users_keep_them(tree, place):
    tree.write_csvs(tree.root / place)
    data = RadImageNet(tree.root, "val")
    assert len(data) == 12
    assert data.sample_id(0) == "radiology_ai/CT/abd/normal/val0.png"


def test_csvs_in_a_folder_of_the_users_choice(tree, tmp_path):
    tree.write_csvs(tmp_path / "elsewhere")
    assert len(RadImageNet(tree.root, "test", splits=tmp_path / "elsewhere")) == 12
    with pytest.raises(FileNotFoundError, match=r"RadiologyAI_train\.csv not found in .*RadImageNet_split"):
        RadImageNet(tree.root, "test")


def test_two_sets_of_csvs_are_not_guessed_between(tree):
    tree.write_csvs()
    tree.write_csvs(tree.root / "radiology_ai")
    with pytest.raises(ValueError, match="say which by `splits`"):
        RadImageNet(tree.root, "train")
    assert len(RadImageNet(tree.root, "train", splits=tree.root)) == 24


def test_class_index_is_the_position_among_the_sorted_training_labels(tree):
    tree.write_csvs()
    data = RadImageNet(tree.root, "test")
    assert data.classes == ["ct-a", "ct-b", "mr-a", "us-a"]
    assert data.groups == ["CT/abd", "CT/abd", "MR/brain", "US"]
    labels = [label for _, label in tree.rows["test"]]
    assert [data.classes[target] for target in data.targets] == labels


@pytest.mark.parametrize(("in_chans", "mode"), [(1, "L"), (3, "RGB")])
def test_files_of_either_mode_are_read_in_the_mode_that_is_asked_for(tree, in_chans, mode):
    for extra in ("RGBA", "P", "LA"):
        tree.add("train", f"radiology_ai/CT/abd/normal/{extra}.png", "ct-a", mode=extra, level=77)
    tree.write_csvs()
    data = RadImageNet(tree.root, "train", in_chans=in_chans)
    for index in range(len(data)):
        image = data.read(index)
        assert (image.mode, image.size) == (mode, (20, 16))
        with Image.open(tree.root / data.sample_id(index)) as original:
            expected = np.asarray(original.convert("RGB"))[..., 0]
        found = np.asarray(image)
        assert np.array_equal(found if in_chans == 1 else found[..., 2], expected)


def test_byte_order_mark_crlf_and_backslashes_are_survived(tree):
    tree.rows = {split: [(name.replace("/", "\\"), label) for name, label in rows] for split, rows in tree.rows.items()}
    tree.write_csvs(newline="\r\n", encoding="utf-8-sig")
    data = RadImageNet(tree.root, "train")
    assert data.classes[0] == "ct-a"
    assert data.sample_id(3) == "radiology_ai/CT/abd/normal/train3.png"


def test_a_label_that_training_lacks_is_named_with_its_file_and_line(tree):
    tree.rows["val"][1] = (tree.rows["val"][1][0], "ct-z")
    tree.write_csvs()
    with pytest.raises(ValueError, match=r"RadiologyAI_val\.csv, line 3: label 'ct-z' does not occur in the training"):
        RadImageNet(tree.root, "val")


def test_a_missing_image_is_named_with_its_line_before_anything_is_read(tree):
    tree.write_csvs()
    (tree.root / tree.rows["test"][5][0]).unlink()
    with pytest.raises(FileNotFoundError, match=r"RadiologyAI_test\.csv, line 7: no such image: .*test2\.png"):
        RadImageNet(tree.root, "test")


def test_a_missing_class_folder_is_a_missing_image(tree):
    tree.rows["val"].append(("radiology_ai/XX/y/z.png", "ct-a"))
    tree.write_csvs()
    with pytest.raises(FileNotFoundError, match=r"RadiologyAI_val\.csv, line 14: .*radiology_ai/XX/y/z\.png"):
        RadImageNet(tree.root, "val")


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_an_unreadable_image_is_named_with_its_line(tree, damage):
    tree.write_csvs()
    path = tree.root / tree.rows["train"][2][0]
    content = {"truncated": path.read_bytes()[:-60], "text": b"not an image", "empty": b""}[damage]
    path.write_bytes(content)
    data = RadImageNet(tree.root, "train")
    with pytest.raises(ValueError, match=r"RadiologyAI_train\.csv, line 4: cannot read .*train2\.png"):
        data.read(2)


def test_an_image_of_16_bits_is_refused(tree):
    tree.write_csvs()
    path = tree.root / tree.rows["train"][0][0]
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path)
    with pytest.raises(ValueError, match=r"line 2: cannot read .*mode 'I;16' is not 8-bit"):
        RadImageNet(tree.root, "train").read(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "column 'filename' is missing; the header has nothing"),
        ("filename,label\n", "has a header but no rows"),
        ("filename,class\na.png,b\n", "column 'label' is missing; the header has filename, class"),
        ("filename,label\na.png\n", "line 2: 1 fields where the header has 2"),
        ("filename,label\n,b\n", "line 2: filename or label is empty"),
    ],
)
def test_a_malformed_csv_is_named(tree, content, message):
    tree.write_csvs()
    (tree.root / "RadiologyAI_val.csv").write_text(content)
    with pytest.raises(ValueError, match=f"RadiologyAI_val.csv.*{message}"):
        RadImageNet(tree.root, "val")


def test_a_missing_split_is_named(tree):
    tree.write_csvs()
    (tree.root / "RadiologyAI_val.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no such CSV file: .*RadiologyAI_val\.csv"):
        RadImageNet(tree.root, "val")


def test_a_wrong_root_is_named_and_a_near_miss_recognised(tree, tmp_path):
    tree.write_csvs()
    with pytest.raises(FileNotFoundError, match="nowhere does not contain the folder radiology_ai"):
        RadImageNet(tmp_path / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match=r"did you mean .*set\?"):
        RadImageNet(tree.root / "radiology_ai", "train")
    with pytest.raises(ValueError, match=r"in_chans must be 1 .* got 2"):
        RadImageNet(tree.root, "train", in_chans=2)
