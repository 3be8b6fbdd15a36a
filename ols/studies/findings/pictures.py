"""Pictures of a study: differences with intervals, all cells, curves against a number or an epoch, and reliability."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ols.metrics.measures import Measure
from ols.metrics.resampling import PairedDifference

COLOURS = ("#4c78a8", "#e45756", "#54a24b", "#b279a2", "#f2a541", "#72b7b2", "#9d755d", "#6b6b6b")

Lines = Mapping[str, NDArray]
"""By what the legend calls them: points `[P, 2]`, or with a standard deviation `[P, 3]`."""


def draw_differences(rows: Sequence[tuple[str, PairedDifference, bool]], measure: Measure, title: str) -> Figure:
    """Draw a forest: each difference with its 95 % interval, filled where it is shown.

    Args:
        rows: Name, difference, and whether it is shown.
        measure: Of which.
        title: What is subtracted from what.
    """
    unit = 100 if measure.percent else 1
    figure = Figure(
        figsize=(5.0, 1.3 + 0.44 * len(rows)), layout="constrained"
    )  # names stand above, for narrow screens
    axes = figure.subplots()
    axes.axvline(0, color="0.5", linewidth=1)
    for place, (name, found, shown) in enumerate(rows):
        axes.hlines(place, unit * found.low, unit * found.high, color=COLOURS[0], linewidth=1.6)
        face = COLOURS[0] if shown else "white"
        axes.plot(unit * found.difference, place, "o", color=COLOURS[0], markerfacecolor=face, markersize=6)
        axes.text(0.01, place - 0.24, name, transform=axes.get_yaxis_transform(), va="bottom", parse_math=False)
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.5, -0.8)
    better = {True: "better to the right", False: "better to the left", None: ""}[measure.higher_is_better]
    axes.set_xlabel(f"difference in {measure.label}{' [points]' if unit == 100 else ''}\n{better}".rstrip())
    axes.set_title(title, fontsize=10, parse_math=False)
    _grid(axes, "x")
    return figure


def draw_cells(cells: Mapping[str, Mapping[str, Sequence[float]]], measure: Measure) -> Figure:
    """Draw every cell as a point, and mean and standard deviation of each value, a panel for each target.

    Args:
        cells: Test measures by panel and by value.
        measure: Which.
    """
    unit = 100 if measure.percent else 1
    figure, panels = _panels(list(cells), height=1.1 + 0.34 * max(map(len, cells.values())))
    for axes, values in zip(panels, cells.values(), strict=True):
        for place, (tests, colour) in enumerate(zip(values.values(), _colours(len(values)), strict=True)):
            spread = unit * np.array(tests)
            shifts = np.linspace(-0.22, 0.22, len(spread)) if len(spread) > 1 else np.zeros(1)
            axes.plot(spread, place + shifts, "o", color=colour, markersize=3.5, alpha=0.5, mew=0)
            axes.errorbar(
                spread.mean(), place, xerr=spread.std(ddof=1) if len(spread) > 1 else None,
                fmt="D", color="#1c2430", markersize=4, capsize=3, linewidth=1.2,
            )  # fmt: skip
        axes.set_yticks(range(len(values)), list(values), fontsize=8, parse_math=False)
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.set_xlabel(f"{measure.label}{' [%]' if unit == 100 else ''} {measure.arrow}", fontsize=8)
        _grid(axes, "x")
    return figure


def draw_lines(panels: Mapping[str, Lines], *, across: str, up: str, logarithmic: bool = False) -> Figure:
    """Draw lines, with their standard deviation where they have one, a panel for each target.

    Args:
        panels: Lines by panel.
        across: What the x-axis is.
        up: What the y-axis is.
        logarithmic: Whether the x-axis is.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    colours = dict(zip(names, _colours(len(names)), strict=True))
    figure, places = _panels(list(panels), height=3.0)
    for axes, lines in zip(places, panels.values(), strict=True):
        for name, points in lines.items():
            x, y = points[:, 0], points[:, 1]
            axes.plot(x, y, "o-", color=colours[name], markersize=4, linewidth=1.5, label=name)
            if points.shape[1] > 2:
                half = np.nan_to_num(points[:, 2])
                axes.fill_between(x, y - half, y + half, color=colours[name], alpha=0.14, linewidth=0)
        if logarithmic:
            axes.set_xscale("log")
            ticks = sorted({float(x) for points in lines.values() for x in points[:, 0]})
            axes.set_xticks(ticks, [f"{x:.3g}" for x in ticks], rotation=45, ha="right")
            axes.set_xticks([], minor=True)
        axes.set_xlabel(across, fontsize=8)
        axes.set_ylabel(up, fontsize=8)
        _grid(axes, "both")
    _legend(figure, places)
    return figure


def draw_reliability(panels: Mapping[str, Mapping[str, NDArray]]) -> Figure:
    """Draw accuracy against confidence of each value, a panel for each target; larger points hold more images.

    Args:
        panels: Count, mean confidence and accuracy of each bin `[15, 3]`, NaN where a bin is empty, by panel and value.
    """
    names = list(dict.fromkeys(name for tables in panels.values() for name in tables))
    colours = dict(zip(names, _colours(len(names)), strict=True))
    figure, places = _panels(list(panels), height=3.4)
    for axes, tables in zip(places, panels.values(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="perfect")
        for name, table in tables.items():
            count, confidence, accuracy = table[table[:, 0] > 0].T
            axes.plot(confidence, accuracy, color=colours[name], linewidth=1.3, label=name)
            axes.scatter(confidence, accuracy, s=6 + 90 * count / count.sum(), color=colours[name], alpha=0.7, lw=0)
        axes.set(xlim=(0, 1), ylim=(0, 1.01))
        axes.set_xlabel("confidence", fontsize=8)
        axes.set_ylabel("accuracy", fontsize=8)
        _grid(axes, "both")
    _legend(figure, places)
    return figure


def _panels(titles: Sequence[str], *, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(3, len(titles))
    rows = math.ceil(len(titles) / columns)
    figure = Figure(figsize=(max(5.0, 3.5 * columns), 0.5 + rows * height), layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, title in zip(places, titles, strict=False):
        axes.set_title(title, fontsize=9, parse_math=False)
        axes.tick_params(labelsize=8)
    for axes in places[len(titles) :]:
        axes.remove()
    return figure, places[: len(titles)]


def _legend(figure: Figure, places: Sequence[Axes]) -> None:
    known: dict[str, Artist] = {}
    for axes in places:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            known[name.replace("$", r"\$")] = handle
    texts = [f" {name}" if name.startswith("_") else name for name in known]  # _ would hide it
    figure.legend(
        list(known.values()), texts, loc="outside lower center", ncols=min(4, len(texts)), frameon=False, fontsize=8
    )


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _grid(axes: Axes, which: str) -> None:
    axes.grid(axis=which, color="0.92")  # type: ignore[arg-type]
    axes.set_axisbelow(True)
