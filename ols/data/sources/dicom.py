"""DICOM files as 8-bit images: the gray values that a viewer shows with the file's own window.

Every table of a file (modality LUT, VOI LUT, palette) is read by `_table` and applied by `_look_up`, every rescale and
window is read by `_number`, so that each can go wrong in one place only. pydicom decodes the pixels and the segments of
segmented palettes. Its own functions for tables (3.0.2) are not used: they hold an index in as many bits as an entry or
a pixel has (4,096 entries of 8 bits are looked up modulo 256), read no modality LUT of 9 to 15 bits, no two 8-bit
entries in one word and no big-endian palette, and leave out an intercept that has no slope.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import pydicom

GRAY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")


def read_dicom(path: str | Path) -> Image.Image:
    """Read a DICOM file of one frame.

    Gray values go through the modality LUT or, without one, the rescale, then through the first VOI LUT or, without
    one, the first window (DICOM PS3.3 C.11.1 and C.11.2; LINEAR, LINEAR_EXACT or SIGMOID), whose output range becomes
    0 to 255. Rescale, window and VOI LUT are those of the frame's functional group, else of all frames', else of the
    file. An empty attribute is as good as an absent one: a slope is then 1, an intercept 0, and a window needs both
    its center and its width. Without VOI LUT and window the values are shown as they are: all that their bits allow
    where these are 8 or fewer, else from the lowest to the highest value of the image. MONOCHROME1 is inverted; a
    Presentation LUT Shape, where there is one, decides instead, as in dcmtk. Colours are scaled by their number of
    bits, palettes by that of their entries.

    Args:
        path: The file.

    Returns:
        Image of mode `L`, or `RGB` for colour and palettes.

    Raises:
        ImportError: pydicom is missing.
        FileNotFoundError: There is no such file.
        ValueError: Not DICOM, no image, several frames, a photometric interpretation that is not among these, a table,
            rescale or window that cannot be applied as it stands, broken or in a transfer syntax that no installed
            decoder knows; the message names the file and, where one attribute is to blame, the attribute.
    """
    try:
        import pydicom
    except ImportError as error:
        raise ImportError("DICOM files need pydicom: pip install 'online-label-smoothing[dicom]'") from error
    try:
        dataset = pydicom.dcmread(path)
    except pydicom.errors.InvalidDicomError as error:
        raise ValueError(f"{path} is not a DICOM file") from error
    try:
        return _decode(dataset)
    except Exception as error:  # decoders of many packages, each with errors of its own
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        raise ValueError(f"{path} ({syntax.name if syntax else 'no transfer syntax'}): {error}") from error


def _decode(dataset: "pydicom.Dataset") -> Image.Image:
    if not any(dataset.get(name) for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ValueError("the file holds no image")
    frames = int(_number(dataset, "NumberOfFrames") or 1)
    if frames > 1:
        raise ValueError(f"the file has {frames} frames; save each as a file of its own")
    kind = dataset.get("PhotometricInterpretation")
    if kind not in (*GRAY, *COLOUR, "PALETTE COLOR"):
        raise ValueError(f"photometric interpretation {kind!r} is not supported")
    stored = _stored(dataset)
    if kind == "PALETTE COLOR":
        return _to_image(_palette(stored, dataset))
    if kind in COLOUR:
        return _to_image(stored / (2**dataset.BitsStored - 1))
    if dataset.get("PixelPresentation") in ("COLOR", "MIXED"):
        raise ValueError(f"PixelPresentation {dataset.PixelPresentation} (gray with a palette) is not supported")
    shown = _gray(stored, dataset)
    shape = dataset.get("PresentationLUTShape") or ("INVERSE" if kind == "MONOCHROME1" else "IDENTITY")
    return _to_image(1 - shown if shape == "INVERSE" else shown)


def _stored(dataset: "pydicom.Dataset") -> np.ndarray:
    """Return the pixels in the type that they are stored in; YCbCr becomes RGB here."""
    from pydicom.pixels import pixel_array

    if "PixelData" not in dataset:
        stored = pixel_array(dataset)
        if not np.isfinite(stored).all():
            raise ValueError("FloatPixelData or DoubleFloatPixelData holds values that are not finite")
        return stored
    # pydicom takes the lowest BitsStored bits, wherever HighBit says that they lie.
    bits, high = dataset.get("BitsStored"), dataset.get("HighBit")
    unused = 0 if bits is None or high is None else high + 1 - bits
    if unused == 0:
        return pixel_array(dataset)
    if not 0 < unused <= dataset.BitsAllocated - bits:
        raise ValueError(f"HighBit {high} does not fit {bits} of {dataset.BitsAllocated} bits")
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        raise ValueError(f"HighBit {high} with BitsStored {bits} is not supported in compressed files")
    dataset.BitsStored = bits + unused
    stored = pixel_array(dataset) >> unused
    dataset.BitsStored = bits
    return stored


def _gray(stored: np.ndarray, dataset: "pydicom.Dataset") -> np.ndarray:
    """Return what is shown of stored values, in [0, 1]."""
    values, bits, lowest, highest = _modality(stored, dataset)
    voi = _group(dataset, "FrameVOILUTSequence", ("VOILUTSequence", "WindowCenter", "WindowWidth"))
    if voi.get("VOILUTSequence"):
        entries, first, bits = _lut(dataset, voi, "VOILUTSequence", signed=lowest < 0)
        return _look_up(values, entries, first) / (2**bits - 1)
    center, width = _number(voi, "WindowCenter"), _number(voi, "WindowWidth")
    if center is not None and width is not None:
        return _window(values, center, width, (voi.get("VOILUTFunction") or "LINEAR").upper())
    if bits > 8:
        lowest, highest = float(values.min()), float(values.max())
    return (values - lowest) / (highest - lowest or 1)


def _modality(stored: np.ndarray, dataset: "pydicom.Dataset") -> tuple[np.ndarray, int, float, float]:
    """Return the values that a window is for, their bits, and the lowest and the highest one that there can be."""
    if stored.dtype.kind == "f":
        bits, ends = 8 * stored.itemsize, np.array([stored.min(), stored.max()])
    else:
        bits = dataset.BitsStored
        lowest = -(2 ** (bits - 1)) if dataset.PixelRepresentation else 0
        ends = np.array([lowest, lowest + 2**bits - 1])
    if dataset.get("ModalityLUTSequence"):
        entries, first, bits = _lut(dataset, dataset, "ModalityLUTSequence", signed=ends[0] < 0)
        return _look_up(stored, entries, first), bits, 0, 2**bits - 1
    group = _group(dataset, "PixelValueTransformationSequence", ("RescaleSlope", "RescaleIntercept"))
    slope, intercept = _number(group, "RescaleSlope"), _number(group, "RescaleIntercept")
    if slope == 0:
        raise ValueError("RescaleSlope is 0, which makes all pixels equal")
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    lowest, highest = sorted(float(end) * slope + intercept for end in ends)
    return stored.astype(np.float64) * slope + intercept, bits, lowest, highest


def _group(dataset: "pydicom.Dataset", macro: str, names: tuple[str, ...]) -> "pydicom.Dataset":
    """Return what holds any of the attributes: the frame's functional group, all frames' one, or else the file."""
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for frame in (dataset.get(groups) or [])[:1]:
            for item in (frame.get(macro) or [])[:1]:
                if any(name in item and not item[name].is_empty for name in names):
                    return item
    return dataset


def _number(source: "pydicom.Dataset", name: str) -> float | None:
    """Return an attribute's first number (of several windows the first counts), or None where it is absent or empty."""
    try:
        if name not in source or source[name].is_empty:
            return None
        number = float(np.atleast_1d(source[name].value)[0])
    except Exception as error:  # pydicom reads a value only now
        raise ValueError(f"{name} is not a number: {error}") from error
    if not np.isfinite(number):
        raise ValueError(f"{name} is {number}")
    return number


