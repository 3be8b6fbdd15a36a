"""Tables of targets: what a row becomes, and what is refused with its line."""

import numpy as np
import pytest
from PIL import Image

from ols.data.sources.table import Table

HEADER = "filename,patient,label,age,a,b,sex,mask"
ROWS = [
    "x/0.png,p1,10,41.5,1,,F,m0.png",
    "x/1.png,p1,9,60,0,1,M,m1.png",
    "./x/2.png,p2,9,33,0,0,M,m2.png",
]


@pytest.fixture
def write(tmp_path):
    (tmp_path / "x").mkdir()
    for index in range(3):
        Image.new("L", (6, 4), 40 * index).save(tmp_path / "x" / f"{index}.png")
        mask = np.zeros((4, 6), np.uint8)
        mask[:index, :2] = 255
        Image.fromarray(mask).save(tmp_path / f"m{index}.png")

    def run(rows=ROWS, header=HEADER, **options):
        path = tmp_path / "targets.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        return Table(path, **options)

    return run


def test_classes_are_the_labels_of_a_column_numbers_by_size(write):
    table = write(targets=["label"])
    assert table.classes == ["9", "10"]
    assert table.targets.tolist() == [1, 0, 0]
    assert [table.sample_id(i) for i in range(3)] == ["x/0.png", "x/1.png", "x/2.png"]
    assert [table.sample_group(i) for i in range(3)] == ["p1", "p1", "p2"]
    assert table.attributes["sex"].tolist() == ["F", "M", "M"]
    assert np.asarray(table.read(2)).tolist() == [[80] * 6] * 4


def test_labels_are_unknown_where_a_cell_is_empty(write):
    table = write(kind="multilabel", targets=["a", "b"])
    np.testing.assert_array_equal(table.targets, np.array([[1, np.nan], [0, 1], [0, 0]], np.float32))
    assert table.classes == ["a", "b"]


def test_numbers_and_what_a_head_takes_beside_the_image(write):
    table = write(kind="regression", targets=["age"], side=["sex", "label"])
    assert table.targets.tolist() == [41.5, 60, 33]
    assert table.side.tolist() == [[0, 0], [1, 1], [1, 1]]  # F and M; of two words 10 and 9 the first in order is 10


def test_masks_have_the_size_of_their_images_and_bytes_as_they_are(write):
    table = write(kind="mask")
    assert [int(np.asarray(table.mask(i)).sum()) for i in range(3)] == [0, 255 * 2, 255 * 4]
    assert table.classes == ["foreground"]
    before = table.content()
    Image.new("L", (6, 4)).save(table.root / "m1.png", compress_level=0)
    assert table.content() != before


def test_without_patients_each_image_is_a_group_of_its_own(write):
    table = write(header=HEADER.replace("patient", "case"), targets=["label"])
    assert not table.has_patients
    assert table.sample_group(1) == "x/1.png"
    assert write(header=HEADER.replace("patient", "case"), targets=["label"], patient="case").sample_group(1) == "p1"


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ("x/3.png,p1,9,1,0,0,F,m0.png", {"targets": ["label"]}, "line 5: no such image: .*3.png"),
        ("x/1.png,p1,9,1,0,0,F,m0.png", {"targets": ["label"]}, "line 5: x/1.png stands in line 3, too"),
        (",p1,9,1,0,0,F,m0.png", {"targets": ["label"]}, "line 5: filename is empty"),
        ("../3.png,p1,9,1,0,0,F,m0.png", {"targets": ["label"]}, "line 5: '../3.png' leads out of the data set"),
        ("x/4.png,,9,1,0,0,F,m0.png", {"targets": ["label"]}, "line 5: patient is empty"),
        ("x/4.png,p1,,1,0,0,F,m0.png", {"targets": ["label"]}, "line 5: label is empty"),
        ("x/4.png,p1,9,old,0,0,F,m0.png", {"kind": "regression", "targets": ["age"]}, "5: age 'old' is no number"),
        ("x/4.png,p1,9,nan,0,0,F,m0.png", {"kind": "regression", "targets": ["age"]}, "5: age 'nan' is no number"),
        ("x/4.png,p1,9,1,2,0,F,m0.png", {"kind": "multilabel", "targets": ["a", "b"]}, "5: a '2' is no label"),
        ("x/4.png,p1,9,1,0,0,F,m9.png", {"kind": "mask"}, "line 5: no such mask: .*m9.png"),
        ("x/4.png,p1,9,1,0,0,F,", {"kind": "mask"}, "line 5: mask is empty"),
        ("x/4.png,p1,9,1,0,0,F,big.png", {"kind": "mask"}, "line 5: the mask is 7 x 4 pixels, its image 6 x 4"),
        ("x/4.png,p1,9,1,0,0,X,m0.png", {"targets": ["label"], "side": ["sex"]}, "line 2: sex 'F' is no number"),
    ],
)
def test_what_a_row_lacks_is_named_with_its_line(write, tmp_path, row, options, message):
    Image.new("L", (6, 4)).save(tmp_path / "x" / "4.png")
    Image.new("L", (7, 4)).save(tmp_path / "big.png")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        write([*ROWS, row], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["grade"]}, "line 1: column 'grade' is missing"),
        ({}, "say by targets which one column to predict, got none"),
        ({"targets": ["a", "b"]}, "which one column to predict"),
        ({"kind": "multilabel", "targets": ["a", "a"]}, "names a column twice"),
        ({"kind": "boxes", "targets": ["a"]}, "kind must be one of class, multilabel, regression, mask"),
        ({"targets": ["label"], "patient": "person"}, "column 'person' is missing"),
    ],
)
def test_columns_that_are_not_there_or_not_enough_are_refused(write, options, message):
    with pytest.raises(ValueError, match=message):
        write(**options)
