"""DICOM files as 8-bit images: the gray values that a viewer shows with the file's own window."""

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

    Gray values go through the modality LUT or rescale, then through the first VOI LUT or, without one, the first
    window (DICOM PS3.3 C.11.1 and C.11.2; LINEAR, LINEAR_EXACT or SIGMOID), whose output range becomes 0 to 255. A
    file without either shows what it stores: all values that its bits allow where they are 8 or fewer, else from the
    lowest to the highest value of the image. MONOCHROME1 is inverted. Colours are scaled by their number of bits.

    Args:
        path: The file.

    Returns:
        Image of mode `L`, or `RGB` for colour and palettes.

    Raises:
        ImportError: pydicom is missing.
        FileNotFoundError: There is no such file.
        ValueError: Not DICOM, no image, several frames, a photometric interpretation that is not among these, broken
            or in a transfer syntax that no installed decoder knows; the message names the file.
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
    from pydicom.pixels import apply_color_lut, pixel_array

    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise ValueError("the file holds no image")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ValueError(f"the file has {frames} frames; save each as a file of its own")
    kind = dataset.get("PhotometricInterpretation")
    if kind not in (*GRAY, *COLOUR, "PALETTE COLOR"):
        raise ValueError(f"photometric interpretation {kind!r} is not supported")
    stored = pixel_array(dataset)  # YCbCr becomes RGB here
    if kind in GRAY:
        shown = _gray(stored, dataset)
        return _to_image(1 - shown if kind == "MONOCHROME1" else shown)
    bits = dataset.BitsStored
    if kind == "PALETTE COLOR":
        stored, bits = apply_color_lut(stored, dataset), dataset.RedPaletteColorLookupTableDescriptor[2]
    return _to_image(stored / (2**bits - 1))


def _gray(stored: np.ndarray, dataset: "pydicom.Dataset") -> np.ndarray:
    """Return what is shown of stored values, in [0, 1]."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    values = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        # Tables are looked up by whole numbers; a rescale by 1 and 0 makes floats of them.
        return apply_voi(np.rint(values).astype(np.int64), dataset) / (2 ** table.LUTDescriptor[2] - 1)
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        center, width = (float(np.atleast_1d(dataset[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
        return _window(values, center, width, dataset.get("VOILUTFunction") or "LINEAR")
    bits = dataset.get("BitsStored", 32)
    if bits <= 8:
        lowest = -(2 ** (bits - 1)) if dataset.PixelRepresentation else 0
        ends = apply_modality_lut(np.array([lowest, lowest + 2**bits - 1]), dataset)
    else:
        ends = values
    low, high = float(ends.min()), float(ends.max())
    return (values - low) / (high - low or 1)


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Apply a window, to [0, 1]; pydicom's has the output range of the stored values, which it does not return."""
    if width < 1 if function == "LINEAR" else width <= 0:
        raise ValueError(f"window width {width:g} is too small for {function}")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        raise ValueError(f"VOI LUT function {function!r} is not supported")
    if width == 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _to_image(shown: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(shown * 255).clip(0, 255).astype(np.uint8))
