import socket

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from ols.audit import audit
from ols.data.sources.dicom import read_dicom
from ols.data.sources.radimagenet import RadImageNet

# pydicom says by warnings what its own damaged samples lack
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError(f"the network was used: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def _sample(name: str) -> str:
    """Return a file that the pydicom wheel ships."""
    path = get_testdata_file(name, download=False)
    assert path is not None, f"{name} is not in the wheel"
    return path


def _bytes(shown: np.ndarray) -> np.ndarray:
    return np.floor(np.clip(shown, 0, 1) * 255 + 0.5).astype(np.uint8)


def _pixels(path) -> np.ndarray:
    return np.asarray(read_dicom(path))


def test_ct_without_a_window_runs_from_its_lowest_to_its_highest_value():
    path = _sample("CT_small.dcm")
    stored = pydicom.dcmread(path).pixel_array.astype(float)
    assert (stored.min(), stored.max()) == (128, 2191)
    assert np.array_equal(_pixels(path), _bytes((stored - 128) / (2191 - 128)))


@pytest.mark.parametrize(
    "name",
    ["MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_RLE.dcm", "MR_small_padded.dcm"],
)
def test_mr_is_shown_in_its_window_in_every_byte_order_and_compression(name):
    path = _sample(name)
    stored = pydicom.dcmread(_sample("MR_small.dcm")).pixel_array.astype(float)
    # its header: Window Center 600, Window Width 1600
    assert np.array_equal(_pixels(path), _bytes((stored - 599.5) / 1599 + 0.5))


def test_jpeg_2000_is_decoded():
    path = _sample("MR_small_jp2klossless.dcm")
    assert np.array_equal(_pixels(path), _pixels(_sample("MR_small.dcm")))


@pytest.mark.parametrize("name", ["SC_rgb_small_odd.dcm", "SC_rgb_rle.dcm", "examples_rgb_color.dcm"])
def test_8_bit_colour_is_what_is_stored(name):
    image = read_dicom(_sample(name))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), pydicom.dcmread(_sample(name)).pixel_array)


@pytest.mark.parametrize(("name", "bits"), [("SC_rgb_rle_16bit.dcm", 16), ("SC_rgb_rle_32bit.dcm", 32)])
def test_deep_colour_is_scaled_by_its_bits(name, bits):
    stored = pydicom.dcmread(_sample(name)).pixel_array.astype(float)
    assert stored.max() > 255
    assert np.array_equal(_pixels(_sample(name)), _bytes(stored / (2**bits - 1)))


def test_ybr_becomes_rgb():
    path = _sample("SC_ybr_full_422_uncompressed.dcm")
    ybr = np.asarray(pydicom.pixels.pixel_array(path, raw=True), float)
    y, cb, cr = ybr[..., 0], ybr[..., 1] - 128, ybr[..., 2] - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    assert read_dicom(path).mode == "RGB"
    assert np.abs(_pixels(path) - rgb.clip(0, 255)).max() <= 1.01


