"""How well a map hits the mask of an image: overlap at a threshold, overlap at the lesion's own area, and pointing."""

from collections.abc import Sequence

import torch
from torch import Tensor

THRESHOLDS = tuple(step / 20 for step in range(1, 20))  # shares of a map's maximum


def overlap_at(maps: Tensor, masks: Tensor, thresholds: Sequence[float] = THRESHOLDS) -> tuple[Tensor, Tensor]:
    """Return Dice and IoU of a mask and of the places where a map reaches a share of its maximum.

    Args:
        maps: >= 0 `[B, H, W]`; of a map that is 0 everywhere nothing is found.
        masks: Lesion, bool `[B, H, W]`.
        thresholds: In (0, 1] `[T]`.

    Returns:
        Dice and IoU, float64 `[B, T]` both; NaN without a lesion.

    Raises:
        ValueError: The shapes differ, a map has a value that is negative or no number, or a threshold is none.
    """
    maps, masks = _flat(maps, masks)
    if not all(0 < threshold <= 1 for threshold in thresholds):
        raise ValueError(f"thresholds must lie in (0, 1], got {list(thresholds)}")
    peak, true = maps.amax(dim=1, keepdim=True), masks.sum(dim=1)
    dice, iou = [], []
    for threshold in thresholds:
        found = (maps >= threshold * peak) & (maps > 0)
        both, either = (found & masks).sum(dim=1), (found | masks).sum(dim=1)
        dice.append(2 * both / (found.sum(dim=1) + true))
        iou.append(both / either)
    shown = true[:, None] > 0
    return (
        torch.stack(dice, dim=1).double().where(shown, torch.nan),
        torch.stack(iou, dim=1).double().where(shown, torch.nan),
    )


def overlap_at_own_area(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return Dice and IoU of a mask and of as many places, those where a map is largest: no threshold to choose.

    Of places with equal values that would be too many, chance takes: the result is its expected overlap, and of a map
    that is the same everywhere the Dice is the lesion's share of the image. Arguments as of `overlap_at`.

    Returns:
        Dice and IoU, float64 `[B]` both; NaN without a lesion.
    """
    maps, masks = _flat(maps, masks)
    area = masks.sum(dim=1)
    last = maps.sort(dim=1, descending=True).values.gather(1, (area - 1).clamp(min=0)[:, None])
    above, level = maps > last, maps == last
    wanted = (area - above.sum(dim=1)).double() / level.sum(dim=1)  # share of the equal ones
    overlap = (above & masks).sum(dim=1) + wanted * (level & masks).sum(dim=1)
    shown = area > 0
    return (overlap / area).where(shown, torch.nan), (overlap / (2 * area - overlap)).where(shown, torch.nan)


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Return whether the maximum of a map lies in the mask (Zhang et al. 2018), without their tolerance of 15 pixels.

    Of several places that are the largest, it is the share inside. Arguments as of `overlap_at`.

    Returns:
        float64 `[B]`, in [0, 1]; NaN without a lesion.
    """
    maps, masks = _flat(maps, masks)
    top = maps == maps.amax(dim=1, keepdim=True)
    hit = (top & masks).sum(dim=1).double() / top.sum(dim=1)
    return hit.where(masks.any(dim=1), torch.nan)


def energy_inside(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the share of a map's sum that lies in the mask (Wang et al. 2020, Score-CAM).

    A map that is 0 everywhere counts as the same everywhere: the lesion's share of the image. Arguments as of
    `overlap_at`.

    Returns:
        float64 `[B]`, in [0, 1]; NaN without a lesion.
    """
    maps, masks = _flat(maps, masks)
    maps = maps.where(maps.sum(dim=1, keepdim=True) > 0, 1.0)
    inside = (maps * masks).sum(dim=1) / maps.sum(dim=1)
    return inside.where(masks.any(dim=1), torch.nan)


def _flat(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps as float64 and masks as bool, `[B, H W]` both."""
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(
            f"expected maps and masks [B, H, W] of one size, got {list(maps.shape)} and {list(masks.shape)}"
        )
    if not (maps >= 0).all() or not maps.isfinite().all():
        raise ValueError("maps must be finite and not negative")
    return maps.double().flatten(1), masks.bool().flatten(1)
