"""How well a network's maps hit the lesion, as numbers by name: one line of a study's table."""

import math
from collections.abc import Mapping

from numpy.typing import NDArray
from torch import nn

from ols.data.loading import EvalLoader
from ols.evaluation.localised_images import LocalisedImages
from ols.localisation.measurement import CENTRE, localise
from ols.localisation.regions import Regions
from ols.localisation.summary import choose_thresholds, scores_at, summarise

SHOWN = ("dice", "dice_own_area", "pointing", "energy")


def localisation_columns(
    model: nn.Module,
    loaders: Mapping[str, EvalLoader],
    regions: Regions,
    *,
    classes: Mapping[str, NDArray | None],
    kind: str = "grad_cam",
    layer: str | None = None,
) -> tuple[dict[str, float], LocalisedImages]:
    """Score a network's maps and the centre prior against the marked test images, at thresholds chosen on validation.

    Args:
        model: Of timm's, on the loaders' device.
        loaders: Marked images of `test`, and of `val`, without which there is no threshold, and no Dice at one.
        regions: Their masks.
        classes: Class to look for in each image of each split's data set, int64; None for the one that is predicted.
        kind: Kind of map, see `activation_maps`.
        layer: Name of the module whose output is the feature map; by default the last such.

    Returns:
        `localisation/<measure>` (`dice` at the chosen threshold, `dice_own_area`, `pointing`, `energy`), each beside
        that of the centre prior, `localisation/<measure>_centre_prior`; and `localisation/images`. Then the scores of
        each image that these are means of.
    """
    found = {
        split: localise(model, loader, regions, classes=classes[split], kind=kind, layer=layer)
        for split, loader in loaders.items()
    }
    thresholds = choose_thresholds(found["val"]) if "val" in found else {}
    scores = scores_at(found["test"], thresholds)
    summary = summarise(scores, resamples=1)
    columns = {"localisation/images": float(summary.images)}
    for name, end in ((kind, ""), (CENTRE, f"_{CENTRE}")):
        means = summary.maps[name]
        columns |= {f"localisation/{measure}{end}": means[measure].mean for measure in SHOWN if measure in means}
    source, indices = loaders["test"].source, found["test"].indices.tolist()
    images = LocalisedImages(
        [source.sample_id(index) for index in indices],
        [source.sample_group(index) for index in indices],
        {name: {m: scores[name][m] for m in SHOWN if m in scores[name]} for name in (kind, CENTRE)},
    )
    return {name: value for name, value in columns.items() if not math.isnan(value)}, images
