import itertools
import shutil
import socket
import subprocess

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)

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
        ("badVR.dcm", r"badVR\.dcm .*NumberOfFrames is not a number: .*'1A'"),
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


def _write(path, stored: np.ndarray, kind="MONOCHROME2", bits=None, syntax=ExplicitVRLittleEndian, **elements):
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, kind
    dataset.BitsAllocated = 8 * stored.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    pixels = stored.astype(stored.dtype.newbyteorder("<" if syntax.is_little_endian else ">")).tobytes()
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    for name, value in elements.items():
        if isinstance(value, pydicom.DataElement):
            dataset.add(value)
        else:
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
        ({"WindowCenter": 1, "WindowWidth": 0}, r"a\.dcm .*WindowWidth 0 is too small for LINEAR"),
        ({"WindowCenter": 1, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, r"a\.dcm .*VOILUTFunction 'CUBIC'"),
        ({"PhotometricInterpretation": "CMYK"}, r"a\.dcm .*photometric interpretation 'CMYK' is not supported"),
        ({"NumberOfFrames": 3}, r"a\.dcm .*has 3 frames"),
    ],
)
def test_bad_headers_are_named(tmp_path, elements, message):
    with pytest.raises(ValueError, match=message):
        read_dicom(_write(tmp_path / "a.dcm", np.zeros((2, 2), np.uint8), **elements))


# --- Tables: one entry for every value, the first and the last for those outside (PS3.3 C.11.1.1.1, C.11.2.1.1) -------

FORMS = ("US", "OW", "packed")  # numbers; 16-bit words; two 8-bit entries in a word, the lower byte first


def _table(entries, first: int, bits: int, form: str = "US", vr: str = "US", byteorder: str = "<") -> pydicom.Dataset:
    """Return an item of a LUT sequence."""
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", vr, [len(entries) % 65536, first, bits])
    item.add_new("LUTData", "US" if form == "US" else "OW", _table_data(entries, form, byteorder))
    item.ModalityLUTType = "US"
    return item


def _table_data(entries, form: str, byteorder: str = "<"):
    if form == "US":
        return [int(entry) for entry in entries]
    if form == "OW":
        return np.asarray(entries, byteorder + "u2").tobytes()
    words = np.append(entries, [0] * (len(entries) % 2)).reshape(-1, 2) @ [1, 256]
    return words.astype(byteorder + "u2").tobytes()


def _by_hand(values, entries, first: int, bits: int, inverted: bool = False) -> list[int]:
    """Return what is shown of values, one by one."""
    shown = []
    for value in values:
        entry = entries[min(max(int(value) - first, 0), len(entries) - 1)]
        share = entry / (2**bits - 1)
        shown.append(int((1 - share if inverted else share) * 255 + 0.5))
    return shown


def _values(dtype: str) -> np.ndarray:
    """Return values over all of a type's range, and each near the ends and near 0."""
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    near = {low, low + 1, -300, -129, -1, 0, 1, 2, 3, 4, 127, 128, 255, 256, 257, 300, 4095, 4096, high - 1, high}
    spread = np.linspace(low, high, 40).astype(np.int64).tolist()
    return np.array(sorted(v for v in {*near, *spread} if low <= v <= high)).astype(dtype)[None]


def _entries(count: int, bits: int) -> np.ndarray:
    """Return entries that neither rise nor fall, so that a wrong index is a wrong gray value."""
    return (np.arange(count, dtype=np.int64) * 40503 + 11) % 2**bits


def _whole(bits: int) -> dict:
    """Return the window that shows 0 as black and the highest value of so many bits as white: x / (2 ** bits - 1)."""
    return {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}