def _lut(
    dataset: "pydicom.Dataset", source: "pydicom.Dataset", sequence: str, signed: bool
) -> tuple[np.ndarray, int, int]:
    try:
        return _table(dataset, source[sequence].value[0], "LUTDescriptor", "LUTData", signed)
    except Exception as error:  # pydicom reads a value only now
        raise ValueError(f"{sequence}: {error}") from error


def _descriptor(dataset: "pydicom.Dataset", source: "pydicom.Dataset", name: str, signed: bool) -> tuple[int, int, int]:
    """Return a table's number of entries, the value that its first entry is for, and the bits of an entry."""
    value = source.get(name)
    try:
        count, first, bits = (int(number) for number in value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {value}, not three whole numbers") from error
    # US or SS, by whether what is looked up can be negative (PS3.3 C.11.2.1.1): some files say US all the same, and in
    # implicit files pydicom goes by the stored pixels, though what is looked up may have been rescaled.
    if signed and first >= 2**15:
        first -= 2**16
    elif not signed and first < 0 and dataset.original_encoding[0]:
        first += 2**16
    if not 1 <= bits <= 16:
        raise ValueError(f"{name} says {bits} bits per entry, not 1 to 16")
    return count % 2**16 or 2**16, first, bits


def _table(
    dataset: "pydicom.Dataset", source: "pydicom.Dataset", descriptor: str, data: str, signed: bool
) -> tuple[np.ndarray, int, int]:
    """Read a table as PS3.3 C.11.1.1 and C.7.6.3.1.5 write it.

    Args:
        dataset: The file, for its byte order.
        source: What holds the table.
        descriptor: Name of the attribute with the number of entries, the first value and the bits.
        data: Name of the attribute with the entries.
        signed: What is looked up can be negative.

    Returns:
        The entries, the value that the first one is for, and the number of bits that they fill.
    """
    count, first, bits = _descriptor(dataset, source, descriptor, signed)
    if data not in source or source[data].is_empty:
        raise ValueError(f"{data} is missing or empty")
    value = source[data].value
    if isinstance(value, bytes):  # OW: words in the file's byte order
        padded = value + b"\0" * (len(value) % 2)
        value = np.frombuffer(padded, "<u2" if dataset.original_encoding[1] else ">u2")
    words = np.atleast_1d(np.asarray(value)).astype("<u2")
    if len(words) == count:
        entries = words
    elif bits <= 8 and len(words) == (count + 1) // 2:  # two in a word, the lower byte first
        entries = words.view(np.uint8)[:count]
    else:
        raise ValueError(f"{data} has {2 * len(words)} bytes, {descriptor} says {count} entries of {bits} bits")
    if entries.max() >= 2**bits:
        raise ValueError(f"{data} has an entry {entries.max()}, {descriptor} says {bits} bits")
    return entries, first, bits


def _look_up(values: np.ndarray, entries: np.ndarray, first: int) -> np.ndarray:
    """Look values up; those before a table's first value have its first entry, those behind its last the last one."""
    return entries[np.clip(np.rint(values.astype(np.float64)) - first, 0, len(entries) - 1).astype(np.intp)]


def _palette(stored: np.ndarray, dataset: "pydicom.Dataset") -> np.ndarray:
    """Return the colours of stored values, in [0, 1]."""
    signed = bool(dataset.PixelRepresentation)
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        return _segmented_palette(stored, dataset, signed)
    channels = []
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        entries, first, bits = _table(dataset, dataset, f"{name}Descriptor", f"{name}Data", signed)
        channels.append(_look_up(stored, entries, first) / (2**bits - 1))
    return np.stack(channels, axis=-1)


def _segmented_palette(stored: np.ndarray, dataset: "pydicom.Dataset", signed: bool) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    name = "RedPaletteColorLookupTableDescriptor"
    count, first, bits = _descriptor(dataset, dataset, name, signed)
    if bits not in (8, 16) or count > 2**bits or (bits == 8 and not dataset.original_encoding[1]):
        raise ValueError(f"{name} says {count} entries of {bits} bits, which is not supported in segments")
    setattr(dataset, name, [count % 2**16, 0, bits])  # pydicom's indices go from 0 to count - 1, and fit
    try:
        shown = apply_color_lut(np.clip(stored.astype(np.int64) - first, 0, count - 1), dataset)
    except Exception as error:
        raise ValueError(f"SegmentedRedPaletteColorLookupTableData, Green or Blue: {error}") from error
    return shown[..., :3] / (2**bits - 1)


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Apply a window, to [0, 1]; pydicom's has the output range of the stored values, which it does not return."""
    if width < 1 if function == "LINEAR" else width <= 0:
        raise ValueError(f"WindowWidth {width:g} is too small for {function}")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        raise ValueError(f"VOILUTFunction {function!r} is not supported")
    if width == 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _to_image(shown: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(shown * 255).clip(0, 255).astype(np.uint8))