def test_a_palette_is_looked_up():
    path = _sample("examples_palette.dcm")
    dataset = pydicom.dcmread(path)
    tables = [np.frombuffer(dataset[f"{c}PaletteColorLookupTableData"].value, "<u2") for c in ("Red", "Green", "Blue")]
    assert dataset.RedPaletteColorLookupTableDescriptor == [256, 0, 16]
    expected = np.stack([table[dataset.pixel_array] for table in tables], -1) / 65535
    assert np.array_equal(_pixels(path), _bytes(expected))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("examples_ybr_color.dcm", r"examples_ybr_color\.dcm .*has 30 frames"),
        ("rtdose.dcm", r"rtdose\.dcm .*has 15 frames"),
        ("rtplan.dcm", r"rtplan\.dcm .*holds no image"),
        ("MR_truncated.dcm", r"MR_truncated\.dcm \(Explicit VR Little Endian\): .*8130 vs 8192"),
        (
            "MR_small_jpeg_ls_lossless.dcm",
            r"MR_small_jpeg_ls_lossless\.dcm \(JPEG-LS Lossless Image Compression\): Unable",
        ),
        ("SC_rgb_jpeg_gdcm.dcm", r"SC_rgb_jpeg_gdcm\.dcm \(JPEG Lossless, Non-Hier.*Unable"),
        ("README.txt", r"README\.txt is not a DICOM file"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name_and_syntax(name, message):
    with pytest.raises(ValueError, match=message):
        read_dicom(_sample(name))


def _write(path, stored: np.ndarray, kind: str = "MONOCHROME2", bits: int | None = None, **elements):
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, kind
    dataset.BitsAllocated = 8 * stored.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


HOUNSFIELD = np.array([[-2000, -1024, -160, -159], [-60, 40, 239, 240]], np.int16)


@pytest.mark.parametrize(
    ("function", "shown"),
    [
        # centre 40, width 400: PS3.3 C.11.2.1.2.1, from -160 (still 0) to 239 (1), 399 steps
        ("LINEAR", [[0, 0, 0, 1 / 399], [100 / 399, 200 / 399, 1, 1]]),
        # C.11.2.1.3.2, from -160 to 240, 400 steps
        ("LINEAR_EXACT", [[0, 0, 0, 1 / 400], [100 / 400, 200 / 400, 399 / 400, 1]]),
        # C.11.2.1.3.1: logistic of 4 (x - 40) / 400; e ** 2 = 7.389056, e ** 1 = 2.718282
        ("SIGMOID", [[0, 0, 0.119203, 0.120256], [0.268941, 0.5, 0.879744, 0.880797]]),
    ],
)
@pytest.mark.parametrize("slope", [1, 0.5])
def test_the_first_window_is_applied_after_the_rescale(tmp_path, function, shown, slope):
    stored = ((HOUNSFIELD + 2000) / slope).astype(np.int16)
    rescale = {"RescaleSlope": slope, "RescaleIntercept": -2000}
    window = {"WindowCenter": [40, 500], "WindowWidth": [400, 7], "VOILUTFunction": function}
    assert np.array_equal(_pixels(_write(tmp_path / "a.dcm", stored, **rescale, **window)), _bytes(np.array(shown)))


def test_windows_are_those_of_pydicom(tmp_path):
    stored = np.random.default_rng(0).integers(-3000, 3000, (40, 50)).astype(np.int16)
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        for center, width in ((40, 400), (-600.5, 1500), (0, 2)):
            path = _write(tmp_path / "a.dcm", stored, WindowCenter=center, WindowWidth=width, VOILUTFunction=function)
            with np.errstate(over="ignore"):
                theirs = pydicom.pixels.apply_windowing(stored, pydicom.dcmread(path))  # in [-32768, 32767]
            assert np.abs(_pixels(path) - (theirs + 32768) / 65535 * 255).max() <= 0.5 + 1e-6


def test_monochrome1_is_inverted(tmp_path):
    stored = np.array([[0, 10], [200, 255]], np.uint8)
    assert _pixels(_write(tmp_path / "a.dcm", stored, "MONOCHROME1")).tolist() == [[255, 245], [55, 0]]


def test_8_bits_without_a_window_are_not_stretched(tmp_path):
    stored = np.array([[100, 120], [130, 140]], np.uint8)
    assert np.array_equal(_pixels(_write(tmp_path / "a.dcm", stored)), stored)
    rescaled = _write(tmp_path / "b.dcm", stored, RescaleSlope=3, RescaleIntercept=-7)
    assert np.array_equal(_pixels(rescaled), stored)
    assert _pixels(_write(tmp_path / "c.dcm", stored // 10, bits=4)).tolist() == [[170, 204], [221, 238]]


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_16_bits_without_a_window_are_stretched_also_where_signed(tmp_path, dtype):
    low = 0 if dtype is np.uint16 else -32768
    stored = (np.array([[0, 257 * 13], [257 * 200, 65535]]) + low).astype(dtype)
    assert _pixels(_write(tmp_path / "a.dcm", stored)).tolist() == [[0, 13], [200, 255]]


def test_an_image_of_one_value_is_black(tmp_path):
    assert _pixels(_write(tmp_path / "a.dcm", np.full((2, 2), 700, np.uint16))).tolist() == [[0, 0], [0, 0]]


def test_lookup_tables_replace_rescale_and_window(tmp_path):
    def table(first: int, bits: int, values: list[int]) -> pydicom.Dataset:
        item = pydicom.Dataset()
        item.LUTDescriptor, item.LUTData = [len(values), first, bits], values
        item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "US"
        return item

    stored = np.array([[0, 1], [2, 3]], np.uint16)
    modality = table(0, 16, [3, 2, 1, 0])
    modality.ModalityLUTType = "US"
    voi = table(1, 8, [10, 90, 250])  # of 1, 2, 3; below as 1
    path = _write(
        tmp_path / "a.dcm", stored, ModalityLUTSequence=[modality], VOILUTSequence=[voi], WindowCenter=1, WindowWidth=2
    )
    assert _pixels(path).tolist() == [[250, 90], [10, 10]]


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"WindowCenter": 1, "WindowWidth": 0}, r"a\.dcm .*window width 0 is too small for LINEAR"),
        ({"WindowCenter": 1, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, r"a\.dcm .*function 'CUBIC'"),
        ({"PhotometricInterpretation": "CMYK"}, r"a\.dcm .*photometric interpretation 'CMYK' is not supported"),
        ({"NumberOfFrames": 3}, r"a\.dcm .*has 3 frames"),
    ],
)
def test_bad_headers_are_named(tmp_path, elements, message):
    with pytest.raises(ValueError, match=message):
        read_dicom(_write(tmp_path / "a.dcm", np.zeros((2, 2), np.uint8), **elements))


@pytest.mark.parametrize(("in_chans", "mode"), [(1, "L"), (3, "RGB")])
def test_csvs_may_name_dicom_files_and_the_audit_reads_them(tree, tmp_path, in_chans, mode):
    folder = tree.root / "radiology_ai" / "CT" / "abd" / "normal"
    folder.mkdir(parents=True, exist_ok=True)
    stored = np.arange(400, dtype=np.uint16).reshape(16, 25)
    _write(folder / "first.DCM", stored)
    _write(folder / "cut.dcm", stored)
    (folder / "cut.dcm").write_bytes((folder / "cut.dcm").read_bytes()[:-100])
    for name in ("first.DCM", "cut.dcm"):
        tree.rows["train"].append((f"radiology_ai/CT/abd/normal/{name}", "ct-a"))
    tree.write_csvs()
    data = RadImageNet(tree.root, "train", in_chans=in_chans)
    image = data.read(len(data) - 2)
    assert (image.mode, image.size) == (mode, (25, 16))
    assert np.array_equal(np.asarray(image.convert("L")), _bytes(stored / 399))
    with pytest.raises(
        ValueError, match=r"RadiologyAI_train\.csv, line 27: cannot read .*cut\.dcm.*bytes of pixel data"
    ):
        data.read(len(data) - 1)
    found = {finding.kind: finding for finding in audit(tree.root, log=tmp_path / "log", workers=1).findings}
    assert [item["rows"][0]["filename"] for item in found["unreadable"].items] == [
        f"{folder.relative_to(tree.root)}/cut.dcm"
    ]


def test_without_pydicom_the_message_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(ImportError, match=r"pip install 'online-label-smoothing\[dicom\]'"):
        read_dicom(tmp_path / "a.dcm")