FIRSTS = (0, 200, 40000, -100, -30000)
COUNTS = (1, 3, 256, 4096, 65536)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("stage", ["ModalityLUTSequence", "VOILUTSequence"])
def test_every_value_has_its_entry_whatever_the_width_range_and_sign_of_a_table(tmp_path, stage, bits, dtype, kind):
    stored = _values(dtype)
    signed = dtype.startswith("i")
    for first, count, form in itertools.product(FIRSTS, COUNTS, FORMS):
        if (first < 0 and not signed) or (first >= 2**15 and signed):
            continue  # there is no such first value
        if (form == "packed" and bits > 8) or (form == "US" and count > 4096):
            continue  # an explicit length of US ends at 65,534 bytes
        entries = _entries(count, bits)
        item = _table(entries, first, bits, form, "SS" if signed else "US")
        window = _whole(bits) if stage == "ModalityLUTSequence" else {}
        path = _write(tmp_path / "a.dcm", stored, kind, **{stage: [item]}, **window)
        expected = _by_hand(stored[0], entries, first, bits, kind == "MONOCHROME1")
        assert _pixels(path)[0].tolist() == expected, (first, count, form)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize(
    ("stage", "bits"),
    [("ModalityLUTSequence", 8), ("ModalityLUTSequence", 16)] + [("VOILUTSequence", bits) for bits in (10, 12, 14, 16)],
)
def test_tables_are_those_of_pydicom_where_its_index_has_room(tmp_path, stage, bits, dtype):
    stored = _values(dtype)
    for first, count in itertools.product((0, 2, 200, -100) if dtype.startswith("i") else (0, 2, 200), (3, 256, 4096)):
        item = _table(_entries(count, bits), first, bits, "OW", "SS" if dtype.startswith("i") else "US")
        window = _whole(bits) if stage == "ModalityLUTSequence" else {}
        path = _write(tmp_path / "a.dcm", stored, **{stage: [item]}, **window)
        apply = pydicom.pixels.apply_modality_lut if window else pydicom.pixels.apply_voi
        theirs = apply(stored.astype(np.int64), pydicom.dcmread(path))
        assert np.array_equal(_pixels(path), _bytes(theirs / (2**bits - 1)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("dtype", ["uint16", "int16"])
def test_tables_are_the_same_in_every_byte_order(tmp_path, dtype, syntax, form):
    stored, vr = _values(dtype), "SS" if dtype == "int16" else "US"
    order = "<" if syntax.is_little_endian else ">"
    if syntax.is_implicit_VR and form == "US":
        form = "OW"  # what an implicit file makes of either
    for count, first in itertools.product((1, 255, 1000), (3, -9) if dtype == "int16" else (3, 50000)):
        entries = _entries(count, 8)
        item = _table(entries, first, 8, form, vr, order)
        path = _write(tmp_path / "a.dcm", stored, syntax=syntax, VOILUTSequence=[item])
        assert _pixels(path)[0].tolist() == _by_hand(stored[0], entries, first, 8)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize(("vr", "first"), [("SS", -1024), ("US", 64512)])
def test_a_tables_first_value_is_negative_where_what_is_looked_up_can_be(tmp_path, vr, first, syntax):
    # 64512 = 65536 - 1024: unsigned pixels, but HU (C.11.2.1.1: "SS if the output range ... may be signed")
    stored = np.array([[0, 1, 100, 2000, 4095]], np.uint16)
    entries = _entries(4096, 12)
    item = _table(entries, first, 12, "OW", vr)
    rescale = {"RescaleSlope": 1, "RescaleIntercept": -1024}
    path = _write(tmp_path / "a.dcm", stored, bits=12, syntax=syntax, **rescale, VOILUTSequence=[item])
    assert _pixels(path)[0].tolist() == _by_hand(stored[0], entries, 0, 12)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_a_tables_first_value_is_high_where_a_modality_table_comes_before(tmp_path, syntax):
    stored = np.array([[-2, -1, 0, 1]], np.int16)  # signed, but what a modality table gives is not
    modality = _table([39999, 40000, 40001, 65535], -2, 16, "OW", "SS")
    voi = _table([10, 20, 30], 40000, 8, "OW", "US")
    elements = {"ModalityLUTSequence": [modality], "VOILUTSequence": [voi]}
    assert _pixels(_write(tmp_path / "a.dcm", stored, syntax=syntax, **elements)).tolist() == [[10, 10, 20, 30]]


def test_rescaled_values_beyond_16_bits_are_looked_up(tmp_path):
    stored = np.array([[0, 10, 1000, 4095]], np.uint16)
    item = _table([1, 2, 3, 4], 99, 8)
    path = _write(tmp_path / "a.dcm", stored, RescaleSlope=65536, RescaleIntercept=100, VOILUTSequence=[item])
    assert _pixels(path).tolist() == [[2, 4, 4, 4]]
    path = _write(tmp_path / "a.dcm", stored, RescaleSlope="-1e30", RescaleIntercept="1e30", VOILUTSequence=[item])
    assert _pixels(path).tolist() == [[4, 1, 1, 1]]


def test_what_a_modality_table_gives_is_shown_by_its_own_bits_without_a_window(tmp_path):
    stored = np.array([[0, 1, 2, 3]], np.uint16)
    narrow = _table([50, 10, 90, 200], 0, 8)
    assert _pixels(_write(tmp_path / "a.dcm", stored, ModalityLUTSequence=[narrow])).tolist() == [[50, 10, 90, 200]]
    wide = _table([3000, 1000, 2000, 6100], 0, 16)  # from 1000 to 6100: 20 steps a gray value
    for dtype in (np.uint8, np.uint16):
        path = _write(tmp_path / "b.dcm", stored.astype(dtype), ModalityLUTSequence=[wide])
        assert _pixels(path).tolist() == [[100, 0, 50, 255]]


# --- Rescale: absent, empty, alone, of a frame ------------------------------------------------------------------------

WINDOW = {"WindowCenter": 40, "WindowWidth": 400}
CT = np.array([[0, 824, 944, 1064, 1184, 1264, 4000]], np.uint16)


def _in_window(values: np.ndarray) -> np.ndarray:
    return _bytes((values - 39.5) / 399 + 0.5)


def _item(**elements) -> pydicom.Dataset:
    item = pydicom.Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return item


RESCALES = [
    ({}, 1, 0),
    ({"RescaleSlope": None, "RescaleIntercept": None}, 1, 0),
    ({"RescaleSlope": "", "RescaleIntercept": -1024}, 1, -1024),
    ({"RescaleIntercept": -1024}, 1, -1024),
    ({"RescaleSlope": 0.25}, 0.25, 0),
    ({"RescaleSlope": 0.25, "RescaleIntercept": None}, 0.25, 0),
    ({"RescaleSlope": "0.5", "RescaleIntercept": "-400.5"}, 0.5, -400.5),
    ({"RescaleSlope": -1, "RescaleIntercept": 1100}, -1, 1100),
    ({"RescaleSlope": "1.0E+00", "RescaleIntercept": " -1024 "}, 1, -1024),
]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize(("elements", "slope", "intercept"), RESCALES)
def test_an_absent_or_empty_slope_is_1_and_an_intercept_0(tmp_path, elements, slope, intercept, syntax):
    path = _write(tmp_path / "a.dcm", CT, bits=12, syntax=syntax, **elements, **WINDOW)
    assert np.array_equal(_pixels(path), _in_window(CT * float(slope) + intercept))


def _groups(**elements) -> list[pydicom.Dataset]:
    """Return functional groups of rescale and window, as enhanced CT and MR have them."""
    rescale = {name: value for name, value in elements.items() if name.startswith("Rescale")}
    voi = {name: value for name, value in elements.items() if not name.startswith("Rescale")}
    group = pydicom.Dataset()
    if rescale:
        group.PixelValueTransformationSequence = [_item(**rescale)]
    if voi:
        group.FrameVOILUTSequence = [_item(**voi)]
    return [group]


@pytest.mark.parametrize("where", ["PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_functional_groups_say_the_same_as_the_file(tmp_path, syntax, where):
    for elements, slope, intercept in RESCALES:
        groups = {where: _groups(**elements, **WINDOW), "NumberOfFrames": 1}
        path = _write(tmp_path / "a.dcm", CT, bits=12, syntax=syntax, **groups)
        assert np.array_equal(_pixels(path), _in_window(CT * float(slope) + intercept))
    exact = _groups(WindowCenter=[2000, 1], WindowWidth=[4000, 1], VOILUTFunction="LINEAR_EXACT")
    assert np.array_equal(_pixels(_write(tmp_path / "b.dcm", CT, syntax=syntax, **{where: exact})), _bytes(CT / 4000))
    entries = _entries(4000, 8)
    item = _table(entries, 20, 8, "OW", byteorder="<" if syntax.is_little_endian else ">")
    path = _write(tmp_path / "c.dcm", CT, syntax=syntax, **{where: _groups(VOILUTSequence=[item])}, **WINDOW)
    assert _pixels(path)[0].tolist() == _by_hand(CT[0], entries, 20, 8)


def test_the_frames_group_goes_before_all_frames_and_these_before_the_file(tmp_path):
    frame, shared = _groups(RescaleIntercept=-1024), _groups(RescaleSlope=3, RescaleIntercept=7, **WINDOW)
    groups = {"PerFrameFunctionalGroupsSequence": frame, "SharedFunctionalGroupsSequence": shared}
    ignored = {"RescaleSlope": 9, "WindowCenter": 1, "WindowWidth": 2}
    assert np.array_equal(_pixels(_write(tmp_path / "a.dcm", CT, **groups, **ignored)), _in_window(CT - 1024.0))
    groups["PerFrameFunctionalGroupsSequence"] = _groups(RescaleSlope=None, WindowCenter=None, WindowWidth=None)
    assert np.array_equal(_pixels(_write(tmp_path / "b.dcm", CT, **groups, **ignored)), _in_window(CT * 3.0 + 7))
    for name in groups:
        groups[name] = [pydicom.Dataset()]
    of_file = {"RescaleIntercept": -1024, **WINDOW}
    assert np.array_equal(_pixels(_write(tmp_path / "c.dcm", CT, **groups, **of_file)), _in_window(CT - 1024.0))


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowCenter": 40},
        {"WindowWidth": 400, "WindowCenter": ""},
        {"VOILUTSequence": [], "ModalityLUTSequence": []},
    ],
)
def test_an_empty_window_or_table_is_as_good_as_none(tmp_path, elements):
    assert np.array_equal(_pixels(_write(tmp_path / "a.dcm", CT, **elements)), _bytes(CT / 4000))


def test_an_empty_window_function_is_linear_and_its_case_does_not_matter(tmp_path):
    for function in ("", None, "linear"):
        path = _write(tmp_path / "a.dcm", CT, **WINDOW, VOILUTFunction=function, RescaleIntercept=-1024)
        assert np.array_equal(_pixels(path), _in_window(CT - 1024.0))


# --- Pixels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("dtype", "bits"), [("uint16", 12), ("int16", 12), ("int16", 9), ("uint8", 7), ("int8", 6)])
def test_unused_bits_are_not_looked_at(tmp_path, dtype, bits, kind):
    signed = dtype.startswith("i")
    low = -(2 ** (bits - 1)) if signed else 0
    values = np.linspace(low, low + 2**bits - 1, 30).round().astype(np.int64)[None]
    width = 8 * np.dtype(dtype).itemsize
    shown = (values - low) / (2**bits - 1)
    expected = _bytes(1 - shown if kind == "MONOCHROME1" else shown)
    window = {"WindowCenter": low + 2 ** (bits - 1), "WindowWidth": 2**bits}
    for high in range(bits - 1, width):
        used = (values % 2**bits) << (high + 1 - bits)
        for noise in (0, -1):  # overlays lie in such bits in old files
            mask = (2**bits - 1) << (high + 1 - bits)
            stored = (used | (noise & ~mask)) % 2**width
            path = _write(tmp_path / "a.dcm", stored.astype(f"u{width // 8}"), kind, bits, HighBit=high, **window)
            dataset = pydicom.dcmread(path)
            dataset.PixelRepresentation = int(signed)
            dataset.save_as(path)
            assert np.array_equal(_pixels(path), expected), (high, noise)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_a_presentation_lut_shape_decides_what_is_inverted(tmp_path, kind):
    stored = np.array([[0, 10], [200, 255]], np.uint8)
    for shape, expected in (("IDENTITY", stored), ("INVERSE", 255 - stored)):
        assert np.array_equal(_pixels(_write(tmp_path / "a.dcm", stored, kind, PresentationLUTShape=shape)), expected)


# --- Palettes ---------------------------------------------------------------------------------------------------------


def _palette(channels, first: int, bits: int, form: str, vr: str, byteorder: str = "<") -> dict:
    elements = {}
    for colour, entries in zip(("Red", "Green", "Blue"), channels, strict=True):
        name = f"{colour}PaletteColorLookupTable"
        descriptor = [len(entries) % 65536, first, bits]
        elements[f"{name}Descriptor"] = pydicom.DataElement(f"{name}Descriptor", vr, descriptor)
        elements[f"{name}Data"] = _table_data(entries, form, byteorder)
    return elements


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize(("bits", "form"), [(8, "packed"), (8, "OW"), (12, "OW"), (16, "OW")])
def test_every_value_has_its_colour_whatever_the_width_range_and_sign_of_a_palette(tmp_path, bits, form, dtype, syntax):
    stored, signed = _values(dtype), dtype.startswith("i")
    for first, count in itertools.product((2, -100, 40000), (1, 255, 4096, 65536)):
        if (first < 0 and not signed) or (first >= 2**15 and signed):
            continue
        channels = [_entries(count, bits), _entries(count, bits)[::-1], (_entries(count, bits) + 5) % 2**bits]
        elements = _palette(channels, first, bits, form, "SS" if signed else "US", "<>"[not syntax.is_little_endian])
        image = read_dicom(_write(tmp_path / "a.dcm", stored, "PALETTE COLOR", syntax=syntax, **elements))
        assert image.mode == "RGB"
        for channel, entries in enumerate(channels):
            assert np.asarray(image)[0, :, channel].tolist() == _by_hand(stored[0], entries, first, bits)


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("bits", [8, 16])
def test_segments_of_a_palette_are_expanded(tmp_path, bits, dtype):
    stored = np.array([[0, 1, 3, 4, 5, 7, 9, 90]]).astype(dtype)
    top, vr = 2**bits - 1, "SS" if dtype == "int16" else "US"
    # C.7.9.2: a discrete segment of 2 entries, a linear one of 3 that ends at top - 20, a discrete one of 1
    segments = [0, 2, 0, top - 80, 1, 3, top - 20, 0, 1, top]
    whole = [0, top - 80, top - 60, top - 40, top - 20, top]
    elements = {}
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        elements[f"{name}Descriptor"] = pydicom.DataElement(f"{name}Descriptor", vr, [6, 2, bits])
        elements[f"Segmented{name}Data"] = np.array(segments, f"<u{bits // 8}").tobytes()
    path = _write(tmp_path / "a.dcm", stored, "PALETTE COLOR", **elements)
    expected = _by_hand(stored[0], whole, 2, bits)
    assert [_pixels(path)[0, :, channel].tolist() for channel in range(3)] == [expected] * 3


# --- dcmtk ------------------------------------------------------------------------------------------------------------

DCMTK = shutil.which("dcm2img") or shutil.which("dcm2pnm")  # its newer and its older name


def _dcmtk(path, *options: str) -> np.ndarray:
    target = path.with_suffix(".ppm")
    subprocess.run([DCMTK, "-q", *options, str(path), str(target)], check=True)
    return np.asarray(Image.open(target)).astype(int)


@pytest.mark.skipif(DCMTK is None, reason="dcmtk is missing: apt-get install dcmtk")
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_dcmtk_shows_the_same_gray_values(tmp_path, dtype, kind):
    """Up to one gray value: dcmtk does not round but cut."""
    stored, signed = _values(dtype), dtype.startswith("i")
    path, vr, edge = tmp_path / "a.dcm", "SS" if signed else "US", -100 if signed else 40000
    tables = [(8, "packed", 2, 3), (8, "US", edge, 4096), (12, "OW", 0, 300), (16, "OW", edge, 4096)]
    for bits, form, first, count in tables:
        item = _table(_entries(count, bits), first, bits, form, vr)
        _write(path, stored, kind, VOILUTSequence=[item])
        assert np.abs(_pixels(path) - _dcmtk(path, "+Wl", "1")).max() <= 1, (bits, form, first, count)
        _write(path, stored, kind, ModalityLUTSequence=[item], **_whole(bits))
        assert np.abs(_pixels(path) - _dcmtk(path, "+Wi", "1")).max() <= 1, (bits, form, first, count)
    for slope, intercept, function in itertools.product((2, -3), (-1024, 77), ("LINEAR", "SIGMOID")):
        rescale = {"RescaleSlope": slope, "RescaleIntercept": intercept, "VOILUTFunction": function}
        _write(path, stored, kind, **rescale, WindowCenter=40, WindowWidth=400)
        assert np.abs(_pixels(path) - _dcmtk(path, "+Wi", "1")).max() <= 1, (slope, intercept, function)


@pytest.mark.skipif(DCMTK is None, reason="dcmtk is missing: apt-get install dcmtk")
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_dcmtk_shows_the_same_colours(tmp_path, dtype):
    stored, vr = _values(dtype), "SS" if dtype == "int16" else "US"
    for bits, form, first, count in ((8, "packed", 0, 256), (8, "OW", 2, 4096), (16, "OW", 2, 300)):
        entries = _entries(count, bits)
        elements = _palette([entries, entries[::-1], entries], first, bits, form, vr)
        path = _write(tmp_path / "a.dcm", stored, "PALETTE COLOR", **elements)
        assert np.abs(_pixels(path) - _dcmtk(path)).max() <= 1, (bits, form, first, count)


# --- What cannot be read is named -------------------------------------------------------------------------------------


def _voi(**changes) -> dict:
    item = _table([1, 2, 3], 0, 8)
    for name, value in changes.items():
        if value is None:
            del item[name]
        else:
            item[name].value = value
    return {"VOILUTSequence": [item]}


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
        (_voi(LUTData=None), "VOILUTSequence: LUTData is missing or empty"),
        (_voi(LUTData=[]), "VOILUTSequence: LUTData is missing or empty"),
        (_voi(LUTDescriptor=None), "VOILUTSequence: LUTDescriptor is None"),
        (_voi(LUTDescriptor=[3, 0]), r"VOILUTSequence: LUTDescriptor is \[3, 0\]"),
        (_voi(LUTDescriptor=[3, 0, 0]), "VOILUTSequence: LUTDescriptor says 0 bits"),
        (_voi(LUTDescriptor=[3, 0, 17]), "VOILUTSequence: LUTDescriptor says 17 bits"),
        (_voi(LUTDescriptor=[9, 0, 8]), "VOILUTSequence: LUTData has 6 bytes, LUTDescriptor says 9 entries of 8 bits"),
        (_voi(LUTDescriptor=[0, 0, 8]), "LUTDescriptor says 65536 entries"),
        (_voi(LUTDescriptor=[5, 0, 12]), "LUTDescriptor says 5 entries of 12 bits"),
        (_voi(LUTData=[1, 2, 300]), "VOILUTSequence: LUTData has an entry 300, LUTDescriptor says 8 bits"),
        ({"ModalityLUTSequence": [_table([1, 2], 0, 16), pydicom.Dataset()][1:]}, "ModalityLUTSequence: LUTDescriptor"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "RedPaletteColorLookupTableDescriptor is None"),
        ({"PixelPresentation": "MIXED"}, "PixelPresentation MIXED"),
        ({"HighBit": 8}, "HighBit 8 does not fit 8 of 8 bits"),
        ({"HighBit": 3}, "HighBit 3 does not fit 8 of 8 bits"),
        ({"SharedFunctionalGroupsSequence": _groups(RescaleSlope=0)}, "RescaleSlope is 0"),
        ({"PerFrameFunctionalGroupsSequence": _groups(WindowCenter=1, WindowWidth=-3)}, "WindowWidth -3 is too small"),
    ],
)
def test_tables_and_rescales_that_cannot_be_applied_are_named(tmp_path, elements, message):
    path = _write(tmp_path / "odd.dcm", np.zeros((2, 2), np.uint8), **elements)
    with pytest.raises(ValueError, match=rf"odd\.dcm .*{message}"):
        read_dicom(path)


