import numpy as np
import pytest
from data.preparation.trees import left_out, write_image, write_lines, written_table
from PIL import Image

from ols.data.preparation.chest import CHEXPERT_FINDINGS, prepare_chexpert, prepare_covid_radiography, prepare_nih

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


def _nih_row(name, labels, patient="1", age="058Y"):
    return f"{name},{labels},0,{patient},{age},M,PA,2682,2749,0.143,0.143,"


@pytest.fixture
def nih(tmp_path):
    rows = [
        _nih_row("00000001_000.png", "Cardiomegaly|Emphysema"),
        _nih_row("00000001_001.png", "No Finding", age="58"),
        _nih_row("00000002_000.png", "Cough"),
        _nih_row("00000003_000.png", "Hernia", age="414"),
        _nih_row("00000004_000.png", "Hernia|No Finding"),
        _nih_row("00000005_000.png", "Mass", patient="5"),
        _nih_row("00000001_001.png", "No Finding", age="58"),
        _nih_row("00000006_000.png", "Mass", patient="6"),
        _nih_row("00000006_000.png", "Edema", patient="6"),
    ]
    write_lines(tmp_path / "Data_Entry_2017.csv", NIH_HEADER, *rows)
    write_lines(
        tmp_path / "BBox_List_2017.csv",
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        "00000001_000.png,Infiltrate,225.08,547.01,86.77,79.18,,,",
        "00000001_001.png,Mass,1,1,2,2,,,",
        "00000005_000.png,Mass,1,1,2,2,,,",
    )
    write_image(tmp_path / "images_001/images/00000001_000.png", size=(1024, 1024))
    write_image(tmp_path / "images_002/images/00000001_001.PNG")
    write_image(tmp_path / "images_002/images/00000006_000.png")
    return tmp_path


def test_nih_findings_boxes_and_odd_cells(nih):
    prepared = prepare_nih(nih)
    table = written_table(prepared, "multilabel", "Cardiomegaly", "Emphysema", "Hernia")
    assert table.targets.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert [table.sample_group(index) for index in range(2)] == ["1", "1"]
    assert table.attributes["age"].tolist() == ["58", "58"]
    assert (nih / "boxes.csv").read_text().splitlines() == [
        "filename,finding,x,y,width,height",
        "images_001/images/00000001_000.png,Infiltration,225.08,547.01,86.77,79.18",
    ]
    assert left_out(prepared) == {
        "00000002_000.png": "finding 'Cough' is unknown",
        "00000003_000.png": "an age that cannot be: '414'",
        "00000004_000.png": "'No Finding' beside a finding",
        "00000005_000.png": "no such image",
        "images_002/images/00000001_001.PNG": "a second row that says the same (the first stays)",
        "images_002/images/00000006_000.png": "rows that contradict each other",
        "Mass box of 00000001_001.png": "its image is not of 1024 x 1024 pixels",
        "Mass box of 00000005_000.png": "its image is not in the table",
    }


def test_the_published_split_of_nih_is_taken_over(nih):
    write_lines(nih / "train_val_list.txt", "00000001_000.png")
    write_lines(nih / "test_list.txt", "00000006_000.png")
    prepared = prepare_nih(nih)
    assert written_table(prepared, "multilabel", "Mass").attributes["given_split"].tolist() == ["train"]
    assert left_out(prepared)["00000001_001.png"] == "in none of the published splits"


