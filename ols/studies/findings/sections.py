"""The sections of a study's page, each from what was found to tables and pictures."""

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ols.evaluation.evaluate import Evaluation
from ols.metrics.measures import find_measure
from ols.studies.findings.differences import SHOWN, Difference
from ols.studies.findings.pictures import draw_cells, draw_differences, draw_lines, draw_reliability
from ols.studies.findings.trainings import Way, describe, early_area
from ols.studies.findings.words import count_of, interval, p_text, signed, verdict
from ols.studies.statistics import spearman
from ols.tasks.report.parts import Cell, Column, Drawing, Drawings, Row, Section, Table, Text

EARLY_EPOCHS = 10
MOST_PANELS = 24  # of a picture
OF_ONE_CELL = ("command", "weights", "split")  # conditions that tell nothing of a study


def difference_section(differences: Sequence[Difference], remarks: Sequence[str]) -> Section:
    """Return the forest and the table of differences in the measures that choose, then of all others."""
    parts: list[Any] = [Text(text) for text in remarks]
    for measure in dict.fromkeys(one.measure for one in differences):
        values = list(dict.fromkeys(one.first for one in differences))
        own = [one for first in values for one in differences if (one.measure, one.first) == (measure, first)]
        known = find_measure(measure)
        title = f"{own[0].axis}: value less {own[0].second}"
        several = len({one.first for one in own}) > 1
        rows = [
            (
                _row_name(one, several=several),
                one.together,
                min(_number(one.p_patients), _number(one.p_trainings)) < SHOWN,
            )
            for one in own
        ]
        parts.append(Text(known.label, "heading"))
        drawing = draw_differences(rows, known, title)
        caption = "95 % intervals over patients, all folds together. Filled: shown for other patients or trainings."
        parts.append(Drawings([Drawing(drawing, f"Differences in {known.label}", caption)]))
        parts.append(_difference_table(own))
    return Section("differences", "Differences", parts)


def choice_section(ways: Sequence[Way], choose_over: Sequence[str]) -> Section:
    """Return what validation chose and how it did, beside all cells and beside choosing on the test itself."""
    over = ", ".join(choose_over)
    lede = (
        f"Within each fold and seed, validation chose the {over}; the test of what it chose is reported."
        if over
        else "Nothing was chosen but the epoch: every cell is reported."
    )
    columns = [Column("cells of"), Column("measure"), Column("chosen", True), Column("all cells", True)]
    columns += [Column("choosing on the test would add", True), Column("cells", True)]
    if over:
        columns.append(Column("chosen values"))
    rows = []
    for way in ways:
        choice, measure = way.choice, find_measure(way.measure)
        spread = measure.text(choice.deviation_of_all)
        cells = [
            Cell(describe(way.labels) or "all"),
            Cell(measure.label),
            Cell(measure.text(choice.mean)),
            Cell(measure.text(choice.mean_of_all), beside=f"± {spread}"),
            Cell(measure.text(choice.flattery)),
            Cell(f"{len(way.cells):,}"),
        ]
        if over:
            values = [" / ".join(cell.labels[axis] for axis in choose_over) for cell in way.chosen]
            counts = {value: values.count(value) for value in sorted(set(values), key=values.count, reverse=True)}
            cells.append(Cell(", ".join(f"{value} ({count} of {len(values)})" for value, count in counts.items())))
        rows.append(Row(cells))
    note = Text("Chosen: mean over folds and seeds. All cells: mean and standard deviation, however they did.")
    return Section("choice", "What was chosen", [Text(lede, "introduction"), Table(columns, rows), note])


def cells_section(ways: Sequence[Way], along: str) -> Section:
    """Return how all cells are distributed, a panel a target."""
    drawings = []
    for measure, own in _by_measure(ways).items():
        panels: dict[str, dict[str, list[float]]] = {}
        for way in own:
            tests = [value for value in _tests(way) if math.isfinite(value)]
            if tests:
                panels.setdefault(_panel(way, along), {})[way.labels[along]] = tests
        if panels:
            caption = "A point is the test of a chosen cell, in one fold; diamonds are mean and standard deviation."
            shown, caption = _few(panels, caption)
            known = find_measure(measure)
            drawings.append(Drawing(draw_cells(shown, known), f"Test {known.label} of the chosen cells", caption))
    return Section("cells-drawn", "How much folds and seeds differ", [Drawings([one]) for one in drawings])


