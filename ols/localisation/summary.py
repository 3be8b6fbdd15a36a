"""What scores of many images say: a threshold chosen on other images, means and differences with their intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ols.evaluation.localised_images import Estimate, estimate_means
from ols.localisation.measurement import BASELINES, CURVES, MEASURES, Localised


@dataclass(frozen=True)
class Group:
    """Scores of a group of images.

    Args:
        images: How many have a score.
        patients: How many these are of; images, where patients are not known.
        maps: Mean by map and measure; a measure at a threshold only where there is a threshold.
        ahead: By baseline and measure, by how much the activation map is ahead of it on the same images.
    """

    images: int
    patients: int
    maps: dict[str, dict[str, Estimate]]
    ahead: dict[str, dict[str, Estimate]]


def choose_thresholds(found: Localised) -> dict[str, float]:
    """Return for each map the threshold with the largest mean Dice: choose on validation, report on other images."""
    means = {name: np.nanmean(of_map["dice"], axis=0) for name, of_map in found.scores.items()}
    return {name: found.thresholds[int(mean.argmax())] for name, mean in means.items()}


def scores_at(found: Localised, thresholds: Mapping[str, float]) -> dict[str, dict[str, NDArray]]:
    """Return one score an image, by map and measure, float64 `[N]` each.

    Args:
        found: Of `localise`.
        thresholds: One of `found.thresholds` for each map; measures at a threshold are left out of those without.
    """
    taken: dict[str, dict[str, NDArray]] = {}
    for name, of_map in found.scores.items():
        column = found.thresholds.index(thresholds[name]) if name in thresholds else None
        measures = [measure for measure in MEASURES if measure not in CURVES or column is not None]
        taken[name] = {
            measure: of_map[measure][:, column] if measure in CURVES else of_map[measure] for measure in measures
        }
    return taken


def summarise(
    scores: Mapping[str, Mapping[str, NDArray]],
    *,
    chosen: ArrayLike | None = None,
    patients: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Group:
    """Return means over images, and differences from baselines, with intervals that draw patients anew.

    Args:
        scores: Of `scores_at`; the activation map is the first.
        chosen: Which images to take, bool `[N]`, such as those that are predicted right; by default all.
        patients: Patient of each image `[N]`; by default each image is of one of its own.
        resamples: Number of resamples.
        seed: Of the draws.
    """
    own = next(iter(scores))
    usable = ~np.isnan(scores[own]["energy"])
    taken = usable if chosen is None else usable & np.asarray(chosen, bool)
    clusters = None if patients is None else np.asarray(patients)[taken]
    count = int(taken.sum())
    baselines = [name for name in BASELINES if name in scores]
    columns = {("mean", name, m): values[taken] for name, of_map in scores.items() for m, values in of_map.items()}
    for baseline in baselines:
        for measure in (measure for measure in scores[own] if measure in scores[baseline]):
            difference = columns["mean", own, measure] - columns["mean", baseline, measure]
            columns["ahead", baseline, measure] = difference
    num_patients = count if clusters is None else len(np.unique(clusters))
    values = np.stack(list(columns.values()), axis=1)
    floors = np.array([-1.0 if kind == "ahead" else 0.0 for kind, _, _ in columns])
    estimates = dict(zip(columns, estimate_means(values, floors, num_patients, clusters, resamples, seed), strict=True))

    def taken_from(kind: str, name: str) -> dict[str, Estimate]:
        return {measure: value for (of, key, measure), value in estimates.items() if (of, key) == (kind, name)}

    return Group(
        images=count,
        patients=num_patients,
        maps={name: taken_from("mean", name) for name in scores},
        ahead={name: taken_from("ahead", name) for name in baselines},
    )


def ahead_of(
    scores: Mapping[str, NDArray],
    other: Mapping[str, NDArray],
    *,
    patients: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return by how much the map of one model is ahead of that of another on the same images, by measure.

    Args:
        scores: By measure, float64 `[N]`.
        other: Of the other model, in the same order; measures that it lacks are left out.
        patients: Patient of each image `[N]`; by default each image is of one of its own.
        resamples: Number of resamples.
        seed: Of the draws.

    Raises:
        ValueError: The images are not as many.
    """
    measures = [measure for measure in scores if measure in other]
    if any(scores[measure].shape != other[measure].shape for measure in measures):
        raise ValueError("expected the scores of the same images of both models")
    differences = np.stack([scores[measure] - other[measure] for measure in measures], axis=1)
    usable = ~np.isnan(differences).any(axis=1)
    clusters = None if patients is None else np.asarray(patients)[usable]
    num_patients = int(usable.sum()) if clusters is None else len(np.unique(clusters))
    floors = np.full(len(measures), -1.0)
    found = estimate_means(differences[usable], floors, num_patients, clusters, resamples, seed)
    return dict(zip(measures, found, strict=True))
