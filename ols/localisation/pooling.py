"""The marked images of all folds of a fine-tuning together, each scored by the model of its fold."""

from collections.abc import Mapping

import numpy as np

from ols.localisation.scored_images import ScoredImages


def pool(folds: Mapping[str, ScoredImages]) -> ScoredImages:
    """Return the images of all folds as one, fold after fold.

    Scores at a threshold are those at the threshold of an image's own fold. They are left out unless every fold has
    one: means of the others alone would be of other images than all that stands beside them.

    Args:
        folds: Images of each fold, by its name; at least one.

    Raises:
        ValueError: The feature maps are of different layers or sizes.
    """
    parts = list(folds.values())
    first = parts[0]
    for fold, one in folds.items():
        if (one.layer, one.feature_map) != (first.layer, first.feature_map):
            raise ValueError(
                f"folds need one feature map: that of {fold} is {one.layer} of {one.feature_map} places, that of "
                f"{next(iter(folds))} {first.layer} of {first.feature_map}"
            )
    chosen_on: dict[str, list[str]] = {}
    for fold, one in folds.items():
        chosen_on.setdefault(one.chosen_on, []).append(fold)
    return ScoredImages(
        names=[name for one in parts for name in one.names],
        patients=[patient for one in parts for patient in one.patients],
        explained=[label for one in parts for label in one.explained],
        right=np.concatenate([one.right for one in parts]),
        areas=np.concatenate([one.areas for one in parts]),
        blank=np.concatenate([one.blank for one in parts]),
        scores={
            name: {
                measure: np.concatenate([one.scores[name][measure] for one in parts])
                for measure in of_map
                if all(measure in one.scores[name] for one in parts)
            }
            for name, of_map in first.scores.items()
        },
        overlays=[overlay for one in parts for overlay in one.overlays],
        empty=sum(one.empty for one in parts),
        layer=first.layer,
        feature_map=first.feature_map,
        thresholds={name: [one.thresholds[name] for one in parts] for name in first.thresholds}
        if all(one.thresholds for one in parts)
        else {},
        chosen_on=" ".join(f"{', '.join(names)}: {said}" for said, names in chosen_on.items()),
        conditions={**first.conditions, "weights": {fold: one.conditions["weights"] for fold, one in folds.items()}},
        folds=[fold for fold, one in folds.items() for _ in one.names],
    )
