"""What differs along an axis: paired on all others, over other patients and over other trainings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ols.evaluation.folds import OutOfFold
from ols.evaluation.measures import measures_of
from ols.metrics.auc import auc_difference
from ols.metrics.measures import find_measure
from ols.metrics.resampling import (
    PairedDifference,
    Statistic,
    enough_resamples,
    holm,
    resample,
)
from ols.studies.findings.trainings import Way, describe, repetition, shared_repetitions
from ols.studies.labels import FOLD, SEED
from ols.studies.statistics import Paired, TrainedCell, paired_trainings
from ols.tasks.binary import Binary

SHOWN = 0.05  # adjusted p below which a difference is called shown


@dataclass(frozen=True)
class Difference:
    """A value of an axis less the reference, in one measure, where all other axes are the same.

    Args:
        axis: Name of the axis.
        first: Label of the value.
        second: Label of the reference.
        setting: Labels on the other axes.
        measure: Name of the measure.
        values: Of either: the mean over seeds, of all folds together.
        together: Over patients drawn anew, all folds in one.
        within: The same for the mean over folds.
        delong: Where there is one fold, one seed, and one image a patient: by DeLong's formula.
        trainings: Over pairs of the same fold and seed; None without a pair that both have a number for.
        p_patients: That of `together`, adjusted by Holm over the family.
        p_trainings: The corrected t-test's where there are several folds with test images of their own, else that of
            flipping signs; likewise adjusted. NaN with less than two pairs, or where all folds differ by the same.
        family: Number of differences of this measure.
    """

    axis: str
    first: str
    second: str
    setting: dict[str, str]
    measure: str
    values: tuple[float, float]
    together: PairedDifference
    within: PairedDifference
    delong: PairedDifference | None
    trainings: Paired | None
    p_patients: float
    p_trainings: float
    family: int

    @property
    def better(self) -> bool | None:
        """Whether the value is better than the reference; None where neither is."""
        if not self.together.difference or math.isnan(self.together.difference):
            return None
        return (self.together.difference > 0) == find_measure(self.measure).higher_is_better


def compare_along(
    ways: Sequence[Way], along: str, *, reference: str | None = None, resamples: int | None = None, seed: int = 0
) -> list[Difference]:
    """Compare every value of an axis with the reference, in the measure that chose, and ECE, Brier score and AURC.

    Over folds and seeds that both have: seeds are averaged, and the same patients are drawn for all of them. What has
    no partner is not compared.

    Args:
        ways: What `choose_ways` returns.
        along: Name of the axis.
        reference: Label of the value that is subtracted; by default the first.
        resamples: Number of draws of patients; by default `enough_resamples` of the comparisons of a measure.
        seed: Of the draws.

    Raises:
        ValueError: There is no such axis or value, or two values were tested on other images.
    """
    if along not in ways[0].labels:
        raise ValueError(f"no axis {along!r} to compare along; there are {', '.join(ways[0].labels)}")
    labels = list(dict.fromkeys(way.labels[along] for way in ways))
    reference = labels[0] if reference is None else reference
    if reference not in labels:
        raise ValueError(f"{along} has no value {reference!r}; there are {', '.join(labels)}")
    places: dict[tuple, dict[str, Way]] = {}
    for way in ways:
        setting = tuple(item for item in way.labels.items() if item[0] != along)
        places.setdefault(setting, {})[way.labels[along]] = way
    if resamples is None:
        family = sum(len(there) - 1 for there in places.values() if reference in there)
        resamples = enough_resamples(family)
    found: list[Difference] = []
    for setting, there in places.items():
        for label in labels:
            if label != reference and label in there and reference in there:
                try:
                    found += _differences(there[label], there[reference], along, dict(setting), resamples, seed)
                except ValueError as error:
                    where = describe(dict(setting)) or along
                    raise ValueError(f"{where}: {label} and {reference}: {error}") from error
    return _adjusted(found)


def _differences(
    first: Way, second: Way, along: str, setting: dict[str, str], resamples: int, seed: int
) -> list[Difference]:
    shared = shared_repetitions(first, second)
    if not shared:
        return []
    ones, others = first.by_seed(shared), second.by_seed(shared)
    seeds = list(ones)
    base = ones[seeds[0]]
    statistics = [{name: _both(way, base) for name, way in pair.items()} for pair in (ones, others)]
    names = [
        name for name in statistics[0][seeds[0]] if all(name in one for each in statistics for one in each.values())
    ]

    def differences(counts: NDArray) -> NDArray:
        """Return first less second `[R, M, 2]`, and both of them together `[R, M, 4]`."""
        means = [
            np.mean([[part(counts) for part in each[s][name]] for s in seeds], axis=0)
            for name in names
            for each in statistics
        ]
        return np.array(means).reshape(len(names), 4, len(counts)).transpose(2, 0, 1)

    estimate = differences(np.ones((1, len(base.sample_ids))))[0]
    drawn = resample(
        differences, len(base.sample_ids), resamples=resamples, seed=seed, clusters=np.array(base.patients)
    )
    by_training = [_by_training(way, names) for way in (first, second)]
    folds = 1 if base.has_fixed_test else max(len(way.folds) for way in ones.values())  # with other patients in each
    found = []
    for number, name in enumerate(names):
        # Columns: first together and within folds, second together and within folds
        at, draws = estimate[number], drawn[:, number]
        together, within = (PairedDifference.of_draws(at[i] - at[i + 2], draws[:, i] - draws[:, i + 2]) for i in (0, 1))
        trainings = _trainings(by_training, name, along, first.labels[along], second.labels[along], folds)
        if trainings is None or trainings.pairs < 2:
            p_trainings = math.nan
        else:
            p_trainings = trainings.p_corrected if folds > 1 else trainings.p_sign_flip
        single = len(seeds) == len(base.folds) == 1
        delong = _delong(base, others[seeds[0]]) if name == "auc" and single else None
        labels = (first.labels[along], second.labels[along])
        values = (float(at[0]), float(at[2]))
        found.append(
            Difference(
                along, *labels, setting, name, values, together, within, delong, trainings,
                together.p_value, p_trainings, 1,
            )
        )  # fmt: skip
    return found


def _both(way: OutOfFold, base: OutOfFold) -> dict[str, tuple[Statistic, Statistic]]:
    """Return each measure of all folds together, and its mean over folds, from counts of the images of `base`."""
    place = {name: index for index, name in enumerate(base.sample_ids)}
    if place.keys() != set(way.sample_ids):
        raise ValueError(f"they were tested on other images: {len(place)} and {len(way.sample_ids)}")
    order = np.array([place[name] for name in way.sample_ids])
    if not np.array_equal(np.array(base.patients)[order], way.patients):
        raise ValueError("their images have other patients")
    whole = measures_of(way.tasks[0], way.outputs, way.targets, way.measure)
    pairs = zip(way.tasks, way.folds, strict=True)
    parts = [measures_of(task, fold.logits, fold.targets, way.measure) for task, fold in pairs]
    ends = np.cumsum([len(fold.targets) for fold in way.folds])[:-1]

    def pair(name: str) -> tuple[Statistic, Statistic]:
        def within(counts: NDArray) -> NDArray:
            with np.errstate(invalid="ignore", divide="ignore"):
                each = np.split(counts[:, order], ends, axis=1)
                return np.mean([part[name](own) for part, own in zip(parts, each, strict=True)], axis=0)

        return (within if way.has_fixed_test else lambda counts: whole[name](counts[:, order])), within

    return {name: pair(name) for name in whole if all(name in part for part in parts)}


def _by_training(way: Way, names: Sequence[str]) -> dict[str, list[TrainedCell]]:
    found: dict[str, list[TrainedCell]] = {name: [] for name in names}
    for cell in way.chosen:
        measures = measures_of(cell.task, cell.test.logits, cell.test.targets, cell.measure)
        for name in names:
            value = float(measures[name](np.ones((1, len(cell.test.targets))))[0]) if name in measures else math.nan
            if math.isfinite(value):
                found[name].append(TrainedCell(cell.labels, value, value))
    return found


def _trainings(
    by_training: Sequence[dict[str, list[TrainedCell]]], name: str, along: str, first: str, second: str, folds: int
) -> Paired | None:
    places = [{repetition(cell.labels) for cell in each[name]} for each in by_training]
    if not places[0] & places[1]:
        return None
    free = [axis for axis in by_training[0][name][0].labels if axis not in (FOLD, SEED, along)]
    cells = [cell for each in by_training for cell in each[name]]
    repeats = (SEED,) if folds > 1 else (FOLD, SEED)
    return paired_trainings(cells, along, first, second, test_share=1 / max(folds, 2), free=free, repeats=repeats)


def _delong(first: OutOfFold, second: OutOfFold) -> PairedDifference | None:
    task, other = first.tasks[0], second.tasks[0]
    if not isinstance(task, Binary) or not isinstance(other, Binary) or len(set(first.patients)) < len(first.patients):
        return None
    score, positive = task.score(first.outputs, first.targets)
    of_second, _ = other.score(second.outputs, second.targets)
    place = {name: index for index, name in enumerate(second.sample_ids)}
    return auc_difference(score, of_second[[place[name] for name in first.sample_ids]], positive)


def _adjusted(differences: Sequence[Difference]) -> list[Difference]:
    """Adjust both p of each measure over all differences in it."""
    found = {}
    for measure in dict.fromkeys(one.measure for one in differences):
        places = [i for i, one in enumerate(differences) if one.measure == measure]
        patients, trainings = (
            holm([getattr(differences[i], name) for i in places]) for name in ("p_patients", "p_trainings")
        )
        for i, p, q in zip(places, patients, trainings, strict=True):
            found[i] = replace(differences[i], p_patients=p, p_trainings=q, family=len(places))
    return [found[i] for i in range(len(differences))]
