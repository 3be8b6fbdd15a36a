from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ols.localisation.regions import Boxes, MaskFiles, marked_images


@pytest.fixture
def write(tmp_path):
    def write(*lines: str):
        path = tmp_path / "regions.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def _source(*names: str):
    class Source(SimpleNamespace):
        def __len__(self):
            return len(names)

        def sample_id(self, index):
            return names[index]

    return Source()


def test_corners_and_sizes_are_the_same_boxes(write):
    corners = Boxes(write("filename,x0,y0,x1,y1", "a.png,1,2,4,7", "a.png,0,0,1.5,1"))
    sizes = Boxes(write("x,y,filename,width,height", "1,2,a.png,3,5", "0,0,./a.png,1.5,1"))
    assert [box[:4] for box in corners.boxes["a.png"]] == [(1, 2, 4, 7), (0, 0, 1.5, 1)]
    assert corners.boxes == sizes.boxes
    table = Boxes(write("filename,x0,y0,x1,y1", "b.png,,,,", "a.png,1,2,4,7"))  # of targets, with healthy images
    assert table.names() == ["a.png"]


def test_a_mask_is_where_the_centres_of_pixels_lie_in_a_box(write):
    boxes = Boxes(write("filename,x0,y0,x1,y1", "a.png,1,2,4,3", "a.png,0,0,1.6,1.4", "a.png,5,3,6.4,4.2"))
    mask = np.asarray(boxes.mask("a.png", (6, 4)))
    expected = [[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1]]
    assert (mask / 255).tolist() == expected


def test_findings_choose_boxes(write):
    path = write("filename,finding,x,y,width,height", "a.png,Mass,1,1,2,2", "b.png,Nodule,1,1,2,2", "c.png,,1,1,2,2")
    assert Boxes(path, findings=["Nodule"]).names() == ["b.png"]
    assert Boxes(path).names() == ["a.png", "b.png", "c.png"]
    with pytest.raises(ValueError, match="has no finding 'Edema'; it has , Mass, Nodule"):
        Boxes(path, findings=["Edema"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("filename,x0,y0,x1", "a.png,1,1,2"), "line 1: expected the columns x0, y0, x1, y1 or x, y, width, height"),
        (("filename,x0,y0,x1,y1", "a.png,1,1,2,2", "a.png,1,1,,2"), "line 3: x1 is '', expected a number of pixels"),
        (("filename,x0,y0,x1,y1", "a.png,1,1,inf,2"), "line 2: x1 is 'inf', expected a number"),
        (("filename,x0,y0,x1,y1", "a.png,4,1,2,2"), r"line 2: a box from \(4, 1\) to \(2, 2\) has no area"),
        (("filename,x0,y0,x1,y1", "../a.png,1,1,2,2"), r"line 2: '../a\.png' leads out of the data set"),
        (("filename,x0,y0,x1,y1",), "has no boxes"),
    ],
)
def test_what_is_no_box_is_refused_by_its_line(write, lines, message):
    with pytest.raises(ValueError, match=message):
        Boxes(write(*lines))


def test_a_box_of_another_size_is_refused_by_its_line(write):
    boxes = Boxes(write("filename,x0,y0,x1,y1", "a.png,0,0,6.9,4", "b.png,600,0,900,4"))
    assert np.asarray(boxes.mask("a.png", (6, 4))).all()  # not a pixel too far
    with pytest.raises(ValueError, match=r"line 3: a box from \(600, 0\) .* out of its image of 6 x 4 pixels"):
        boxes.mask("b.png", (6, 4))


def test_masks_of_an_image_are_put_together_and_one_without_has_none(write, tmp_path):
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0, 0, 0], pixels[1, 2, 3] = 1, 255
    for number in range(2):
        Image.fromarray(pixels[number]).save(tmp_path / f"mask{number}.png")
    masks = MaskFiles(
        write("filename,lesion,age", "a.png,mask0.png,3", "b.png,,4", "a.png,mask1.png,3"), column="lesion"
    )
    assert masks.names() == ["a.png"]
    assert (np.asarray(masks.mask("a.png", (4, 3))) > 0).tolist() == (pixels.sum(axis=0) > 0).tolist()
    with pytest.raises(ValueError, match="line 2: the mask is 4 x 3 pixels, its image 8 x 6"):
        masks.mask("a.png", (8, 6))


def test_masks_that_cannot_be_read_are_refused_by_their_line(write, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"line 2: no such mask: .*gone\.png"):
        MaskFiles(write("filename,mask", "a.png,gone.png"))
    with pytest.raises(ValueError, match="has no mask: its column mask is empty"):
        MaskFiles(write("filename,mask", "a.png,"))
    Image.new("RGB", (4, 3)).save(tmp_path / "rgb.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "rgb.png").read_bytes()[:40])
    masks = MaskFiles(write("filename,mask", "a.png,rgb.png", "b.png,torn.png"))
    with pytest.raises(ValueError, match="line 2: a mask has one channel of 8 bits, mode 'RGB'"):
        masks.mask("a.png", (4, 3))
    with pytest.raises(ValueError, match="line 3: cannot read"):
        masks.mask("b.png", (4, 3))


def test_images_are_found_in_the_splits_they_are_in(write):
    boxes = Boxes(write("filename,x0,y0,x1,y1", "c.png,0,0,1,1", "a.png,0,0,1,1", "d.png,0,0,1,1"))
    sources = {"train": _source("a.png", "b.png", "c.png", "d.png"), "test": _source("e.png", "a.png")}
    pools = {"train": np.array([3, 1, 0]), "test": np.array([0])}
    found = marked_images(boxes, sources, pools)
    assert {split: indices.tolist() for split, indices in found.items()} == {"train": [0, 3], "test": []}
    with pytest.raises(ValueError, match=r"line 4: the data set has no image d\.png"):
        marked_images(boxes, {"train": _source("a.png", "c.png")}, {"train": np.array([0])})
