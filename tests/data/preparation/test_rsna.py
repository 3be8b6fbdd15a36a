import json

import pydicom
import pytest
from data.preparation.trees import left_out, write_image, write_lines, written_table
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from ols.data.preparation.rsna import prepare_bone_age, prepare_rsna_pneumonia


def _write_dicom(path, age="051", sex="F"):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.PatientAge, file.PatientSex, file.ViewPosition = f"{age}Y", sex, "PA"
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, file)


@pytest.fixture
def pneumonia(tmp_path):
    rows = [
        "a,,,,,0",
        "b,264.0,152.0,213.0,379.0,1",
        "b,562.0,152.0,256.0,453.0,1",
        "b,562.0,152.0,256.0,453.0,1",
        "c,,,,,1",
        "d,,,,,0",
        "d,1.0,1.0,2.0,2.0,1",
        "e,,,,,2",
        "f,,,,,0",
        "g,,,,,0",
    ]
    write_lines(tmp_path / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", *rows)
    write_lines(
        tmp_path / "stage_2_detailed_class_info.csv",
        *("patientId,class", "a,Normal", "b,Lung Opacity", "b,Lung Opacity", "g,No Lung Opacity / Not Normal"),
    )
    for name in "abcde":
        _write_dicom(tmp_path / "stage_2_train_images" / f"{name}.dcm")
    (tmp_path / "stage_2_train_images" / "g.dcm").write_bytes(b"no DICOM")
    return tmp_path


def test_pneumonia_has_a_row_an_image_and_its_boxes(pneumonia):
    prepared = prepare_rsna_pneumonia(pneumonia)
    table = written_table(prepared, "class", "pneumonia")
    assert table.targets.tolist() == [0, 1]
    assert table.attributes["finding"].tolist() == ["Normal", "Lung Opacity"]
    assert table.attributes["age"].tolist() == ["51", "51"]
    assert (pneumonia / "boxes.csv").read_text().splitlines()[1:] == [
        "stage_2_train_images/b.dcm,pneumonia,264.0,152.0,213.0,379.0",
        "stage_2_train_images/b.dcm,pneumonia,562.0,152.0,256.0,453.0",
    ]
    assert left_out(prepared) == {
        "box of b": "a second row that says the same (the first stays)",
        "c": "Target 1 without a box, or 0 with one",
        "d": "rows that contradict each other",
        "e": "Target '2' is unknown",
        "f.dcm": "no such image",
        "g": "cannot be read as DICOM",
    }
    assert "WARNING: patientId names an image" in (pneumonia / "prepared.md").read_text()


def test_pneumonia_has_the_patients_of_nih_where_rsnas_list_is_there(pneumonia):
    entries = [{"subset_img_id": name, "img_id": f"00000013_00{number}.png"} for number, name in enumerate("ab")]
    (pneumonia / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(entries))
    prepared = prepare_rsna_pneumonia(pneumonia)
    table = written_table(prepared, "class", "pneumonia")
    assert [table.sample_group(index) for index in range(2)] == ["00000013", "00000013"]
    assert left_out(prepared)["g"] == "not in RSNA's list of NIH's images"


def test_bone_ages_are_read_in_months(tmp_path):
    rows = ["1377,180,False", "1378,12,True", "1379,0,True", "1380,90,", "1381,94,True"]
    write_lines(tmp_path / "boneage-training-dataset.csv", "id,boneage,male", *rows)
    write_lines(tmp_path / "Validation Dataset.csv", "Image ID,male,Bone Age (months)", "1386,TRUE,30")
    for name in ("training/training/1377.png", "training/training/1378.png", "validation/1386.png"):
        write_image(tmp_path / f"boneage-{name}")
    prepared = prepare_bone_age(tmp_path)
    table = written_table(prepared, "regression", "bone_age")
    assert table.targets.tolist() == [180, 12, 30]
    assert table.attributes["sex"].tolist() == ["F", "M", "M"]
    assert table.attributes["given_split"].tolist() == ["train", "train", "val"]
    assert left_out(prepared) == {
        "1379": "bone age '0' is no number of months up to 240",
        "1380": "male '' is unknown",
        "1381.png": "no such image",
    }
