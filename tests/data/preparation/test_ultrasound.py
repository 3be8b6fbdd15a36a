import numpy as np
import pytest
from data.preparation.trees import left_out, write_image, write_lines, written_table
from PIL import Image

from ols.data.preparation.ultrasound import prepare_busi, prepare_ddti


def _write_busi(root):
    tree = root / "Dataset_BUSI_with_GT"
    for name in ("benign (1)", "benign (2)", "malignant (1)", "malignant (3)", "normal (1)"):
        write_image(tree / name.split()[0] / f"{name}.png", mode="RGB")
    for number, suffix in enumerate(("_mask", "_mask_1")):  # two lesions, apart
        mask = np.zeros((4, 6), np.uint8)
        mask[1, 1 + 3 * number] = 255
        Image.fromarray(mask).save(tree / "benign" / f"benign (2){suffix}.png")
    write_image(tree / "benign" / "benign (1)_mask.PNG", 255)
    write_image(tree / "malignant" / "malignant (1)_mask.png", 255)
    write_image(tree / "normal" / "normal (1)_mask.png", 0)
    write_image(tree / "malignant" / "malignant (9)_mask.png", 255)
    return tree


def test_all_masks_of_a_breast_image_become_one_of_its_size(tmp_path):
    prepared = prepare_busi(_write_busi(tmp_path))
    table = written_table(prepared, "mask")
    index = [table.sample_id(index) for index in range(len(table))].index("benign/benign (2).png")
    assert np.argwhere(np.asarray(table.mask(index))).tolist() == [[1, 1], [1, 4]]
    assert left_out(prepared) == {
        "malignant/malignant (3).png": "no mask",
        "malignant/malignant (9)_mask.png": "mask without an image",
    }
    assert not table.has_patients


@pytest.mark.parametrize(
    ("normal", "classes"),
    [("own", ["benign", "malignant", "normal"]), ("benign", ["benign", "malignant"]), ("leave_out", None)],
)
def test_normal_breasts_are_what_they_are_said_to_be(tmp_path, normal, classes):
    prepared = prepare_busi(_write_busi(tmp_path), normal=normal)
    table = written_table(prepared, "class", "class")
    assert table.classes == (classes or ["benign", "malignant"])
    assert len(table) == (3 if normal == "leave_out" else 4)


def _case(number, grade, marks):
    text = "".join(f"<mark><image>{image}</image><svg>{svg}</svg></mark>" for image, svg in marks)
    return f"<case><number>{number}</number><age>52</age><sex>F</sex><tirads>{grade}</tirads>{text}</case>"


def test_thyroid_cases_have_both_definitions_of_malignant_and_their_outlines(tmp_path):
    points = '[{"x": 1, "y": 1}, {"x": 3, "y": 1}, {"x": 3, "y": 2}, {"x": 1, "y": 2}]'
    square = f'[{{"points": {points}, "annotation": {{}}, "regionType": "freehand"}}]'
    cases = {"1": ("3", square), "2": ("4a", square), "3": ("4b", square), "4": ("5", square[:40]), "5": ("", square)}
    for number, (grade, svg) in cases.items():
        write_lines(tmp_path / f"{number}.xml", _case(number, grade, [(1, svg)]))
        write_image(tmp_path / f"{number}_1.{'JPG' if number == '2' else 'jpg'}")
    write_image(tmp_path / "3_2.jpg")
    write_image(tmp_path / "77_1.jpg")
    write_lines(tmp_path / "6.xml", "<case><tirads>2</tirads>")
    write_image(tmp_path / "6_1.jpg")
    prepared = prepare_ddti(tmp_path)
    table = written_table(prepared, "multilabel", "malignant_4a", "malignant_4b")
    assert [table.sample_id(index) for index in range(3)] == ["1_1.jpg", "2_1.JPG", "3_1.jpg"]
    assert table.targets.tolist() == [[0, 0], [1, 0], [1, 1]]
    assert table.sample_group(2) == "3"
    mask = np.asarray(Image.open(tmp_path / "prepared" / "masks" / "1_1.png"))
    assert np.argwhere(mask).tolist() == [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]]
    assert left_out(prepared) == {
        "3_2.jpg": "no outline",
        "4_1.jpg": "its outline is cut off or damaged",
        "5_1.jpg": "no TI-RADS is given",
        "6_1.jpg": "its XML cannot be read",
        "77_1.jpg": "no XML of its case",
    }
