"""Near-duplicates: pictures of different splits that are copies but for noise, brightness or a small shift.

Three steps, so that 1.35 million images need no comparison of all with all.

1. Candidates: perceptual hashes (imagehash's `phash`, 64 bits) that differ in at most `RADIUS` bits, found exactly by
   multi-index hashing (Norouzi, Punjani and Fleet 2012): of 5 bands of 12 or 13 bits, one differs in at most one bit.
2. Correlation of thumbnails of 16 x 16, at least `COARSE_CORRELATION`: many pictures of one anatomy share a hash.
3. Confirmation on 64 x 64, smoothed: correlation at the best shift of up to `SHIFT` pixels, at least `CORRELATION`
   (on 13 classes of real CT, MR and X-ray, what lies above were copies and slices of one patient).

Correlation is blind to brightness and contrast, and small crops and other tones are fitted. A shift or a crop by more
than one or two pixels in a hundred is found less and less often. Mirrored and rotated copies are not looked for.
Neighbouring slices of one series can be as alike as copies; across splits they leak as copies do.
"""

import math
from collections.abc import Iterator
from typing import cast

import numpy as np
from PIL import Image, ImageFilter

RADIUS = 8  # of 64 bits
COARSE_CORRELATION = 0.85
CORRELATION = 0.99
SIDE = 64  # pixels of the pictures that are compared
SHIFT = 3  # of those pixels
BANDS = ((0, 13), (13, 13), (26, 13), (39, 13), (52, 12))  # first bit, bits
PAIRS_AT_ONCE = 2**20


def hash_pairs(hashes: np.ndarray, queries: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Find every hash near to each query hash, by chunks; a pair comes once, and a pair of two queries twice.

    Args:
        hashes: uint64 `[N]`.
        queries: Indices of the hashes whose neighbours are wanted, int64 `[Q]`.

    Yields:
        Indices of queries and of their neighbours, int64 `[P]` each, at most `RADIUS` bits apart; never i with i.
    """
    for band, (first, bits) in enumerate(BANDS):
        keys = (hashes >> np.uint64(first)).astype(np.int64) & (2**bits - 1)
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange(2**bits + 1))
        for flip in (0, *(1 << bit for bit in range(bits))):
            buckets = keys[queries] ^ flip
            counts = starts[buckets + 1] - starts[buckets]
            for chunk in np.split(np.arange(len(queries)), _chunk_ends(counts)):
                i = np.repeat(queries[chunk], counts[chunk])
                within = np.arange(len(i)) - np.repeat(np.cumsum(counts[chunk]) - counts[chunk], counts[chunk])
                j = order[np.repeat(starts[buckets[chunk]], counts[chunk]) + within]
                apart = hashes[i] ^ hashes[j]
                near = (np.bitwise_count(apart) <= RADIUS) & (i != j)
                i, j, apart = i[near], j[near], apart[near]
                for earlier, width in BANDS[:band]:  # a pair that an earlier band has found
                    seen = np.bitwise_count(apart >> np.uint64(earlier) & np.uint64(2**width - 1)) <= 1
                    i, j, apart = i[~seen], j[~seen], apart[~seen]
                if len(i):
                    yield i, j


def _chunk_ends(counts: np.ndarray) -> np.ndarray:
    """Where to cut so that the counts of a chunk sum to about `PAIRS_AT_ONCE`."""
    return np.flatnonzero(np.diff(np.cumsum(counts) // PAIRS_AT_ONCE)) + 1


def alike(thumbnails: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Say which pairs of thumbnails, uint8 `[N, T]`, correlate by at least `COARSE_CORRELATION`, bool `[P]`."""
    return _correlation(thumbnails[i], thumbnails[j]) >= COARSE_CORRELATION


def comparable(image: Image.Image) -> np.ndarray:
    """Return what `best_correlation` compares: gray, smoothed, uint8 `[SIDE, SIDE]`."""
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small.filter(ImageFilter.GaussianBlur(1)))


def best_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlate pairs of pictures at their best shift of up to `SHIFT` pixels across and down.

    The best whole shift is searched. What is left is fitted to first order by multiple correlation of the second
    picture with the first and what small changes add to it: its derivatives, for the rest of the shift; the derivative
    by its size, for a crop at all sides; and its square, for brightness cut off at white and for other tones.

    Args:
        first: uint8 `[P, SIDE, SIDE]`.
        second: uint8 `[P, SIDE, SIDE]`.

    Returns:
        The correlation of each pair, in [0, 1], `[P]`; 0 for pictures of one value.
    """
    inner = SIDE - 2 * SHIFT
    shifts = [(down, across) for down in range(2 * SHIFT + 1) for across in range(2 * SHIFT + 1)]
    gray = first.astype(np.float32)
    down_slope, right_slope = cast("list[np.ndarray]", np.gradient(gray, axis=(1, 2)))  # [P, SIDE, SIDE] each
    place = (np.arange(SIDE) / (SIDE - 1) - 0.5).astype(np.float32)
    zoomed = down_slope * place[:, None] + right_slope * place
    # Every other pixel is enough of a smoothed image.
    basis = [image[:, SHIFT:-SHIFT:2, SHIFT:-SHIFT:2] for image in (gray, down_slope, right_slope, zoomed, gray**2)]
    windows = np.lib.stride_tricks.sliding_window_view(second, (inner, inner), axis=(1, 2))[..., ::2, ::2]
    best = np.argmax([_correlation(basis[0], windows[:, down, across]) for down, across in shifts], axis=0)
    down, across = np.array(shifts)[best].T
    matched = _standard(windows[np.arange(len(first)), down, across])
    q, _ = np.linalg.qr(np.stack([_standard(image) for image in basis], -1))  # [P, pixels, 5]
    return np.linalg.norm(np.einsum("pnk,pn->pk", q, matched), axis=1)


def _standard(images: np.ndarray) -> np.ndarray:
    """Return images of mean 0 and norm 1, float32 `[P, pixels]`; zeros for images of one value."""
    flat = images.reshape(len(images), math.prod(images.shape[1:])).astype(np.float32)  # no image is possible, too
    flat -= flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.einsum("pn,pn->p", _standard(first), _standard(second))