@pytest.mark.parametrize("value", ["absent", "empty"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Rows", "'Rows'"),
        ("BitsAllocated", "'Bits Allocated'"),
        ("BitsStored", "'Bits Stored'"),
        ("PixelRepresentation", "'Pixel Representation'"),
        ("SamplesPerPixel", "'Samples per Pixel'"),
        ("PhotometricInterpretation", "photometric interpretation"),
        ("PixelData", "holds no image"),
    ],
)
def test_what_an_image_must_have_is_named(tmp_path, name, message, value):
    path = _write(tmp_path / "odd.dcm", np.zeros((2, 2), np.uint8))
    dataset = pydicom.dcmread(path)
    if value == "absent":
        del dataset[name]
    else:
        dataset[name].value = None
    dataset.save_as(path)
    with pytest.raises(ValueError, match=rf"odd\.dcm .*{message}"):
        read_dicom(path)


@pytest.mark.parametrize("name", ["RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"])
@pytest.mark.parametrize("text", [b"1,25", b"nan ", b"inf ", b"\\125"])
def test_what_should_be_a_number_is_named(tmp_path, name, text):
    elements = {"WindowCenter": 1, "WindowWidth": 9, name: "7.25"}
    path = _write(tmp_path / "odd.dcm", np.zeros((2, 2), np.uint8), **elements)
    path.write_bytes(path.read_bytes().replace(b"7.25", text))
    with pytest.raises(ValueError, match=rf"odd\.dcm .*{name} is "):
        read_dicom(path)


def test_float_pixels_are_shown_and_those_that_are_not_finite_named(tmp_path):
    def write(values) -> object:
        path = _write(tmp_path / "a.dcm", np.zeros((1, 3), np.uint32))
        dataset = pydicom.dcmread(path)
        del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
        dataset.FloatPixelData = np.array([values], "<f4").tobytes()
        dataset.save_as(path)
        return path

    assert _pixels(write([-1.5, 0, 1.5])).tolist() == [[0, 128, 255]]
    with pytest.raises(ValueError, match=r"a\.dcm .*FloatPixelData .*not finite"):
        read_dicom(write([0, np.nan, 1]))


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
