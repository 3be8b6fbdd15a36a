import os
import shutil
import struct

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from ols.data.sources import files
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


def test_folders_take_what_csvs_may_name_in_any_case(folders):
    source = folders / "train" / "a" / "image.png"
    for ending in ("PNG", "jpeg", "gif", "jp2", "avif", "TIF"):
        Image.open(source).save(source.with_name(f"other.{ending}"))
    (source.parent / "notes.txt").write_text("no image")
    found = ImageFolder(folders, "train")
    assert found.targets.tolist() == [0] * 7 + [1]
    assert {np.asarray(found.read(index)).shape for index in range(7)} == {(3, 4)}


def test_class_folders_may_hold_dicom_files(folders):
    shutil.copy(get_testdata_file("CT_small.dcm", download=False), folders / "train" / "a" / "scan.DCM")
    found = ImageFolder(folders, "train")
    assert found.sample_id(1) == "train/a/scan.DCM"
    assert np.asarray(found.read(1)).shape == (128, 128)


def test_a_class_of_training_without_images_is_refused(folders):
    (folders / "train" / "c").mkdir()
    (folders / "train" / "c" / "scan.nii").write_bytes(b"of another kind")
    with pytest.raises(FileNotFoundError, match=r"train/c has no image \(a name that ends in \.jpg"):
        ImageFolder(folders, "train")
    (folders / "train" / "c" / "scan.nii").unlink()
    (folders / "train" / "c").rmdir()
    (folders / "test" / "a" / "image.png").unlink()  # a small split may lack a class
    assert ImageFolder(folders, "test").targets.tolist() == [1]


def test_a_class_folder_whose_name_ends_in_a_space_is_refused(folders):
    (folders / "train" / "b ").mkdir()
    with pytest.raises(ValueError, match="class folder 'b ' begins or ends with a space"):
        ImageFolder(folders, "train")


def test_links_to_images_and_folders_are_followed_and_those_in_a_circle_refused(folders, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    Image.new("L", (4, 3)).save(elsewhere / "far.png")
    (folders / "train/a/linked").symlink_to(elsewhere)
    (folders / "train/b/linked.png").symlink_to(elsewhere / "far.png")
    source = ImageFolder(folders, "train")
    names = [source.sample_id(index) for index in range(len(source))]
    assert names == [f"train/{name}" for name in ("a/image.png", "a/linked/far.png", "b/image.png", "b/linked.png")]
    (elsewhere / "back").symlink_to(folders / "train")  # a circle of two links
    with pytest.raises(ValueError, match=r"back/a is a link|back/a/linked is a link|linked/back.* is a link"):
        ImageFolder(folders, "train")


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp", "avif"])
def test_a_file_of_several_frames_is_refused_rather_than_its_first_taken(tmp_path, suffix):
    frames = [Image.new("L", (8, 6), level) for level in (10, 200, 90)]
    frames[0].save(tmp_path / f"stack.{suffix}", save_all=True, append_images=frames[1:])
    source = ImageFiles(tmp_path, [f"stack.{suffix}"], np.zeros(1, np.int64), in_chans=1)
    with pytest.raises(ValueError, match=rf"cannot read .*stack\.{suffix}: the file has 3 frames; save each as a file"):
        source.read(0)


def test_the_second_view_of_a_camera_is_left_out(tmp_path):
    views = [Image.new("L", (8, 6), level) for level in (10, 200)]
    views[0].save(tmp_path / "photo.jpg", format="MPO", save_all=True, append_images=views[1:])
    image = ImageFiles(tmp_path, ["photo.jpg"], np.zeros(1, np.int64), in_chans=1).read(0)
    assert abs(np.asarray(image, int) - 10).max() < 3


def test_whatever_a_decoder_raises_names_the_file_but_a_missing_package_is_no_broken_file(tmp_path, monkeypatch):
    Image.new("L", (4, 3)).save(tmp_path / "image.png")
    source = ImageFiles(tmp_path, ["image.png"], np.zeros(1, np.int64), in_chans=1)

    def fail(error):
        raise error

    for error in (RuntimeError("bad item"), IndexError("out"), struct.error("short"), AssertionError()):
        monkeypatch.setattr(files, "open_image", lambda path, error=error: fail(error))
        with pytest.raises(ValueError, match=r"sample 0: cannot read .*image\.png"):
            source.read(0)
    for error in (ImportError("pydicom"), MemoryError()):
        monkeypatch.setattr(files, "open_image", lambda path, error=error: fail(error))
        with pytest.raises(type(error)):
            source.read(0)


def test_an_image_of_another_size_in_bytes_or_a_missing_one_is_another_content_and_a_copy_is_not(folders, tmp_path):
    def content(root):
        return ImageFolder(root, "train").content()

    copy = tmp_path.with_name(f"{tmp_path.name}-copy")
    shutil.copytree(folders, copy, copy_function=shutil.copy)  # with other times
    before = content(folders)
    assert before.startswith("2 files of sizes ")
    assert content(copy) == before
    source = ImageFolder(copy, "train")
    (copy / "train/a/image.png").write_bytes(b"longer" * 99)
    larger = content(copy)
    (copy / "train/a/image.png").unlink()
    assert len({before, larger, source.content()}) == 3


def test_of_very_many_files_the_same_4096_are_looked_at(tmp_path):
    names = [f"{number}.png" for number in range(5000)]
    source = ImageFiles(tmp_path, names, np.zeros(5000, np.int64), in_chans=1)
    before = source.content()
    assert source.content() == before
    noticed = 0
    for name in names[:60]:
        (tmp_path / name).write_bytes(b"there")
        noticed += source.content() != before
        (tmp_path / name).unlink()
    assert 40 <= noticed < 59  # 4,096 of 5,000 are 82 %, within three standard deviations of 60
