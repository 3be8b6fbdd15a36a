import os

import numpy as np
import pytest
from PIL import Image

from ols.data.sources.files import ImageFiles
from ols.data.sources.folder import ImageFolder


@pytest.fixture
def folders(tmp_path):
    """A tree of class folders with an image of each of two classes in each split."""
    for split in ("train", "val", "test"):
        for label in "ab":
            path = tmp_path / split / label / "image.png"
            path.parent.mkdir(parents=True)
            Image.new("L", (4, 3), 50).save(path)
    return tmp_path


def test_hidden_files_and_folders_are_no_images_and_no_classes(folders):
    (folders / "train" / ".cache").mkdir()
    (folders / "val" / ".ipynb_checkpoints").mkdir()
    for place in ("train/.cache", "train/a/.thumbnails"):
        (folders / place).mkdir(exist_ok=True)
        Image.new("L", (4, 3)).save(folders / place / "small.png")
    (folders / "train" / "a" / "._image.png").write_bytes(b"what macOS leaves beside a file")
    for split in ("train", "val"):
        source = ImageFolder(folders, split)
        assert source.classes == ["a", "b"]
        assert [source.sample_id(index) for index in range(len(source))] == [f"{split}/{c}/image.png" for c in "ab"]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_data_say(tmp_path, suffix, orientation):
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8] = 200  # the top left corner is bright
    turn_back = {1: lambda p: p, 2: np.fliplr, 3: lambda p: np.rot90(p, 2), 4: np.flipud, 5: np.transpose}
    turn_back |= {6: np.rot90, 7: lambda p: np.rot90(p, 2).T, 8: lambda p: np.rot90(p, -1)}  # as a camera stores it
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image.{suffix}"
    options = {"exif": exif, **{"webp": {"lossless": True}, "tif": {"compression": "tiff_lzw"}}.get(suffix, {})}
    Image.fromarray(np.ascontiguousarray(turn_back[orientation](upright))).save(path, **options)
    image = np.asarray(ImageFiles(tmp_path, [path.name], np.zeros(1, np.int64), in_chans=1).read(0), int)
    assert image.shape == upright.shape
    assert abs(image - upright).mean() < 3


def test_an_uncompressed_tiff_turned_by_a_quarter_is_refused_as_pillow_garbles_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (16, 24)).save(tmp_path / "image.tif", exif=exif)
    with pytest.raises(ValueError, match=r"image\.tif: an uncompressed TIFF turned by EXIF orientation 6"):
        ImageFiles(tmp_path, ["image.tif"], np.zeros(1, np.int64), in_chans=1).read(0)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_that_is_not_utf_8_is_refused_and_shown(folders):
    name = os.fsdecode(b"train/a/caf\xe9.png")
    Image.new("L", (4, 3)).save(folders / "ok.png")
    os.rename(folders / "ok.png", folders / name)
    with pytest.raises(ValueError, match=r"the name 'train/a/caf\\udce9\.png' in .* is not UTF-8: rename the file"):
        ImageFolder(folders, "train")
