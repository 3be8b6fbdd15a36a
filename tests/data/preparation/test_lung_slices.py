import numpy as np
from data.preparation.trees import left_out, write_lines, written_table
from PIL import Image

from ols.data.preparation.lung_slices import prepare_luna16


def _write_scan(folder, series, volume, *, lost=0, axes="1 0 0 0 1 0 0 0 1", offset="-10 -20 -100", compressed=False):
    slices, rows, columns = volume.shape
    write_lines(
        folder / f"{series}.mhd",
        *("ObjectType = Image", "NDims = 3", "BinaryData = True", f"CompressedData = {compressed}"),
        *(f"TransformMatrix = {axes}", f"Offset = {offset}", "ElementSpacing = 1 2 2.5"),
        *(f"DimSize = {columns} {rows} {slices}", "ElementType = MET_SHORT", f"ElementDataFile = {series}.raw"),
    )
    (folder / f"{series}.raw").write_bytes(volume.astype("<i2").tobytes()[lost:])


def test_a_nodule_is_in_the_slice_through_its_middle_and_its_mask_is_a_disc(tmp_path):
    volume = np.full((20, 11, 21), -1000)
    volume[4, 5, 10] = 400
    subset = tmp_path / "subset0"
    _write_scan(subset, "1.3.6.1", volume)
    _write_scan(subset, "1.3.6.2", volume, lost=2)
    _write_scan(subset, "1.3.6.3", volume)
    rows = ["1.3.6.1,0,-10,-90,8", "1.3.6.1,0,-10,-90,8", "1.3.6.1,0,0,900,5", "1.3.6.1,0,0,x,5", "1.3.6.9,0,0,0,5"]
    write_lines(tmp_path / "annotations.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm", *rows)
    prepared = prepare_luna16(tmp_path)
    table = written_table(prepared, "class", "nodule")
    names = [table.sample_id(index).rsplit("/", 1)[-1] for index in range(len(table))]
    # -90 mm is 4 slices of 2.5 mm up; slices 8 to 14 of the middle half, 5 to 14, are more than 4 + 5 mm away
    assert names == ["1.3.6.1_0004.png", "1.3.6.1_0011.png", "1.3.6.3_0010.png"]
    assert table.targets.tolist() == [1, 0, 0]
    assert np.asarray(table.read(0))[5, 10] == 255
    assert np.asarray(table.read(0)).sum() == 255
    mask = np.asarray(Image.open(tmp_path / "prepared/masks/1.3.6.1_0004.png"))
    # a circle of 4 mm around column 10, row 5: 4 columns of 1 mm and 2 rows of 2 mm to each side
    assert (mask > 0).sum(axis=1).tolist() == [0, 0, 0, 1, 7, 9, 7, 1, 0, 0, 0]
    assert not np.asarray(Image.open(tmp_path / "prepared/masks/1.3.6.1_0011.png")).any()
    assert left_out(prepared) == {
        "1.3.6.1, line 3": "a nodule that is there twice",
        "1.3.6.1, line 5": "a nodule whose place or size is no number",
        "1.3.6.1 at z 900": "a nodule outside of its scan",
        "1.3.6.2": "its scan cannot be read: 4,619 voxels instead of 4,620",
        "1.3.6.9": "no scan of this series",
    }


def test_a_scan_that_is_stored_from_the_far_end_is_turned_and_the_compressed_lungs_beside_it_are_no_scan(tmp_path):
    volume = np.full((20, 11, 21), -1000)
    volume[4, 5, 13] = 400
    _write_scan(tmp_path / "part" / "subset0", "1.3.6.1", volume)
    turned = {"axes": "-1 0 0 0 -1 0 0 0 1", "offset": "10 0 -100"}  # of the voxel that is stored first
    _write_scan(tmp_path / "part" / "subset0", "1.3.6.2", np.flip(volume, (1, 2)), **turned)
    for series in ("1.3.6.1", "1.3.6.2"):
        _write_scan(tmp_path / "seg-lungs-LUNA16", series, volume, compressed=True)
    rows = ["seriesuid,coordX,coordY,coordZ,diameter_mm", "1.3.6.1,3,-10,-90,8", "1.3.6.2,3,-10,-90,8"]
    for copy in (tmp_path, tmp_path / "evaluationScript" / "annotations"):
        write_lines(copy / "annotations.csv", *rows)
    prepared = prepare_luna16(tmp_path)
    table = written_table(prepared, "class", "nodule")
    assert len(table) == 4
    assert prepared.left_out == []
    images = [np.asarray(table.read(index)) for index in (0, 2)]
    assert images[0][5, 13] == 255
    np.testing.assert_array_equal(*images)
    masks = [np.asarray(Image.open(tmp_path / f"prepared/masks/1.3.6.{series}_0004.png")) for series in (1, 2)]
    np.testing.assert_array_equal(*masks)
    assert masks[0][5, 13] == 255