@pytest.mark.parametrize(
    ("options", "edema"),
    [
        ({}, [np.nan, 0, 1]),
        ({"uncertain": "one"}, [1, 0, 1]),
        ({"uncertain": "zero", "unmentioned": "unknown"}, [0, np.nan, 1]),
    ],
)
def test_uncertain_labels_of_chexpert_become_what_is_asked_for(tmp_path, options, edema):
    root = tmp_path / "CheXpert-v1.0-small"
    header = ",".join(("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS))

    def row(number, split, edema, view="Frontal"):
        name = f"{split}/patient{number:05d}/study1/view1_{view.lower()}.jpg"
        if number < 9:
            write_image(root / name)
        labels = [edema if finding == "Edema" else "" for finding in CHEXPERT_FINDINGS]
        return ",".join((f"CheXpert-v1.0-small/{name}", "Female", "68", view, "AP", *labels))

    rows = [row(1, "train", "-1.0"), row(2, "train", ""), row(3, "train", "2.0"), row(9, "train", "1.0")]
    write_lines(root / "train.csv", header, *rows, row(4, "train", "1.0", "Lateral"))
    write_lines(root / "valid.csv", header, row(5, "valid", "1.0"))
    prepared = prepare_chexpert(tmp_path, views="frontal", **options)
    table = written_table(prepared, "multilabel", "Edema")
    np.testing.assert_equal(table.targets[:, 0], np.array(edema, np.float32))
    assert table.attributes["given_split"].tolist() == ["train", "train", "val"]
    assert table.sample_group(2) == "patient00005"
    reasons = {name.split("/")[-3]: why for name, why in prepared.left_out}
    assert reasons == {
        "patient00003": "Edema '2.0' is unknown",
        "patient00004": "not frontal, left out as asked for",
        "patient00009": "no such image",
    }


def test_the_large_images_of_chexpert_lie_in_folders_that_its_lists_do_not_name(tmp_path):
    lists = tmp_path / "CheXpert-v1.0 batch 1 (validate & csv)"
    header = ",".join(("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS))
    labels = ",".join(["1.0"] * len(CHEXPERT_FINDINGS))
    for split, name in (("train", "patient00001"), ("valid", "patient64541")):
        path = f"CheXpert-v1.0/{split}/{name}/study1/view1_frontal.jpg"
        write_lines(lists / f"{split}.csv", header, f"{path},Male,50,Frontal,PA,{labels}")
    write_image(lists / "valid/patient64541/study1/view1_frontal.jpg")
    with pytest.raises(ValueError, match=r"has no image of train\.csv"):
        prepare_chexpert(tmp_path)
    write_image(tmp_path / "CheXpert-v1.0 batch 2 (train 1)/patient00001/study1/view1_frontal.jpg")
    prepared = prepare_chexpert(tmp_path)
    assert {cells["patient"]: cells["given_split"] for cells in prepared.rows.values()} == {
        "patient00001": "train",
        "patient64541": "val",
    }
    assert prepared.left_out == []


def test_lung_masks_of_covid_radiography_have_the_size_of_their_image(tmp_path):
    root = tmp_path / "COVID-19_Radiography_Dataset"
    for name in (
        "COVID/images/COVID-1.png",
        "Viral Pneumonia/images/Viral Pneumonia-1.PNG",
        "Normal/images/Normal-1.png",
    ):
        write_image(root / name, size=(6, 6))
    half = np.zeros((4, 4, 3), np.uint8)
    half[:, 2:] = 255
    for name in ("COVID/masks/COVID-1.png", "Viral Pneumonia/masks/Viral Pneumonia-1.png", "Lung_Opacity/masks/x.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(half).save(root / name)
    write_image(root / "Tuberculosis/images/1.png")
    prepared = prepare_covid_radiography(root)
    table = written_table(prepared, "mask")
    assert (np.asarray(table.mask(0)) > 0).sum(axis=1).tolist() == [3] * 6
    assert written_table(prepared, "class", "class").classes == ["COVID", "Viral Pneumonia"]
    assert left_out(prepared) == {
        "Normal/images/Normal-1.png": "no mask",
        "Tuberculosis/images/1.png": "not in `images` of one of the four classes",
        "Lung_Opacity/masks/x.png": "mask without an image",
    }


def test_ages_of_babies_are_in_years_and_the_corrected_list_is_read_where_both_are_there(nih):
    row = _nih_row("00000007_000.png", "Mass", patient="7", age="006M")
    write_lines(nih / "Data_Entry_2017_v2020.csv", NIH_HEADER, row, _nih_row("00000001_000.png", "Mass", age="0073D"))
    write_image(nih / "images_002/images/00000007_000.png")
    table = written_table(prepare_nih(nih), "multilabel", "Mass")
    assert table.attributes["age"].tolist() == ["0.1999", "0.5"]
