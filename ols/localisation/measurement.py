"""Run a model over marked images, and score where it looks beside what knows nothing of the lesion."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ols.data.loading import EvalLoader, beside
from ols.data.sources.pack import Pack
from ols.data.transforms import NEAREST, EvalTransform
from ols.localisation.activation_maps import activation_maps, enlarge
from ols.localisation.baselines import centre_prior, input_gradient, random_maps
from ols.localisation.regions import Regions
from ols.localisation.scores import THRESHOLDS, energy_inside, overlap_at, overlap_at_own_area, pointing_game

CENTRE, RANDOM, GRADIENT = "centre_prior", "random_map", "input_gradient"
BASELINES = (CENTRE, RANDOM, GRADIENT)
CURVES = ("dice", "iou")  # a value for each threshold
MEASURES = (*CURVES, "dice_own_area", "iou_own_area", "pointing", "energy")


class NoLesionError(ValueError):
    """No image has a lesion that a map could hit."""


@dataclass(frozen=True)
class Localised:
    """Where a model looked on marked images, and how well that hits.

    Args:
        indices: Of the images in their data set, int64 `[N]`.
        logits: Of the model, `[N, K]` on the CPU.
        targets: Of the data set `[N, ...]`, on the CPU.
        classes: Class whose evidence was looked for, int64 `[N]`.
        maps: Activation maps as large as the feature map `[N, h, w]`, on the CPU.
        areas: Share of the image, as the model sees it, that the lesion covers `[N]`; 0 where it was cut off.
        empty: Images whose mask is empty: they are none of these.
        thresholds: Shares of a map's maximum `[T]`.
        scores: By name of a map (the activation map first, then `BASELINES`) and of a measure: float64 `[N]`, of
            `CURVES` `[N, T]`; NaN where the lesion was cut off.
    """

    indices: NDArray
    logits: Tensor
    targets: Tensor
    classes: NDArray
    maps: Tensor
    areas: NDArray
    empty: int
    thresholds: tuple[float, ...]
    scores: dict[str, dict[str, NDArray]]


def localise(
    model: nn.Module,
    loader: EvalLoader,
    regions: Regions,
    *,
    classes: NDArray | None = None,
    kind: str = "grad_cam",
    layer: str | None = None,
    thresholds: tuple[float, ...] = THRESHOLDS,
    seed: int = 0,
) -> Localised:
    """Score the activation maps of a model, and what they have to beat, against the masks of images.

    Args:
        model: Of timm's, on the loader's device.
        loader: The images; each has a region.
        regions: Their masks, which go through the resizing and the crop of the images.
        classes: Class to look for in each image of the data set, int64; by default the one that the model predicts.
        kind: Kind of map, see `activation_maps`.
        layer: Layer of the map, see `activation_maps`.
        thresholds: Shares of a map's maximum at which Dice and IoU are measured.
        seed: Of the random maps.

    Raises:
        NoLesionError: No lesion is in view.
        ValueError: The data set is a pack, whose pixels are not those that were marked, or see `activation_maps`.
    """
    if isinstance(loader.source, Pack):
        raise ValueError("a pack has other pixels than were marked: name the data set that it was made of")
    parts: list[dict[str, Tensor]] = []
    scores: dict[str, dict[str, list[Tensor]]] = {name: {} for name in (kind, *BASELINES)}
    empty = 0
    for whole_batch in loader:
        masks, marked = read_masks(loader, regions, whole_batch["index"].tolist())
        empty += int((~marked).sum())
        if not marked.any():
            continue
        batch = {name: values[marked.to(values.device)] for name, values in whole_batch.items()}
        images, indices, masks = batch["image"], batch["index"], masks[marked]
        chosen = None if classes is None else torch.from_numpy(classes[indices.numpy()])
        found = activation_maps(model, images, chosen, kind=kind, layer=layer, **beside(batch))
        size = (images.shape[2], images.shape[3])
        maps = {
            kind: enlarge(found.maps.cpu(), size),
            CENTRE: centre_prior(size).expand(len(images), -1, -1),
            RANDOM: random_maps(indices.numpy(), (found.maps.shape[1], found.maps.shape[2]), size, seed=seed),
            GRADIENT: input_gradient(model, images, found.classes, **beside(batch)).cpu(),
        }
        for name, values in maps.items():
            for measure, score in _score(values, masks, thresholds).items():
                scores[name].setdefault(measure, []).append(score)
        parts.append(
            {
                "index": indices,
                "logits": found.logits.cpu(),
                "target": batch["target"].cpu(),
                "class": found.classes.cpu(),
                "map": found.maps.cpu(),
                "area": masks.double().mean(dim=(1, 2)),
            }
        )
    if not parts:
        raise NoLesionError(f"none of the {empty} masks has a lesion: there is nothing to hit")
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if not (whole["area"] > 0).any():
        raise NoLesionError(f"the crop that the model sees has none of the {len(whole['area'])} marked lesions in it")
    return Localised(
        indices=whole["index"].numpy(),
        logits=whole["logits"],
        targets=whole["target"],
        classes=whole["class"].numpy(),
        maps=whole["map"],
        areas=whole["area"].numpy(),
        empty=empty,
        thresholds=tuple(thresholds),
        scores={
            name: {measure: torch.cat(values).numpy() for measure, values in of_map.items()}
            for name, of_map in scores.items()
        },
    )


def read_masks(loader: EvalLoader, regions: Regions, indices: list[int]) -> tuple[Tensor, Tensor]:
    """Return masks as the model sees their images, bool `[B, H, W]`, and whether there was a lesion at all, `[B]`."""
    source, transform = loader.source, EvalTransform(loader.preprocessing)
    draws = transform.draw(np.zeros(len(indices), np.int64), np.array(indices, np.int64))
    masks, marked = [], []
    for index, draw in zip(indices, draws, strict=True):
        mask = regions.mask(source.sample_id(index), source.read(index).size)
        marked.append(mask.getbbox() is not None)
        masks.append(transform(mask, draw, resample=NEAREST)[0] > 0)
    return torch.from_numpy(np.stack(masks)), torch.tensor(marked)


def _score(maps: Tensor, masks: Tensor, thresholds: tuple[float, ...]) -> dict[str, Tensor]:
    dice, iou = overlap_at(maps, masks, thresholds)
    dice_own_area, iou_own_area = overlap_at_own_area(maps, masks)
    values = (dice, iou, dice_own_area, iou_own_area, pointing_game(maps, masks), energy_inside(maps, masks))
    return dict(zip(MEASURES, values, strict=True))