def number_section(ways: Sequence[Way], along: str, axes: Sequence[str]) -> Section | None:
    """Return the measure against each axis of numbers, such as the share of data, and against parameters."""
    parts: list[Any] = []
    for axis in axes:
        parts.append(Text(f"Against {axis}", "heading"))
        parts += _lines(ways, along, axis, lambda way, axis=axis: number_of(way.labels[axis]), [axis])  # type: ignore[misc]
    sizes = [{cell.parameters for cell in way.chosen} for way in ways]  # several where heads are chosen over
    if all(len(own) == 1 for own in sizes) and len(set.union(*sizes)) > 1:
        free = [
            axis
            for axis in ways[0].labels
            if axis not in (along, *axes)
            and len({(way.labels[axis], way.chosen[0].parameters) for way in ways})
            == len({way.chosen[0].parameters for way in ways})
        ]
        parts.append(Text("Against parameters", "heading"))
        parts += _lines(
            ways, along, "million parameters", lambda way: way.chosen[0].parameters / 1e6, free, logarithmic=True
        )
        parts += _correlations(ways, along, free)
    return Section("curves", "Curves", parts) if parts else None


def early_section(ways: Sequence[Way], along: str) -> Section | None:
    """Return the mean validation curves of the first epochs, and the mean height below each."""
    parts: list[Any] = []
    for measure, own in _by_measure(ways).items():
        panels: dict[str, dict[str, NDArray]] = {}
        rows = []
        for way in own:
            points = _mean_curve([cell.curve for cell in way.chosen])
            areas = np.array([early_area(cell.curve, epochs=EARLY_EPOCHS) for cell in way.chosen])
            areas = areas[np.isfinite(areas)]
            if not len(points) or not len(areas):
                continue
            panels.setdefault(_panel(way, along), {})[way.labels[along]] = points
            known = find_measure(measure)
            spread = f"± {known.text(areas.std(ddof=1))}" if len(areas) > 1 else ""
            rows.append(
                Row([Cell(describe(way.labels)), Cell(known.text(areas.mean()), beside=spread), Cell(str(len(areas)))])
            )
        if panels:
            label = find_measure(measure).label
            shown, caption = _few(panels, "Mean over folds and seeds, with one standard deviation.")
            figure = draw_lines(shown, across="epoch", up=f"validation {label}")
            parts.append(Drawings([Drawing(figure, f"Validation {label} by epoch", caption)]))
            columns = [Column(""), Column(f"mean {label} of the first epochs", True), Column("trainings", True)]
            parts.append(Table(columns, rows))
    if not parts:
        return None
    lede = f"Who is ahead early: validation over the first {EARLY_EPOCHS} epochs of the chosen cells."
    return Section("early", "The first epochs", [Text(lede, "introduction"), *parts])


def calibration_section(ways: Sequence[Way], along: str) -> Section | None:
    """Return the reliability of each value."""
    panels: dict[str, dict[str, NDArray]] = {}
    for way in ways:
        if all("reliability" in one.tables for one in way.evaluations):
            panels.setdefault(_panel(way, along), {})[way.labels[along]] = _reliability(way.evaluations)
    if not panels:
        return None
    shown, caption = _few(panels, "All folds and seeds together; a larger point holds more images.")
    drawing = Drawing(draw_reliability(shown), "Accuracy against confidence", caption)
    return Section("calibration", "Calibration", [Drawings([drawing])])


def columns_section(ways: Sequence[Way]) -> Section | None:
    """Return further numbers of the chosen cells, such as similarity or localisation: mean and standard deviation."""
    names = list(dict.fromkeys(name for way in ways for cell in way.chosen for name in cell.columns))
    if not names:
        return None
    rows = []
    for way in ways:
        cells = [Cell(describe(way.labels))]
        for name in names:
            values = np.array([cell.columns[name] for cell in way.chosen if name in cell.columns])
            values = values[np.isfinite(values)]
            spread = f"± {values.std(ddof=1):.4g}" if len(values) > 1 else ""
            cells.append(Cell(f"{values.mean():.4g}" if len(values) else "n/a", beside=spread))
        rows.append(Row(cells))
    return Section("columns", "Further numbers", [Table([Column(""), *(Column(name, True) for name in names)], rows)])


def cost_section(ways: Sequence[Way], along: str) -> Section:
    """Return hours and parameters by the values of the axis."""
    columns = [Column(along), Column("cells", True), Column("hours", True), Column("seconds a cell", True)]
    columns += [Column("timed", True), Column("parameters", True)]
    rows = []
    for label in dict.fromkeys(way.labels[along] for way in ways):
        cells = [cell for way in ways if way.labels[along] == label for cell in way.cells]
        times = [cell.seconds for cell in cells if cell.seconds is not None]
        sizes = [cell.parameters for cell in cells]
        span = f"{min(sizes):,}" + (f" to {max(sizes):,}" if max(sizes) > min(sizes) else "")
        rows.append(
            Row(
                [
                    Cell(label),
                    Cell(f"{len(cells):,}"),
                    Cell(f"{sum(times) / 3600:.2f}" if times else "n/a"),
                    Cell(f"{np.mean(times):.1f}" if times else "n/a"),
                    Cell(f"{len(times):,}"),
                    Cell(span),
                ]
            )
        )
    return Section("cost", "Cost", [Table(columns, rows)])


