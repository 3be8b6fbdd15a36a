"""Which cell validation chooses, and which cells are the folds and the seeds of one way to train."""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ols.evaluation.evaluate import Evaluation
from ols.evaluation.folds import OutOfFold
from ols.metrics.measures import find_measure
from ols.studies.labels import FOLD, SEED
from ols.studies.results import CellResult
from ols.studies.statistics import Choice, TrainedCell, choose_on_validation


@dataclass(frozen=True)
class Way:
    """A way to train, over its folds and seeds, with what validation chose in each of them.

    Args:
        labels: Label on each axis but fold, seed and those that are chosen over.
        choice: What comes of choosing, by the cells' measure.
        chosen: The cell that validation chose in each fold and seed.
        cells: All of them.
    """

    labels: dict[str, str]
    choice: Choice
    chosen: list[CellResult]
    cells: list[CellResult]

    @property
    def measure(self) -> str:
        """Name of the measure that chose on validation, in which it is compared."""
        return self.chosen[0].measure

    @property
    def repetitions(self) -> set[tuple[str, str]]:
        """Labels of fold and seed of each chosen cell, empty where there is no such axis."""
        return {repetition(cell.labels) for cell in self.chosen}

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """What each seed comes to, all folds together."""
        return [folds.evaluation() for folds in self.by_seed().values()]

    def by_seed(self, only: Container[tuple[str, str]] | None = None) -> dict[str, OutOfFold]:
        """Return the predictions of all folds together, by the label of the seed.

        Args:
            only: Repetitions that count; by default all.

        Raises:
            ValueError: An image was predicted in two folds; the message has the labels.
        """
        groups: dict[str, list[CellResult]] = {}
        for cell in self.chosen:
            if only is not None and repetition(cell.labels) not in only:
                continue
            groups.setdefault(cell.labels.get(SEED, ""), []).append(cell)
        found = {}
        for seed, cells in groups.items():
            cells = sorted(cells, key=lambda cell: cell.labels.get(FOLD, ""))
            try:
                found[seed] = OutOfFold([cell.test for cell in cells], [cell.task for cell in cells], self.measure)
            except ValueError as error:
                raise ValueError(f"{describe(self.labels)}: {error}") from error
        return found


def choose_ways(cells: Sequence[CellResult], choose_over: Sequence[str] = ()) -> list[Way]:
    """Choose within each fold and seed the cell that did best on validation, and gather folds and seeds.

    Args:
        cells: Of a study.
        choose_over: Axes to choose over, such as the learning rate.

    Returns:
        A way for each combination of labels on the other axes, in the order of the cells.

    Raises:
        ValueError: There is no cell, an axis is unknown or cannot be chosen over, or two cells have the same labels.
    """
    if not cells:
        raise ValueError("expected the cells of a study, got none")
    axes = list(cells[0].labels)
    for axis in choose_over:
        if axis not in axes:
            raise ValueError(f"no axis {axis!r} to choose over; there are {', '.join(axes)}")
        if axis in (FOLD, SEED):
            raise ValueError(f"{axis} is no axis to choose over: its values are repetitions")
    places: set[tuple[tuple[str, str], ...]] = set()
    groups: dict[tuple[tuple[str, str], ...], list[CellResult]] = {}
    for cell in cells:
        if list(cell.labels) != axes:
            raise ValueError(f"{cell.run_dir} has the axes {', '.join(cell.labels)}, the first cell {', '.join(axes)}")
        if (place := tuple(cell.labels.items())) in places:
            raise ValueError(f"two cells have the same labels: {describe(cell.labels)}")
        places.add(place)
        own = tuple(item for item in cell.labels.items() if item[0] not in (FOLD, SEED, *choose_over))
        groups.setdefault(own, []).append(cell)
    ways = []
    for labels, members in groups.items():
        names = {cell.measure for cell in members}
        if len(names) > 1:
            raise ValueError(f"{describe(dict(labels))}: cells are measured by {' and '.join(sorted(names))}")
        higher = find_measure(names.pop()).higher_is_better
        trained = {id(one): (one, cell) for cell in members for one in [_measured(cell)]}
        choice = choose_on_validation(
            [one for one, _ in trained.values()], choose_over, higher_is_better=higher is not False
        )
        chosen = [trained[id(one)][1] for one in choice.chosen]
        ways.append(Way(dict(labels), choice, chosen, members))
    return ways


def shared_repetitions(first: Way, second: Way) -> set[tuple[str, str]]:
    """Return folds and seeds that two ways both have, of those seeds alone that have the most folds.

    They are all of them in a study that is complete.
    """
    shared = first.repetitions & second.repetitions
    folds = {seed: {fold for fold, other in shared if other == seed} for _, seed in shared}
    most = max(folds.values(), key=len, default=set())
    return {(fold, seed) for fold, seed in shared if folds[seed] == most}


def repetition(labels: Mapping[str, str]) -> tuple[str, str]:
    """Return the labels of fold and seed, empty where there is no such axis."""
    return labels.get(FOLD, ""), labels.get(SEED, "")


def describe(labels: dict[str, str]) -> str:
    """Return labels in words, those that begin with a digit after the name of their axis; empty without any."""
    return ", ".join(f"{axis} {label}" if label[:1].isdigit() else label for axis, label in labels.items())


def early_area(curve: Sequence[tuple[float, float]], *, epochs: float = 10) -> float:
    """Return the mean height of a validation curve over its first epochs: the area under straight lines by its width.

    Args:
        curve: Epoch and measure, in any order.
        epochs: Where to stop; between two points the curve is cut.

    Returns:
        NaN without two points up to there, or where one of them is NaN.
    """
    points = np.array(sorted(curve), np.float64).reshape(-1, 2)
    x, y = points.T
    inside = x <= epochs
    if len(x) and x[-1] > epochs and inside.any():
        x, y = np.append(x[inside], epochs), np.append(y[inside], np.interp(epochs, x, y))
    else:
        x, y = x[inside], y[inside]
    if len(x) < 2 or x[-1] == x[0]:
        return math.nan
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def _measured(cell: CellResult) -> TrainedCell:
    return TrainedCell(cell.labels, *(cell.value(split) for split in (cell.val, cell.test)))
