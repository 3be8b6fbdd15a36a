"""Marked images with their scores: what a report is made of, and two models are compared by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ols.localisation.overlays import Overlay
from ols.localisation.summary import Estimate, ahead_of


@dataclass(frozen=True)
class ScoredImages:
    """Marked images of a split, and how well the maps of one model, or of those of all folds, hit their lesions.

    Args:
        names: File name of each image `[N]`.
        patients: Patient of each `[N]`.
        explained: Label of the class whose evidence was looked for `[N]`.
        right: Of `answered_right` `[N]`.
        areas: Share of the image, as the model sees it, that the lesion covers `[N]`; 0 where it was cut off.
        blank: Whether the activation map is 0 everywhere, bool `[N]`.
        scores: Of `scores_at`, float64 `[N]` each; the activation map is the first.
        overlays: Each reads its image again, to be shown `[N]`.
        empty: Images whose mask is empty: they are none of these.
        layer: Whose output the feature map is.
        feature_map: Its height and width.
        thresholds: By map, a share of its maximum; of folds a list of those of each.
        chosen_on: Where the thresholds are from.
        conditions: Versions, device, data set, weights, and the like.
        folds: Fold of each image `[N]`; empty for a single model.
    """

    names: list[str]
    patients: list[str]
    explained: list[str]
    right: NDArray
    areas: NDArray
    blank: NDArray
    scores: Mapping[str, Mapping[str, NDArray]]
    overlays: Sequence[Callable[[], Overlay]]
    empty: int
    layer: str
    feature_map: tuple[int, int]
    thresholds: Mapping[str, Any]
    chosen_on: str
    conditions: dict[str, Any]
    folds: Sequence[str] = ()

    @property
    def own(self) -> Mapping[str, NDArray]:
        """Scores of the activation map, by measure."""
        return next(iter(self.scores.values()))

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each image: what is known of it, then its scores as `MAP_MEASURE`."""
        columns: dict[str, Sequence[Any]] = {"fold": self.folds} if self.folds else {}
        columns |= {
            "filename": self.names,
            "patient": self.patients,
            "explained": self.explained,
            "right": ["" if np.isnan(value) else int(value) for value in self.right],
            "lesion_area": self.areas.tolist(),
        }
        columns |= {
            f"{name}_{m}": values.tolist() for name, of_map in self.scores.items() for m, values in of_map.items()
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def ahead_of(self, other: "ScoredImages") -> dict[str, Estimate] | None:
        """Return by how much this activation map is ahead of another model's on the same images, by measure.

        Images are matched by their names, whatever their order; one that several folds test is matched fold by fold.

        Returns:
            Means with intervals over patients, see `ahead_of`; None where the images are not the same.
        """
        order, others = (np.argsort(one.names, kind="stable") for one in (self, other))
        if [self.names[place] for place in order] != [other.names[place] for place in others]:
            return None
        return ahead_of(
            {measure: values[order] for measure, values in self.own.items()},
            {measure: values[others] for measure, values in other.own.items()},
            patients=np.array(self.patients)[order],
        )
