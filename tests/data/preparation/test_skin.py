from data.preparation.trees import left_out, write_image, write_lines, written_table

from ols.data.preparation.skin import prepare_isic

HEADER = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"


def test_pictures_of_one_lesion_belong_together(tmp_path):
    rows = [
        "ISIC_0000001,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
        "ISIC_0000002_downsampled,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
        "ISIC_0000003,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
        "ISIC_0000004,1.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
        "ISIC_0000005,0.5,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
        "ISIC_0000006,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
    ]
    write_lines(tmp_path / "ISIC_2019_Training_GroundTruth.csv", HEADER, *rows)
    write_lines(
        tmp_path / "ISIC_2019_Training_Metadata.csv",
        "image,age_approx,anatom_site_general,lesion_id,sex",
        "ISIC_0000001,55.0,anterior torso,MSK4_1,female",
        "ISIC_0000002_downsampled,,,,",
        "ISIC_0000003,60.0,anterior torso,MSK4_1,female",
    )
    for name in ("ISIC_0000001.jpg", "ISIC_0000002_downsampled.jpg", "ISIC_0000003.JPG"):
        write_image(tmp_path / "ISIC_2019_Training_Input" / name, mode="RGB")
    prepared = prepare_isic(tmp_path)
    table = written_table(prepared, "class", "class")
    assert table.classes == ["MEL", "NV"]
    assert table.targets.tolist() == [1, 0, 1]
    assert [table.sample_group(index) for index in range(3)] == ["MSK4_1", "ISIC_0000002_downsampled", "MSK4_1"]
    assert left_out(prepared) == {
        "ISIC_0000004": "2 classes",
        "ISIC_0000005": "MEL '0.5' is unknown",
        "ISIC_0000006.jpg": "no such image",
    }
