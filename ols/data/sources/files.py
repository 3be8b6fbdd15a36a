"""Images that lie in files, each in one of its own."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ols.data.sources.dicom import read_dicom
from ols.keyed import keyed_order

EIGHT_BIT_MODES = {"L", "LA", "RGB", "RGBA", "P", "CMYK", "YCbCr"}
ORIENTATION = 0x0112  # EXIF's tag
LOOKED_AT = 4096  # files whose sizes tell another data set from this one
CONTENT = int.from_bytes(b"content")  # keys which ones


def open_image(path: Path) -> Image.Image:
    """Open an image file of any format that Pillow knows, or a DICOM file: its name ends in `.dcm`.

    Raises:
        ValueError: It is a folder, a pipe or a device, whose reading might never end, or has several frames, of which
            none is the image; an MPO file is a JPEG with a second view behind it, which is left out.
    """
    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")
    if path.suffix.lower() == ".dcm":
        return read_dicom(path)
    image = Image.open(path)
    try:
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            raise ValueError(f"the file has {frames} frames; save each as a file of its own")
    except Exception:
        image.close()
        raise
    return image


def orientation(image: Image.Image) -> int:
    """Return how EXIF says that an image is to be turned: 1 for not at all, up to 8."""
    return image.getexif().get(ORIENTATION, 1)


def upright(image: Image.Image) -> Image.Image:
    """Return an image turned and mirrored as EXIF says and every viewer shows it.

    Raises:
        ValueError: It is an uncompressed TIFF to be turned by a quarter, which Pillow garbles.
    """
    turned = orientation(image)
    if image.format == "TIFF" and turned > 4 and image.info.get("compression") == "raw":
        raise ValueError(
            f"an uncompressed TIFF turned by EXIF orientation {turned}, which Pillow garbles: save it anew"
        )
    return ImageOps.exif_transpose(image)


class ImageFiles:
    """Images that lie in files, and what is common to the forms in which they do.

    Args:
        root: Folder that file names are relative to.
        filenames: Name of each sample, `[N]`.
        targets: Class index of each sample, int64 `[N]`.
        in_chans: 1 reads grayscale, 3 reads RGB, whatever the file holds.

    Raises:
        ValueError: `in_chans` is neither 1 nor 3, or a file has a name that is not UTF-8, which the message shows.
    """

    classes: list[str]  # [K]; the subclass fills it
    groups: list[str]  # [K]

    def __init__(self, root: str | Path, filenames: list[str], targets: np.ndarray, *, in_chans: int):
        if in_chans not in (1, 3):
            raise ValueError(f"in_chans must be 1 (grayscale) or 3 (RGB), got {in_chans}")
        self.root, self.targets = Path(root), targets
        self._mode = "L" if in_chans == 1 else "RGB"
        # A byte array: a million Python strings would be copied into every worker as their counters are touched.
        self._filenames = np.array([_as_utf8(filename, self.root) for filename in filenames])

    def __len__(self) -> int:
        return len(self.targets)

    def sample_id(self, index: int) -> str:
        """Return the file name of a sample, relative to the root: unique, and the same on every machine."""
        return self._filenames[index].decode()

    def sample_group(self, index: int) -> str:
        """Return the name of a sample: nothing is known of its patient."""
        return self.sample_id(index)

    def content(self) -> str:
        """Return a checksum of the sizes in bytes of the files: of all, or of 4,096 by chance where there are more.

        No file is opened, and no time of change is looked at, which copies do not keep. So images that were exchanged
        for others of as many bytes go unnoticed, and so may a few among many. A pack notices every pixel.
        """
        return self._content_of(self.sample_id)

    def _content_of(self, name_of: Callable[[int], str]) -> str:
        chosen = keyed_order(CONTENT, 0, len(self))[:LOOKED_AT]
        sizes = []
        for index in np.sort(chosen).tolist():
            path = self.root / name_of(index)
            sizes.append(f"{index}\t{path.stat().st_size if path.exists() else 'missing'}")
        checksum = hashlib.blake2b("\n".join(sizes).encode(), digest_size=8).hexdigest()
        return f"{len(self):,} files of sizes {checksum}"

    def read(self, index: int) -> Image.Image:
        """Read one image.

        Returns:
            An 8-bit image of mode `L` (`in_chans=1`) or `RGB` (`in_chans=3`), of the file's size.

        Raises:
            ValueError: The file cannot be decoded or is not an 8-bit image; the message names the file, and its CSV
                line where there is one.
        """
        path = self.root / self.sample_id(index)
        try:
            with open_image(path) as image:
                if image.mode not in EIGHT_BIT_MODES:
                    raise ValueError(f"mode {image.mode!r} is not 8-bit grayscale or RGB")
                return upright(image).convert(self._mode)
        except (ImportError, MemoryError):
            raise  # the machine is to blame, not the file
        except Exception as error:  # decoders of many formats, each with errors of its own
            raise ValueError(f"{self._where(index)}: cannot read {path}: {error}") from error

    def _where(self, index: int) -> str:
        """Return what asked for a sample."""
        return f"sample {index}"


def _as_utf8(filename: str, root: Path) -> bytes:
    try:
        return filename.encode()
    except UnicodeEncodeError:  # the disk's bytes are no UTF-8, and no checksum or table could hold the name
        raise ValueError(f"the name {filename!a} in {root} is not UTF-8: rename the file") from None
