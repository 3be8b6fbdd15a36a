"""From class, index and seed to pixels: anatomy, lesion, and what the machine does to the picture."""

import functools
import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ols.phantoms.anatomy import ANATOMIES, LESIONS, MARKS_PER_LESION
from ols.phantoms.classes import PHANTOM_CLASSES, PhantomClass, PhantomConfig


class _Rows(NamedTuple):
    """An anatomy as arrays over painted ellipses and boxes: a mirrored shape is two of them, a rim is one more."""

    geometry: NDArray[np.float32]  # [R, 6]: x, y, rx, ry, angle in radians, level
    inset: NDArray[np.float32]  # [R], what the half axes lose to the rim
    slot: NDArray[np.int64]  # [R], whose jitter it takes
    box: tuple[bool, ...]
    names: NDArray[np.str_]  # [R]
    is_rim: NDArray[np.bool_]  # [R]


@functools.cache
def _rows(prefix: str) -> _Rows:
    shapes = next(group.shapes for group in ANATOMIES if group.prefix == prefix)
    rows: list[tuple[tuple[float, ...], float, int, bool, str, bool]] = []
    slots: dict[tuple[str, int], int] = {}
    for _, together in itertools.groupby(enumerate(shapes), lambda item: -1 if item[1].fused else item[0]):
        rims, interiors = [], []
        for _, s in together:
            for side in (1, -1) if s.mirror else (1,):
                slot = slots[s.tied, 1] if s.tied else slots.setdefault((s.name, side), len(slots))
                geometry = (side * s.x, s.y, s.rx, s.ry, np.deg2rad(side * s.angle))
                if s.rim:
                    rims.append(((*geometry, s.rim_level), 0.0, slot, s.box, s.name, True))
                interiors.append(((*geometry, s.level), s.rim, slot, s.box, s.name, False))
        rows += rims + interiors  # a fused bone shows its cortex around the whole; other shapes come one by one
    geometries, insets, row_slots, boxes, names, is_rim = zip(*rows, strict=True)
    return _Rows(
        np.array(geometries, np.float32),
        np.array(insets, np.float32),
        np.array(row_slots),
        boxes,
        np.array(names),
        np.array(is_rim),
    )


_SLOTS = 48  # at least the shapes of any anatomy
_DRAWS = {  # name -> shape of what an image draws before its noise; the order is part of the format
    "shape": (_SLOTS, 6),
    "view": (4,),
    "warp": (2, 5, 5),
    "bias": (3, 3),
    "texture": (18, 18),
    "lesion": (4,),
    "window": (2,),
}
_SPREAD = np.array([0.014, 0.014, 0.07, 0.07, 0.05, 0.025], np.float32)  # of x, y, rx, ry, angle, level at jitter 1
POLAR = (88, 64)  # depth and angle samples of the speckle