def links_section(ways: Sequence[Way], folder: Path) -> Section:
    """Return conditions, and every cell with its labels, tests and a link to its folder."""
    axes = list(ways[0].cells[0].labels)
    rows = []
    for way in ways:
        known, chosen = find_measure(way.measure), {id(cell) for cell in way.chosen}
        for cell, test, val in zip(way.cells, _tests(way, every=True), _tests(way, every=True, val=True), strict=True):
            link = Path(os.path.relpath(cell.run_dir.resolve(), folder.resolve())).as_posix()
            rows.append(
                Row(
                    [
                        *(Cell(cell.labels[axis]) for axis in axes),
                        Cell(known.label),
                        Cell(known.text(val)),
                        Cell(known.text(test)),
                        Cell("yes" if id(cell) in chosen else ""),
                        Cell(cell.run_dir.name, link=link),
                    ]
                )
            )
    columns = [Column(axis) for axis in axes]
    columns += [Column("measure"), Column("val", True), Column("test", True), Column("chosen"), Column("folder")]
    return Section("links", "Cells", [Table(columns, rows, fold=f"All {len(rows):,} cells")])


def conditions_section(ways: Sequence[Way]) -> Section:
    """Return under which conditions the predictions came about: each value, and of how many cells it is.

    What is of one cell alone, such as its weights and its command, is left to its predictions.
    """
    values: dict[str, list[str]] = {}
    for way in ways:
        for cell in way.cells:
            for name, value in cell.test.conditions.items():
                if name not in OF_ONE_CELL:
                    values.setdefault(name, []).append(_condition(name, value))
    rows = []
    for name, texts in values.items():
        counts = Counter(sorted(texts) if name == "date" else texts)
        if name == "date" or len(counts) == 1:
            said = " to ".join(dict.fromkeys([next(iter(counts)), list(counts)[-1]]))
        else:
            said = "; ".join(f"{text} ({count_of(count, 'cell')})" for text, count in counts.most_common())
        rows.append(Row([Cell(name.replace("_", " ")), Cell(said)]))
    table = Table([Column(""), Column("")], rows, otherwise="The predictions have no conditions.")
    note = Text("Not a medical device, and no evidence that a model may be used on patients.")
    return Section("conditions", "Conditions", [table, note])


def number_of(label: str) -> float:
    """Return the number that a label is, such as 0.05 of `5%` and of `0.05`; NaN where it is none."""
    text = label.strip()
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return math.nan


