"""Turn, shift, shear and zoom by one affine map, as Keras' `ImageDataGenerator` does; randomness by key."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from ols.keyed import AUGMENT, keyed_uniform

# Ranges of Mei et al. 2022: degrees, share of the side, degrees (as Keras reads its `shear_range`), share of the size.
ROTATION, SHIFT, SHEAR, ZOOM = 10.0, 0.1, 0.1, 0.1


def draw_maps(seed: int, epochs: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Draw the map of each sample, uniformly within the ranges above, either direction zoomed by itself.

    Returns:
        Where each pixel comes from: columns and rows about the centre, with shifts as shares of the side, `[B, 2, 3]`.
    """
    drawn = 2 * keyed_uniform(seed, epochs[:, None], indices[:, None], AUGMENT, np.arange(6)) - 1
    turn, shear = np.radians(ROTATION) * drawn[:, 0], np.radians(SHEAR) * drawn[:, 3]
    maps = [affine_map(*one) for one in zip(turn, SHIFT * drawn[:, 1:3], shear, 1 + ZOOM * drawn[:, 4:], strict=True)]
    return np.stack(maps)


def affine_map(turn: float, shift: np.ndarray, shear: float, zoom: np.ndarray) -> np.ndarray:
    """Return rotation times shift times shear times zoom, `[2, 3]`.

    Args:
        turn: Angle in radians.
        shift: Of columns and rows, as shares of the side.
        shear: Angle in radians.
        zoom: Of columns and rows; below 1 things grow.
    """
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    sheared = np.array([[1, -math.sin(shear)], [0, math.cos(shear)]])
    return np.concatenate([rotation @ sheared @ np.diag(zoom), (rotation @ shift)[:, None]], axis=1)


def move(image: np.ndarray, where_from: np.ndarray, *, nearest: bool = False) -> np.ndarray:
    """Move the pixels of a square image; what comes from outside is the nearest pixel of its border.

    Args:
        image: uint8 `[C, S, S]`.
        where_from: A map of `draw_maps`, `[2, 3]`.
        nearest: Take the nearest pixel, as for masks, whose values are names; else interpolate linearly.

    Returns:
        uint8 `[C, S, S]`.
    """
    theta = where_from * (1, 1, 2)  # torch has sides of length 2
    pixels = torch.from_numpy(image)[None].float()
    grid = F.affine_grid(torch.tensor(theta[None], dtype=torch.float32), list(pixels.shape), align_corners=False)
    mode = "nearest" if nearest else "bilinear"
    moved = F.grid_sample(pixels, grid, mode=mode, padding_mode="border", align_corners=False)
    return moved[0].round().to(torch.uint8).numpy()