def _draw(seed: int, indices: NDArray[np.int64], noise_shape: tuple[int, ...]) -> dict[str, NDArray[np.float32]]:
    """Standard normal numbers of each image, its noise last, so that geometry does not depend on the image size."""
    shapes = {**_DRAWS, "noise": noise_shape}
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    numbers = np.empty((len(indices), ends[-1]), dtype=np.float32)
    for row, index in zip(numbers, indices, strict=True):
        key = np.array([seed, index], dtype=np.uint64)
        np.random.Generator(np.random.Philox(key=key)).standard_normal(dtype=np.float32, out=row)
    parts = np.split(numbers, ends[:-1], axis=1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


@functools.cache
def pixel_grid(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return x and y of each pixel, from -1 at the left and the top to 1, `[size, size]` each."""
    centres = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    x, y = np.meshgrid(centres, centres)
    return x, y  # each [size, size]


@functools.cache
def _bumps(size: int, knots: int) -> NDArray[np.float32]:
    """Gaussian bumps `[size, knots]` that turn knots of white noise into a smooth field of unit variance."""
    centres = (np.arange(size) + 0.5) * 2 / size - 1
    at, step = np.linspace(-1.1, 1.1, knots, retstep=True)
    bumps = np.exp(-0.5 * ((centres[:, None] - at) / (0.7 * step)) ** 2)
    return (bumps / np.linalg.norm(bumps, axis=1, keepdims=True)).astype(np.float32)


def _matmul(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """`a @ b` in blocks of columns so small that BLAS stays in the calling thread: the threads here are ours."""
    step = max(1, 2**17 // (a.shape[-2] * a.shape[-1]))
    if b.shape[-1] <= step:
        return a @ b
    return np.concatenate([a @ b[..., i : i + step] for i in range(0, b.shape[-1], step)], axis=-1)


def smooth_field(knots: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return smooth random fields of unit variance from knots of white noise `[..., K, K]`, `[..., size, size]`."""
    bumps = _bumps(size, knots.shape[-1])
    return _matmul(bumps @ knots, bumps.T)  # [..., size, size]


def _coverage(
    coordinates: NDArray[np.float32],
    geometry: NDArray[np.float32],
    edge: NDArray[np.float32] | np.float32 | float,
    box: bool = False,
) -> NDArray[np.float32]:
    """How much of each pixel an ellipse or box covers, with a soft edge of the given width.

    Args:
        coordinates: x, y and 1 of every pixel, `[n, 3, P]`.
        geometry: x, y, rx, ry and angle of the shape in each image, `[n, >=5]`.
        edge: Width of the edge in coordinates, `[n]` or a number.
        box: Box with rounded corners instead of an ellipse.

    Returns:
        Coverage in [0, 1], `[n, P]`.
    """
    x, y, rx, ry, angle = geometry.T[:5]
    c, s = np.cos(angle), np.sin(angle)
    frame = np.stack([c / rx, s / rx, -(c * x + s * y) / rx, -s / ry, c / ry, (s * x - c * y) / ry], axis=1)
    uv = _matmul(frame.reshape(-1, 2, 3), coordinates)  # [n, 2, P]
    np.square(uv, out=uv)
    if box:
        np.square(uv, out=uv)
    covered = uv[:, 0]
    covered += uv[:, 1]
    slope = (np.minimum(rx, ry) / ((4 if box else 2) * edge))[:, None]
    covered *= -slope
    covered += slope + np.float32(0.5)
    return np.clip(covered, 0, 1, out=covered)


def _pixel_coordinates(z: dict[str, NDArray[np.float32]], size: int, jitter: np.float32) -> NDArray[np.float32]:
    """Where each pixel lies in the anatomy: rotated, scaled, shifted and smoothly warped; x, y and 1, `[n, 3, P]`."""
    x, y = pixel_grid(size)
    coordinates = np.ones((len(z["view"]), 3, size, size), dtype=np.float32)
    coordinates[:, :2] = 0.024 * jitter * smooth_field(z["warp"], size)
    view = (jitter * z["view"])[:, :, None, None]
    scale = np.exp(0.05 * view[:, 1])
    c, s = np.cos(0.06 * view[:, 0]) * scale, np.sin(0.06 * view[:, 0]) * scale
    coordinates[:, 0] += c * x + s * y + 0.03 * view[:, 2]
    coordinates[:, 1] += c * y - s * x + 0.03 * view[:, 3]
    return coordinates.reshape(len(coordinates), 3, -1)


def _paint(
    anatomy: str, classes: list[PhantomClass], z: dict[str, NDArray[np.float32]], config: PhantomConfig
) -> NDArray[np.float32]:
    """Tissue levels before the machine sees them, `[n, size, size]`."""
    n, size, jitter, rows = len(classes), config.image_size, np.float32(config.jitter), _rows(anatomy)
    coordinates = _pixel_coordinates(z, size, jitter)
    spread = z["shape"][:, rows.slot] * (jitter * _SPREAD)  # [n, R, 6]
    geometry = rows.geometry + spread
    geometry[:, :, 2:4] = rows.geometry[:, 2:4] * np.exp(spread[:, :, 2:4])

    site_rows = np.array([(rows.names == c.site) & ~rows.is_rim for c in classes])  # [n, R]
    first = site_rows.argmax(axis=1)  # of a mirrored site the side that its table gives
    lesions = [LESIONS[c.lesion] for c in classes]
    polarity = np.where(rows.geometry[first, 5] < 0.5, 1, -1)  # without jitter: it belongs to the class
    amplitude = np.float32(config.contrast) * polarity.astype(np.float32)
    for i, (c, lesion) in enumerate(zip(classes, lesions, strict=True)):
        geometry[i, rows.names == c.site, 2:4] *= np.float32(lesion.grow)
        geometry[i, site_rows[i], 5] += np.float32(lesion.shift) * amplitude[i]
    geometry[:, :, 2:4] = np.maximum(geometry[:, :, 2:4] - rows.inset[:, None], 0.008)

    edge = np.float32(max(0.02, 2 / size))  # never sharper than a pixel
    image = np.zeros((n, size * size), dtype=np.float32)
    for r, box in enumerate(rows.box):
        change = geometry[:, r, 5, None] - image
        change *= _coverage(coordinates, geometry[:, r], edge, box)
        image += change

    # The lesion moves with its jittered site and wanders within it; marks add to what lies below.
    marks = np.array([_padded_marks(c.lesion) for c in classes])  # [n, 4, 7]
    site = geometry[np.arange(n), first].T  # [6, n]: x, y, rx, ry, angle, level
    turn = site[4] + 0.15 * jitter * z["lesion"][:, 3]
    radius = np.clip(0.55 * np.sqrt(site[2] * site[3]), 0.10, 0.17) * np.exp(0.12 * jitter * z["lesion"][:, 2])
    wander = 0.35 * np.tanh(jitter * z["lesion"][:, :2])
    centre = site[0] + 1j * site[1] + (wander[:, 0] * site[2] + 1j * wander[:, 1] * site[3]) * np.exp(1j * site[4])
    for dx, dy, rx, ry, angle, weight, softness in marks.transpose(1, 2, 0):
        some = np.flatnonzero(weight)  # images whose lesion has this many marks
        if len(some):
            at = centre + radius * (dx + 1j * dy) * np.exp(1j * turn)
            half_axes = np.maximum(radius * rx, 0.018), np.maximum(radius * ry, 0.018)
            mark = np.stack([at.real, at.imag, *half_axes, turn + np.deg2rad(angle)], axis=1)[some]
            covered = _coverage(coordinates[some], mark, edge + (radius * softness)[some])
            image[some] += covered * (amplitude * weight)[some, None]
    return np.maximum(image, 0, out=image).reshape(n, size, size)


@functools.cache
def _padded_marks(lesion: str) -> NDArray[np.float32]:
    blank = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0)
    return np.array((LESIONS[lesion].marks + (blank,) * MARKS_PER_LESION)[:MARKS_PER_LESION], np.float32)  # [4, 7]


def _ct(image: NDArray[np.float32], z: dict[str, NDArray[np.float32]], config: PhantomConfig) -> NDArray[np.float32]:
    """A display window that differs a little from image to image, and quantum noise."""
    size = config.image_size
    image *= 1 + 0.05 * smooth_field(z["texture"], size)
    image += 0.035 * config.noise * z["noise"][:, 0]
    width = np.exp(0.08 * config.jitter * z["window"][:, 0])[:, None, None]
    centre = (0.5 + 0.025 * config.jitter * z["window"][:, 1])[:, None, None]
    return (image - centre) * width + centre


def _mr(image: NDArray[np.float32], z: dict[str, NDArray[np.float32]], config: PhantomConfig) -> NDArray[np.float32]:
    """The coil's bias field, tissue texture and Rician noise."""
    size = config.image_size
    image *= 1 + 0.08 * smooth_field(z["texture"], size)
    image *= 0.92 * np.exp(0.16 * smooth_field(z["bias"], size))
    noise = z["noise"] * np.float32(0.03 * config.noise)
    image += noise[:, 0]
    return np.hypot(image, noise[:, 1], out=image)


@functools.cache
def _sector(size: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Fan of the probe: mask, the four speckle samples around each pixel, their weights, and the gain over depth."""
    x, y = pixel_grid(size)
    depth, angle = np.hypot(x, y + 1.45), np.arctan2(x, y + 1.45)
    edge = 3 / size
    inside = [(depth - 0.50) / edge, (2.42 - depth) / edge, (0.62 - np.abs(angle)) * depth / edge]
    mask = np.clip(np.min(inside, axis=0), 0, 1)
    row = np.clip((depth - 0.45) / 2.0, 0, 0.999) * (POLAR[0] - 1)
    column = np.clip((angle + 0.65) / 1.3, 0, 0.999) * (POLAR[1] - 1)
    i, j, u, v = row.astype(int), column.astype(int), row % 1, column % 1
    corners = np.stack([(i + a) * POLAR[1] + j + b for a in (0, 1) for b in (0, 1)])
    weights = np.stack([(u if a else 1 - u) * (v if b else 1 - v) for a in (0, 1) for b in (0, 1)])
    gain = np.exp(-0.42 * np.maximum(depth - 0.9, 0))
    return mask.astype(np.float32), corners, weights.astype(np.float32), gain.astype(np.float32)


def ultrasound(
    image: NDArray[np.float32], z: dict[str, NDArray[np.float32]], config: PhantomConfig
) -> NDArray[np.float32]:
    """Rayleigh speckle that widens with depth, attenuation, and the fan of the probe."""
    mask, corners, weights, gain = _sector(config.image_size)
    speckle = np.hypot(z["noise"][:, 0], z["noise"][:, 1]).reshape(len(image), -1)
    speckle = np.einsum("cnp,cp->np", np.stack([speckle[:, c.ravel()] for c in corners]), weights.reshape(4, -1))
    speckle = speckle.reshape(image.shape) / np.float32(np.sqrt(np.pi / 2))  # of mean one
    image *= 1 + 0.12 * smooth_field(z["texture"], config.image_size)
    image *= np.exp(0.15 * smooth_field(z["bias"], config.image_size))
    image *= (1 + 0.75 * config.noise * (speckle - 1)) * gain * mask
    return image + 0.02 * mask


_MACHINES = {"CT": _ct, "MR": _mr, "US": ultrasound}
_CHUNK_PIXELS = 16 * 64 * 64  # what one numpy call handles, so that its arrays stay in the cache


def render_phantoms(classes: ArrayLike, indices: ArrayLike, config: PhantomConfig) -> NDArray[np.uint8]:
    """Paint phantoms; image i is a pure function of (seed, indices[i], classes[i]) and the config's picture fields.

    Args:
        classes: Positions in `PHANTOM_CLASSES`, `[N]`.
        indices: Numbers of the images within the set, non-negative, `[N]`. One index is one patient: rendered as two
            classes of one anatomy it differs by the lesion alone.
        config: Seed, image size, contrast, jitter and noise.

    Returns:
        8-bit grayscale images, `[N, image_size, image_size]`.
    """
    classes, indices = np.asarray(classes, dtype=np.int64), np.asarray(indices, dtype=np.int64)
    size = config.image_size
    images = np.empty((len(classes), size, size), dtype=np.uint8)
    chunk = max(1, _CHUNK_PIXELS // size**2)
    anatomies = np.array([c.anatomy for c in PHANTOM_CLASSES])[classes]
    for anatomy in dict.fromkeys(anatomies.tolist()):
        positions = np.flatnonzero(anatomies == anatomy)
        for start in range(0, len(positions), chunk):
            at = positions[start : start + chunk]
            named = [PHANTOM_CLASSES[k] for k in classes[at]]
            modality = named[0].modality
            z = _draw(config.seed, indices[at], (2, *POLAR) if modality == "US" else (2, size, size))
            image = _MACHINES[modality](_paint(anatomy, named, z, config), z, config)
            images[at] = np.clip(image * 255 + 0.5, 0, 255)
    return images


@functools.cache
def average_phantoms(image_size: int) -> NDArray[np.float32]:
    """Paint the average patient of each class: no jitter, and nothing that the machine does.

    Args:
        image_size: Height and width in pixels.

    Returns:
        Tissue levels at the default contrast, 1 for white, `[165, image_size, image_size]`.
    """
    config = PhantomConfig(image_size=image_size, jitter=0)
    images = np.empty((len(PHANTOM_CLASSES), image_size, image_size), dtype=np.float32)
    for group in ANATOMIES:
        members = [k for k, c in enumerate(PHANTOM_CLASSES) if c.anatomy == group.prefix]
        z = {name: np.zeros((len(members), *shape), dtype=np.float32) for name, shape in _DRAWS.items()}
        images[members] = _paint(group.prefix, [PHANTOM_CLASSES[k] for k in members], z, config)
    return images