def _condition(name: str, value: Any) -> str:
    """Return what a condition is: a date by its day, versions by their packages."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return str(value)[: len("2026-01-31")] if name == "date" else str(value)


def _difference_table(own: Sequence[Difference]) -> Table:
    measure = own[0].measure
    somewhere = any(describe(one.setting) for one in own)
    columns = [
        Column(own[0].axis),
        *([Column("where")] if somewhere else []),
        Column("value, reference", True),
        Column("difference", True),
    ]
    columns += [Column("Holm p, patients", True), Column("trainings", True), Column("Holm p, trainings", True)]
    columns.append(Column("shown"))
    rows = []
    for one in own:
        first, second = (find_measure(measure).text(value) for value in one.values)
        below = []
        if not _same(one.together, one.within):
            found = one.within
            below.append(
                f"within folds {signed(measure, found.difference)} ({interval(measure, found.low, found.high)})"
            )
        if one.delong:
            below.append(f"DeLong {interval(measure, one.delong.low, one.delong.high)}, p {p_text(one.delong.p_value)}")
        together = f"({interval(measure, one.together.low, one.together.high)})"
        pairs, tests = "none", []
        if one.trainings:
            pairs = f"{count_of(one.trainings.pairs, 'pair')}, {signed(measure, one.trainings.difference)}"
            tests = [f"flips p {p_text(one.trainings.p_sign_flip)}, at least {one.trainings.floor:.2g}"]
        rows.append(
            Row(
                [
                    Cell(one.first),
                    *([Cell(describe(one.setting))] if somewhere else []),
                    Cell(f"{first}, {second}"),
                    Cell(signed(measure, one.together.difference), beside=together, below=below),
                    Cell(p_text(one.p_patients)),
                    Cell(pairs, below=tests),
                    Cell(p_text(one.p_trainings)),
                    Cell(verdict(one)),
                ]
            )
        )
    return Table(columns, rows)


def _lines(
    ways: Sequence[Way],
    along: str,
    across: str,
    x_of: Callable[[Way], float],
    free: Sequence[str],
    *,
    logarithmic: bool = False,
) -> list[Drawings]:
    drawings = []
    for measure, own in _by_measure(ways).items():
        panels: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
        for way in own:
            tests = np.array(_tests(way))
            spread = float(tests.std(ddof=1)) if len(tests) > 1 else math.nan
            place = panels.setdefault(_panel(way, along, *free), {})
            place.setdefault(way.labels[along], []).append((x_of(way), float(tests.mean()), spread))
        arrays = {
            panel: {name: np.array(sorted(points)) for name, points in lines.items()} for panel, lines in panels.items()
        }
        label = find_measure(measure).label
        shown, caption = _few(arrays, "Mean of the chosen cells over folds and seeds, with one standard deviation.")
        figure = draw_lines(shown, across=across, up=f"test {label}", logarithmic=logarithmic)
        drawings.append(Drawings([Drawing(figure, f"Test {label} against {across}", caption)]))
    return drawings


def _correlations(ways: Sequence[Way], along: str, free: Sequence[str]) -> list[Text]:
    groups: dict[str, list[Way]] = {}
    for way in ways:
        groups.setdefault(f"{way.labels[along]} {_panel(way, along, *free)}".strip(), []).append(way)
    words = []
    for name, own in groups.items():
        left_out = len(own) - len(own := [way for way in own if math.isfinite(way.choice.mean)])
        if len({way.chosen[0].parameters for way in own}) < 2:
            continue
        found = spearman([way.chosen[0].parameters for way in own], [way.choice.mean for way in own])
        limits = "no interval" if math.isnan(found.low) else f"95 % interval {found.low:.2f} to {found.high:.2f}"
        few = f"; {found.pairs} networks are few" if found.pairs <= 16 else ""
        few += f"; without {left_out} whose measure is undefined" if left_out else ""
        words.append(Text(f"{name}: Spearman {found.value:.2f} ({limits}), p {p_text(found.p_value)}{few}."))
    return words


def _mean_curve(curves: Sequence[Sequence[tuple[float, float]]]) -> NDArray:
    """Return epoch, mean and standard deviation at the early epochs that all curves have `[P, 3]`."""
    known = [{epoch: value for epoch, value in curve if epoch <= EARLY_EPOCHS} for curve in curves if curve]
    if not known:
        return np.empty((0, 3))
    shared = sorted(set(known[0]).intersection(*known[1:]))
    values = np.array([[curve[epoch] for epoch in shared] for curve in known])
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.full(len(shared), math.nan)
    return np.stack([np.array(shared, np.float64), values.mean(axis=0), spread], axis=1)


def _reliability(evaluations: Sequence[Evaluation]) -> NDArray:
    tables = np.array([one.tables["reliability"].numpy() for one in evaluations])
    count = tables[..., 0]
    with np.errstate(invalid="ignore"):
        means = (np.nan_to_num(tables[..., 1:]) * count[..., None]).sum(0) / count.sum(0)[:, None]
    return np.concatenate([count.sum(0)[:, None], means], axis=1)


def _tests(way: Way, *, every: bool = False, val: bool = False) -> list[float]:
    return [cell.value(cell.val if val else cell.test) for cell in (way.cells if every else way.chosen)]


def _few(panels: Mapping[str, Any], caption: str) -> tuple[dict[str, Any], str]:
    """Return as many panels as can be read, and a caption that says how many there are."""
    left = len(panels) - MOST_PANELS
    more = f" The first {MOST_PANELS} of {len(panels)} panels." if left > 0 else ""
    return dict(list(panels.items())[:MOST_PANELS]), caption + more


def _by_measure(ways: Sequence[Way]) -> Mapping[str, list[Way]]:
    found: dict[str, list[Way]] = {}
    for way in ways:
        found.setdefault(way.measure, []).append(way)
    return found


def _panel(way: Way, *without: str) -> str:
    return describe({axis: label for axis, label in way.labels.items() if axis not in without})


def _row_name(one: Difference, *, several: bool) -> str:
    where = describe(one.setting)
    return f"{one.first}: {where}" if several and where else where or one.first


def _number(p: float) -> float:
    return 1.0 if math.isnan(p) else p


def _same(one: Any, other: Any) -> bool:
    return np.array_equal(one, other, equal_nan=True)
