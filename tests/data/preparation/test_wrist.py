import numpy as np
from data.preparation.trees import left_out, write_image, write_lines, written_table
from PIL import Image

from ols.data.preparation.wrist import prepare_grazpedwri

HEADER = (
    "filestem,patient_id,study_number,timehash,gender,age,laterality,projection,initial_exam,ao_classification,cast,"
    "diagnosis_uncertain,osteopenia,fracture_visible,metal,pixel_spacing,device_manufacturer"
)


def test_wrists_of_16_bits_are_written_with_8_and_empty_flags_are_0(tmp_path):
    rows = [
        "0001_a,1,1,7fe,M,9.5,L,1,1,23-M/2.1,,,,1.0,,0.144,Siemens",
        "0001_b,1,1,7fe,M,9.5,L,2,1,,,,1,,,0.144,Siemens",
        "0002_a,2,1,1fe,F,3.1,R,1,1,,maybe,,,,,0.144,Siemens",
        "0003_a,3,1,1fe,F,3.1,R,1,1,,,,,,,0.144,Siemens",
    ]
    write_lines(tmp_path / "dataset.csv", HEADER, *rows)
    deep = np.linspace(1000, 4000, 24).astype(np.uint16).reshape(4, 6)
    (tmp_path / "images_part1").mkdir()
    Image.fromarray(deep).save(tmp_path / "images_part1" / "0001_a.png")
    write_image(tmp_path / "images_part2" / "0001_b.png")
    prepared = prepare_grazpedwri(tmp_path)
    table = written_table(prepared, "class", "fracture")
    assert [table.sample_id(index) for index in range(2)] == ["images_part2/0001_b.png", "prepared/images/0001_a.png"]
    assert table.targets.tolist() == [0, 1]
    assert table.attributes["projection"].tolist() == ["lateral", "AP"]
    assert table.attributes["osteopenia"].tolist() == ["1", "0"]
    assert table.sample_group(0) == table.sample_group(1) == "1"
    np.testing.assert_allclose(np.asarray(table.read(1)), (deep - 1000.0) / 3000 * 255, atol=0.6)
    assert left_out(prepared) == {"0002_a.png": "cast 'maybe' is unknown", "0003_a.png": "no such image"}
