"""What each way to train comes to by itself: the table that all differences are taken from."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ols.evaluation.measures import measures_of, possible_interval
from ols.metrics.measures import find_measure
from ols.metrics.resampling import PairedDifference, Statistic, resample
from ols.studies.findings.trainings import Way, describe
from ols.tasks.report.parts import Cell, Column, Row, Section, Table, Text

RESAMPLES = 2000
BESIDE = ("brier_positive", "brier", "aurc")  # that are means over folds and seeds as the measure that chose is


def values_section(ways: Sequence[Way], *, resamples: int = RESAMPLES, seed: int = 0) -> Section:
    """Return the table of each way's measure, Brier score, AURC and ECE, with intervals."""
    found = [measure_way(way, resamples=resamples, seed=seed) for way in ways]
    eces = [_ece(way) for way in ways]
    shown = [name for name in BESIDE if any(name in values for values in found)]
    has_ece = any(ece.text for ece in eces)
    rows = []
    for way, values, ece in zip(ways, found, eces, strict=True):
        cells = [Cell(describe(way.labels) or "all"), Cell(find_measure(way.measure).label)]
        cells += [_cell(name, values) for name in (way.measure, *shown)]
        rows.append(Row(cells + ([ece] if has_ece else [])))
    columns = [Column("cells of"), Column("measure"), Column("mean of folds and seeds", True)]
    columns += [Column(find_measure(name).label, True) for name in shown]
    columns += [Column("ECE of all folds", True)] if has_ece else []
    note = Text(
        "In brackets 95 % intervals over patients drawn anew, for these very networks, of the ECE over images. Null: "
        "the ECE that chance alone would give a perfectly calibrated model. An ECE close to it says nothing against "
        "the model, and differences between such ECEs say little."
    )
    return Section("values", "What each comes to", [Table(columns, rows), note])


def measure_way(way: Way, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """Return measures of a way to train, each the mean over folds and seeds, with its 95 % interval.

    A patient is drawn anew together with all images, for all seeds alike.

    Args:
        way: The way.
        resamples: Number of draws.
        seed: Of the draws.

    Returns:
        Value, lower and upper end (NaN where no draw differs) by name: the measure that chose, of classes also Brier
        score and AURC.
    """
    trained = list(way.by_seed().values())
    patients = {name: patient for one in trained for name, patient in zip(one.sample_ids, one.patients, strict=True)}
    place = {name: number for number, name in enumerate(patients)}
    parts: list[tuple[NDArray, dict[str, Statistic]]] = []
    for one in trained:
        for task, fold in zip(one.tasks, one.folds, strict=True):
            images = np.array([place[name] for name in fold.sample_ids])
            parts.append((images, measures_of(task, fold.logits, fold.targets, way.measure)))
    names = [name for name in (way.measure, *BESIDE) if all(name in part for _, part in parts)]

    def means(counts: NDArray) -> NDArray:
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw in which a class is missing from a fold
            each = [[part[name](counts[:, images]) for images, part in parts] for name in names]
        return np.mean(each, axis=1).T

    at = means(np.ones((1, len(place))))[0]
    drawn = resample(means, len(place), resamples=resamples, seed=seed, clusters=np.array(list(patients.values())))
    found = {name: PairedDifference.of_draws(*one) for name, *one in zip(names, at, drawn.T, strict=True)}
    return {name: (one.difference, *possible_interval(name, one.low, one.high)) for name, one in found.items()}


def _cell(name: str, values: dict[str, tuple[float, float, float]]) -> Cell:
    if name not in values:
        return Cell("")
    text, (value, low, high) = find_measure(name).text, values[name]
    return Cell(text(value)) if math.isnan(low) else Cell(text(value), beside=f"({text(low)} to {text(high)})")


def _ece(way: Way) -> Cell:
    metrics = [one.metrics for one in way.evaluations]
    if any("ece_null" not in one for one in metrics):
        return Cell("")
    ece, low, high, null = (
        float(np.mean([one[name] for one in metrics])) for name in ("ece", "ece_low", "ece_high", "ece_null")
    )
    return Cell(f"{ece:.4f}", beside=f"({low:.4f} to {high:.4f}, null {null:.4f})")
