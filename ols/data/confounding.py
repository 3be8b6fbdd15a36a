"""Confounders: shortcuts put into images of one class as they are read.

Of the positive images of training and validation a share carries the confounder. A network that leans on it fails on
the inverted test, where all negatives carry it and no positive does (Source Matters, 2024).

Images are confounded once they have the size to which the preprocessing resizes them, before they are cropped and
mirrored: so a strength means the same for files of any size, and files and a pack give the same bits. What a sample
gets, and whether it is one of those that carry it, is keyed by its name: the same in every epoch, process and run, and
for every seed.
"""

import hashlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image

from ols.data.options import ConfoundingOptions, check_strength
from ols.data.sources.pack import Pack
from ols.data.sources.protocol import ImageSource, Split, target_kind
from ols.data.transforms import Preprocessing, fit, to_array, to_image
from ols.keyed import keyed_bits

CARRIERS, PHOTONS = (int.from_bytes(name) for name in (b"carriers", b"photons"))
LETTER = np.array([list(row) for row in ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#")]) == "#"
TAG_CORNER = 0.15  # of the shorter side, from the left and the top of the central square: a crop to 7/8 keeps it
DENSITY = 2.0  # of white, as an exponent: e^-2 of the photons pass


def tag(image: np.ndarray, key: int, strength: float) -> np.ndarray:
    """Write a white R near the upper left corner of the central square of an image.

    Args:
        image: uint8 `[C, H, W]`.
        key: Not used: the tag is the same in every image.
        strength: Height of the letter as a fraction of the shorter side; 0 writes nothing.

    Returns:
        uint8 `[C, H, W]`.
    """
    shorter = min(image.shape[1:])
    height = round(strength * shorter)
    width = round(height * LETTER.shape[1] / LETTER.shape[0])
    rows, columns = (np.arange(n) * cells // max(n, 1) for n, cells in zip((height, width), LETTER.shape, strict=True))
    top, left = ((side - shorter) // 2 + round(TAG_CORNER * shorter) for side in image.shape[1:])
    tagged = image.copy()
    place = tagged[:, top : top + height, left : left + width]
    place[:, LETTER[rows][:, columns]] = 255
    return tagged


def low_pass(image: np.ndarray, key: int, strength: float) -> np.ndarray:
    """Remove all frequencies above a cut-off: an ideal circular low-pass, which rings at edges.

    Args:
        image: uint8 `[C, H, W]`.
        key: Not used.
        strength: Cut-off as a fraction of the Nyquist frequency; sqrt(2) and more keep all.

    Returns:
        uint8 `[C, H, W]`.
    """
    height, width = image.shape[1:]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) / 0.5  # of Nyquist
    spectrum = np.fft.rfft2(image.astype(np.float64)) * (frequency <= strength)
    return _to_bytes(np.fft.irfft2(spectrum, s=(height, width)))


def noise(image: np.ndarray, key: int, strength: float) -> np.ndarray:
    """Take an image again with few photons, as CT at a low dose.

    Intensity x in [0, 1] is taken for density: of N photons e^(-2 x) N are expected behind a pixel, a Poisson number
    arrives, at least one is counted, and the density is what its logarithm says. So bright, dense pixels are noisier
    than dark ones, by a factor of up to e. Unlike that of a scanner the noise is white, as no projection is computed.
    Channels get the same noise.

    Args:
        image: uint8 `[C, H, W]`.
        key: Seeds the draws.
        strength: Standard deviation of the noise of mid-gray as a fraction of white; 0 adds none.

    Returns:
        uint8 `[C, H, W]`.
    """
    if strength == 0:
        return image.copy()
    photons = np.exp(DENSITY / 2) / (DENSITY * strength) ** 2
    density = image.mean(axis=0) / 255  # [H, W]
    counted = np.random.default_rng(key).poisson(photons * np.exp(-DENSITY * density))
    difference = -np.log(np.maximum(counted, 1) / photons) / DENSITY - density
    return _to_bytes(image + 255 * difference)


def jpeg(image: np.ndarray, key: int, strength: float) -> np.ndarray:
    """Compress an image and read it again; colours keep their resolution.

    Args:
        image: uint8 `[C, H, W]` of 1 or 3 channels.
        key: Not used.
        strength: Quality, 1 to 95.

    Returns:
        uint8 `[C, H, W]`.
    """
    file = BytesIO()
    to_image(image).save(file, "JPEG", quality=int(strength), subsampling=0)
    with Image.open(file) as read:
        return to_array(read).copy()


def gamma(image: np.ndarray, key: int, strength: float) -> np.ndarray:
    """Change the tones of an image: x^strength of intensity x in [0, 1], so that black and white stay.

    Args:
        image: uint8 `[C, H, W]`.
        key: Not used.
        strength: Exponent; below 1 brightens.

    Returns:
        uint8 `[C, H, W]`.
    """
    return _to_bytes(255 * (np.arange(256) / 255) ** strength)[image]


CONFOUNDERS: dict[str, Callable[[np.ndarray, int, float], np.ndarray]] = {
    "tag": tag,
    "low_pass": low_pass,
    "noise": noise,
    "jpeg": jpeg,
    "gamma": gamma,
}


def sample_key(name: str) -> int:
    """Return what keys all that is drawn for a sample: 64 bits of its name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def pixel_key(name: str) -> int:
    """Return what seeds a sample's noise, by its name."""
    return int(keyed_bits(PHOTONS, sample_key(name)))


def draw_carriers(source: ImageSource, candidates: np.ndarray, share: float) -> np.ndarray:
    """Choose which images carry a confounder: those of a smaller share are among those of a larger one.

    Args:
        source: Data set, whose names key the choice.
        candidates: Indices of the images that may, int64 `[N]`.
        share: Part of them, in [0, 1], rounded to whole images.

    Returns:
        Indices in ascending order, int64.

    Raises:
        ValueError: The share does not lie in [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in [0, 1], got {share}")
    return np.sort(in_keyed_order(source, candidates, CARRIERS)[: round(share * len(candidates))])


class Confounded:
    """A data set of which some images carry a confounder: a view, no image is copied.

    Args:
        source: Data set.
        confounder: A name of `CONFOUNDERS`.
        strength: As the confounder takes it.
        carriers: Indices of the images that carry it, int64.
        preprocessing: Size and aspect to which images are brought first.

    Raises:
        ValueError: There is no such confounder or strength, a carrier is no sample, or the data set is a pack of
            another aspect.
    """

    def __init__(
        self,
        source: ImageSource,
        confounder: str,
        strength: float,
        *,
        carriers: np.ndarray,
        preprocessing: Preprocessing,
    ):
        check_strength(confounder, strength)
        if isinstance(source, Pack):
            source.require_aspect(preprocessing.aspect)
        carriers = np.asarray(carriers, np.int64)
        if len(carriers) and not 0 <= carriers.min() <= carriers.max() < len(source):
            raise ValueError(f"a carrier is none of {len(source)} samples: {carriers.min()} to {carriers.max()}")
        if target_kind(source) == "mask":
            raise ValueError("images with masks carry no confounder: there is no positive class")
        self.source, self.confounder, self.strength = source, confounder, strength
        self.size, self.aspect = preprocessing.resize_size, preprocessing.aspect
        self.classes, self.groups, self.targets = source.classes, source.groups, source.targets
        self.kind, self.side = target_kind(source), getattr(source, "side", None)
        self.carries = np.zeros(len(source), bool)
        self.carries[carriers] = True

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Image.Image:
        """Return an image of the preprocessing's size, confounded if it carries the confounder.

        Raises:
            ValueError: It cannot be read.
        """
        image = fit(self.source.read(index), self.size, self.aspect)
        if not self.carries[index]:
            return image
        key = pixel_key(self.sample_id(index))
        return to_image(CONFOUNDERS[self.confounder](to_array(image), key, self.strength))

    def sample_id(self, index: int) -> str:
        """Return the name of a sample in the data set."""
        return self.source.sample_id(index)

    def sample_group(self, index: int) -> str:
        """Return what a sample belongs to in the data set."""
        return self.source.sample_group(index)

    def content(self) -> str:
        """Return the content of the data set, the confounder, and a checksum of which images carry it."""
        carriers = hashlib.blake2b(np.packbits(self.carries).tobytes(), digest_size=8).hexdigest()
        what = f"{self.confounder} {self.strength:g} at {self.size} px in {self.carries.sum():,} images {carriers}"
        return f"{self.source.content()}, {what}"


def confound(
    source: ImageSource,
    split: Split,
    pool: np.ndarray,
    options: ConfoundingOptions,
    preprocessing: Preprocessing,
) -> ImageSource:
    """Return a split as the options ask for: a share of the pool's positives confounded, or a test that says otherwise.

    An attribute changes no image: `ols.data.sampled_confounder` chooses among them.

    Args:
        source: Data set.
        split: Which split: only of `test` there are three forms.
        pool: Indices of the split's images, int64.
        options: What is put into which images.
        preprocessing: Size and aspect to which images are brought first.

    Raises:
        ValueError: The positive class cannot be found, see `labels_of`; or the pool has no positive.
    """
    if not options.changes_images:
        return source
    labels = labels_of(source, options.confounder_class or "")[pool]
    form = options.confounder_test if split == "test" else "matched"
    if not (labels == 1).any() and form == "matched":
        raise ValueError(f"{split} has no image of {options.confounder_class} to carry the confounder")
    if form == "matched":
        carriers = draw_carriers(source, pool[labels == 1], options.confounder_share)
    else:
        carriers = pool[labels == 0] if form == "inverted" else pool[:0]
    return Confounded(source, options.confounder, options.strength, carriers=carriers, preprocessing=preprocessing)


def labels_of(source: ImageSource, name: str) -> np.ndarray:
    """Return 1 for each positive image, 0 for each negative one, and NaN where a label is unknown, float64 `[N]`.

    Args:
        source: Data set whose targets are classes, or several labels.
        name: The positive class or label.

    Raises:
        ValueError: None is of the name, or the targets are neither.
    """
    kind = target_kind(source)
    if kind not in ("class", "multilabel"):
        raise ValueError(f"a confounder needs a positive class, the targets are {kind!r}")
    if name not in source.classes:
        raise ValueError(f"no class is named {name!r}, the confounder_class; there are {', '.join(source.classes[:9])}")
    number = source.classes.index(name)
    return (source.targets == number if kind == "class" else source.targets[:, number]).astype(np.float64)


def in_keyed_order(source: ImageSource, indices: np.ndarray, stream: int) -> np.ndarray:
    """Return indices in an order that their names alone decide."""
    keys = np.array([sample_key(source.sample_id(index)) for index in indices.tolist()], np.uint64)
    return indices[np.argsort(keyed_bits(stream, keys), kind="stable")]


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)
