"""Images with their lesions and what a model looks at: the best, the median and the worst."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ols.data.loading import EvalLoader
from ols.data.transforms import EvalTransform
from ols.localisation.activation_maps import enlarge
from ols.localisation.measurement import Localised, read_masks
from ols.localisation.regions import Regions

SHOWN = 3  # images of each row


@dataclass(frozen=True)
class Overlay:
    """An image with its lesion and the map.

    Args:
        name: Of the image.
        pixels: As the model sees it, uint8 `[C, H, W]`.
        mask: Lesion, bool `[H, W]`.
        map: Activation map of its size, >= 0 `[H, W]`.
        dice: At the lesion's own area.
    """

    name: str
    pixels: NDArray
    mask: NDArray
    map: NDArray
    dice: float


def best_median_worst(dice: NDArray) -> dict[str, list[int]]:
    """Return which images to show, up to three of each kind and none twice, in the order of their Dice `[N]`."""
    order = [int(index) for index in np.argsort(-dice, kind="stable") if not np.isnan(dice[index])]
    each = min(SHOWN, len(order) // 3) or min(1, len(order))
    middle = (len(order) - each) // 2
    parts = {"best": order[:each], "median": order[middle : middle + each], "worst": order[len(order) - each :]}
    shown: set[int] = set()
    for kind, found in parts.items():
        parts[kind] = [index for index in found if index not in shown]
        shown.update(parts[kind])
    return {kind: found for kind, found in parts.items() if found}


def read_overlay(loader: EvalLoader, regions: Regions, found: Localised, position: int) -> Overlay:
    """Read an image to show it again, as the model sees it.

    Args:
        loader: That it was localised with.
        regions: Its mask.
        found: Of `localise`.
        position: Of the image in `found`.
    """
    index = int(found.indices[position])
    transform = EvalTransform(loader.preprocessing)
    (draw,) = transform.draw(np.zeros(1, np.int64), found.indices[[position]])
    pixels = transform(loader.source.read(index), draw)
    return Overlay(
        name=loader.source.sample_id(index),
        pixels=pixels,
        mask=read_masks(loader, regions, [index])[0][0].numpy(),
        map=enlarge(found.maps[position][None], (pixels.shape[1], pixels.shape[2]))[0].numpy(),
        dice=float(next(iter(found.scores.values()))["dice_own_area"][position]),
    )


def draw_overlays(rows: Mapping[str, Sequence[Overlay]], *, title: str) -> Figure:
    """Draw images with their lesions in outline, beside each its activation map laid over it.

    Args:
        rows: What to show, by the name of the row.
        title: Title.
    """
    columns = max(len(row) for row in rows.values())
    figure = Figure(figsize=(4 * columns + 0.4, 2.35 * len(rows) + 0.6), layout="constrained")
    grid = figure.subplots(len(rows), 2 * columns, squeeze=False)
    for line, (name, row) in zip(grid, rows.items(), strict=True):
        for axes in line:
            axes.set_axis_off()
        for number, overlay in enumerate(row):
            left, right = line[2 * number], line[2 * number + 1]
            gray = overlay.pixels.mean(axis=0)
            peak = overlay.map.max()
            for axes in (left, right):
                axes.set_axis_on()
                axes.set(xticks=[], yticks=[])
                axes.imshow(gray, cmap="gray", vmin=0, vmax=255)
            right.imshow(overlay.map / peak if peak > 0 else overlay.map, cmap="inferno", vmin=0, vmax=1, alpha=0.55)
            for axes in (left, right):
                if overlay.mask.any() and not overlay.mask.all():
                    axes.contour(overlay.mask, levels=[0.5], colors="#35d0e0", linewidths=1.2)
            left.set_title(PurePosixPath(overlay.name).name.replace("$", r"\$"), fontsize=7)
            right.set_title(f"Dice at own area {overlay.dice:.2f}", fontsize=7)
        line[0].set_ylabel(name, fontsize=10)
    figure.suptitle(title, fontsize=10)
    return figure
