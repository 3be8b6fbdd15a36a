import numpy as np
import pytest

from ols.localisation.boxes import box_mask, check_names, read_boxes


@pytest.fixture
def write(tmp_path):
    def write(*lines: str):
        path = tmp_path / "boxes.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def test_corners_and_sizes_are_the_same_boxes(write):
    corners = read_boxes(write("filename,x0,y0,x1,y1", "a.png,1,2,4,7", "a.png,0,0,1.5,1"))
    sizes = read_boxes(write("x,y,filename,width,height", "1,2,a.png,3,5", "0,0,./a.png,1.5,1"))
    assert [box[:4] for box in corners["a.png"]] == [(1, 2, 4, 7), (0, 0, 1.5, 1)]
    assert corners == sizes


def test_a_mask_is_where_the_centres_of_pixels_lie_in_a_box(write):
    boxes = read_boxes(write("filename,x0,y0,x1,y1", "a.png,1,2,4,3", "a.png,0,0,1.6,1.4", "a.png,5,3,6.4,4.2"))[
        "a.png"
    ]
    mask = np.asarray(box_mask(boxes, (6, 4)))
    expected = [[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1]]
    assert (mask / 255).tolist() == expected


def test_findings_choose_boxes(write):
    path = write("filename,finding,x,y,width,height", "a.png,Mass,1,1,2,2", "b.png,Nodule,1,1,2,2", "c.png,,1,1,2,2")
    assert list(read_boxes(path, findings=["Nodule"])) == ["b.png"]
    assert list(read_boxes(path)) == ["a.png", "b.png", "c.png"]
    with pytest.raises(ValueError, match="has no finding 'Edema'; it has , Mass, Nodule"):
        read_boxes(path, findings=["Edema"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("filename,x0,y0,x1", "a.png,1,1,2"), "line 1: expected the columns x0, y0, x1, y1 or x, y, width, height"),
        (("filename,x0,y0,x1,y1", "a.png,1,1,2,2", "a.png,1,1,,2"), "line 3: x1 is '', expected a number of pixels"),
        (("filename,x0,y0,x1,y1", "a.png,1,1,inf,2"), "line 2: x1 is 'inf', expected a number"),
        (("filename,x0,y0,x1,y1", "a.png,4,1,2,2"), r"line 2: a box from \(4, 1\) to \(2, 2\) has no area"),
        (("filename,x0,y0,x1,y1", "../a.png,1,1,2,2"), "line 2: '../a.png' leads out of the data set"),
        (("filename,x0,y0,x1,y1",), "has no boxes"),
    ],
)
def test_what_is_no_box_is_refused_by_its_line(write, lines, message):
    with pytest.raises(ValueError, match=message):
        read_boxes(write(*lines))


def test_a_box_of_another_image_or_another_size_is_refused_by_its_line(write):
    boxes = read_boxes(write("filename,x0,y0,x1,y1", "a.png,0,0,6.9,4", "b.png,600,0,900,4"))
    assert np.asarray(box_mask(boxes["a.png"], (6, 4))).all()  # not a pixel too far
    with pytest.raises(ValueError, match=r"line 3: a box from \(600, 0\) .* out of its image of 6 x 4 pixels"):
        box_mask(boxes["b.png"], (6, 4))
    with pytest.raises(ValueError, match=r"line 3: the data set has no image b\.png"):
        check_names(boxes, ["a.png"])
