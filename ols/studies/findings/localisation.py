"""The section of a study's page on where networks look: all folds and seeds of a way together, and what differs."""

from collections.abc import Container, Mapping, Sequence
from itertools import chain

import numpy as np

from ols.evaluation.localised_images import Estimate, LocalisedImages
from ols.studies.findings.trainings import Way, describe, repetition, shared_repetitions
from ols.studies.findings.words import count_of
from ols.tasks.report.parts import Cell, Column, Part, Row, Section, Table, Text

TITLES = {
    "dice": "Dice at threshold",
    "dice_own_area": "Dice at own area",
    "pointing": "pointing game",
    "energy": "energy inside",
}


def localisation_section(ways: Sequence[Way], along: str, *, reference: str | None = None) -> Section | None:
    """Return how well the maps of each way hit the marked lesions, beside the centre prior, and what values differ in.

    Args:
        ways: Those of whose chosen cells all were localised have a part.
        along: Axis whose values are compared.
        reference: Label of the value that others are compared with; by default the first.
    """
    shown = [way for way in ways if all(cell.localised for cell in way.chosen)]
    if not shown:
        return None
    reference = ways[0].labels[along] if reference is None else reference
    pooled = [_pooled(way) for way in shown]
    means = [(images.means(), images.ahead().means(floor=-1.0)) for images in pooled]
    measures = [measure for measure in TITLES if all(measure in own for own, _ in means)]
    titles = [Column(TITLES[measure], True) for measure in measures]
    values, differences = [], []
    for way, images, (own, ahead) in zip(shown, pooled, means, strict=True):
        counts = f"{count_of(len(set(images.names)), 'image')}, {count_of(len(set(images.patients)), 'patient')}"
        cells = [Cell(f"{own[m].mean:.3f}", beside=_ends(own, m), below=[_signed(ahead, m)]) for m in measures]
        values.append(Row([Cell(describe(way.labels) or "all"), Cell(counts), *cells]))
        for other in shown:
            shared = shared_repetitions(way, other)
            if other is way or not shared or other.labels != way.labels | {along: reference}:
                continue
            one, base = _pooled(way, shared), _pooled(other, shared)
            if one.names == base.names:  # else they were marked by other files
                less = one.less(base).means(floor=-1.0)
                setting = describe({axis: label for axis, label in way.labels.items() if axis != along}) or "all"
                cells = [Cell(_signed(less, m)) for m in measures]
                differences.append(Row([Cell(setting), Cell(f"{way.labels[along]} less {reference}"), *cells]))
    parts: list[Part] = [
        Text(
            "Means over the marked test images of all folds and seeds; below by how much the map is ahead of the "
            "centre prior. Intervals of 95 % draw patients anew, and are not adjusted for their number; what other "
            "trainings would change is not in them.",
            "introduction",
        ),
        Table([Column("cells of"), Column("marked"), *titles], values),
        Table(
            [Column("cells of"), Column("difference"), *titles], differences, otherwise="There is nothing to compare."
        ),
    ]
    return Section("localisation", "Where networks look", parts)


def _pooled(way: Way, only: Container[tuple[str, str]] | None = None) -> LocalisedImages:
    """Return the images of a way's chosen cells together, by fold and seed, each cell's in the order of their names."""
    cells = {repetition(cell.labels): cell.localised for cell in way.chosen}
    parts = [
        images.in_order_of_names() for key, images in sorted(cells.items()) if images and (not only or key in only)
    ]
    return LocalisedImages(
        list(chain.from_iterable(part.names for part in parts)),
        list(chain.from_iterable(part.patients for part in parts)),
        {
            name: {
                measure: np.concatenate([part.scores[name][measure] for part in parts])
                for measure in of_map
                if all(measure in part.scores[name] for part in parts)
            }
            for name, of_map in parts[0].scores.items()
        },
    )


def _ends(means: Mapping[str, Estimate], measure: str, sign: str = "") -> str:
    low, high = means[measure].low, means[measure].high
    return "" if np.isnan(low) else f"({low:{sign}.3f} to {high:{sign}.3f})"


def _signed(means: Mapping[str, Estimate], measure: str) -> str:
    return f"{means[measure].mean:+.3f} {_ends(means, measure, '+')}".strip()
