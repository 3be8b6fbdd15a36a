"""A report as text: the rows of its tables, and sentences."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ols.evaluation.report.records import ClassRecord, Measured, ModelReport, SplitReport, Subset
from ols.metrics.measures import find_measure
from ols.tasks.task import Task

WORST = 10
WORST_MIN_COUNT = 10  # images that a class is predicted for, to be among the worst calibrated
EMBEDDINGS = ("knn_accuracy", "silhouette", "inter_class_separation", "intra_class_variance")


@dataclass(frozen=True)
class Cell:
    """A value as text.

    Args:
        value: The value.
        below: What does not belong apart from it, such as its interval, a line each.
    """

    value: str
    below: list[str]


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        label: What the measure is called.
        arrow: Which way is better.
        note: What a reader may not know of it.
        cells: A value of each column.
    """

    label: str
    arrow: str
    note: str
    cells: list[Cell]


def worst_by_accuracy(classes: Sequence[ClassRecord]) -> list[ClassRecord]:
    """Return the ten classes of the lowest accuracy, of those that occur; of equal ones, the larger first."""
    occurring = [record for record in classes if record.images]
    return sorted(occurring, key=lambda record: (record.accuracy, -record.images))[:WORST]


def worst_by_calibration(classes: Sequence[ClassRecord]) -> list[ClassRecord]:
    """Return the ten classes whose raw ECE is furthest above its null, of those predicted for ten images or more."""
    excesses = []
    for record in classes:
        raw = record.predicted.raw
        if record.predicted.images >= WORST_MIN_COUNT and raw and raw.ece is not None and raw.ece_null is not None:
            excesses.append((raw.ece - raw.ece_null, record))
    return [record for _, record in sorted(excesses, key=lambda pair: pair[0], reverse=True)[:WORST]]


def group_rows(found: SplitReport) -> list[tuple[Subset, bool]]:
    """Return each modality (True), followed by its groups (False), but for a group that is a modality itself."""
    rows = []
    for modality in found.modalities:
        rows.append((modality, True))
        rows += [(group, False) for group in found.groups if group.name.startswith(f"{modality.name}/")]
    return rows


def table_row(name: str, columns: Sequence[Measured]) -> Row:
    """Return a measure's row; a value does not stand without its interval, nor without its null and number of images.

    Args:
        name: Of the measure.
        columns: Values of each column by name, with what belongs to them.
    """
    measure = find_measure(name)
    form = percent if measure.percent else number
    cells = []
    for values in columns:
        below = []
        if f"{name}_low" in values:
            below.append(f"{form(values[f'{name}_low'])} to {form(values[f'{name}_high'])}")
        if f"{name}_null" in values:
            below.append(f"null {form(values[f'{name}_null'])}, N = {values['count']:,.0f}")
        cells.append(Cell(form(values[name]), below))
    return Row(measure.label, measure.arrow, measure.note, cells)


def headline(report: ModelReport, task: Task) -> dict[str, list[Row]]:
    """Return the rows of the main table by the headings of its parts; columns are raw and scaled of each split."""
    columns = [values for found in report.splits.values() for values in (found.raw, found.scaled)]
    return {part: [table_row(name, columns) for name in names] for part, names in task.report.items()}


def facts(report: ModelReport) -> list[str]:
    """Return what the report is of, in a few words each."""
    loss = report.loss or {}
    options = ", ".join(f"{key} {value}" for key, value in loss.items() if key != "name" and value is not None)
    environment = report.conditions["predictions"][report.shown]
    return [
        fact
        for fact in (
            report.architecture,
            report.task,
            loss.get("name", "") + (f" ({options})" if options else ""),
            f"seed {report.seed}" if report.seed is not None else "",
            f"epoch {report.epoch}" if report.epoch is not None else "",
            f"{report.preprocessing['image_size']} px",
            Path(environment["data"]).name,
            environment["device"],
            f"torch {environment['versions']['torch']}",
            environment["date"][:10],
            f"commit {environment['commit'][:7]}" if environment["commit"] else "",
        )
        if fact
    ]


def sentences(report: ModelReport, task: Task) -> list[str]:
    """Return what the numbers of the split that is shown amount to."""
    found = report.shown_split
    said = task.remarks(found.raw)
    for values, words in ((found.raw, "Raw confidence"), (found.scaled, "Scaled confidence")):
        over, under, low = (values[name] for name in ("overconfidence", "underconfidence", "ece_low"))
        if over is None or under is None or low is None:  # of no images
            continue
        direction = "too high" if over > under else "too low"
        verdict = f"is miscalibrated, mostly {direction}" if low > 0 else "cannot be told from perfect calibration"
        said.append(f"{words} {verdict}: {ece_sentence(values)}")
    low, high = report.temperature.low, report.temperature.high
    if report.temperature.failure:
        said.append(f"No temperature fits, the scaled figures repeat the raw ones: {report.temperature.failure}.")
    elif low is not None and high is not None and low <= 1 <= high:
        said.append("The interval of the temperature holds 1: scaling is not shown to change anything.")
    if report.temperature.masked:
        said.append(
            f"{report.temperature.masked:,} images of {report.temperature.fitted_on} have no part in the temperature: "
            "the model masks their class."
        )
    lone = [record.name for record in found.classes if record.rest.auc is None]
    if lone:
        some = ", ".join(lone[:5]) + (f" and {len(lone) - 5} more" if lone[5:] else "")
        said.append(f"Without an AUC, as no image or every image is of the class: {some}.")
    worst = min(found.groups, key=lambda record: math.inf if record.accuracy is None else record.accuracy)
    said.append(
        f"The group of the lowest accuracy is {worst.name}: {percent(worst.accuracy)} "
        f"({percent(worst.accuracy_low)} to {percent(worst.accuracy_high)}) of {worst.images:,} images."
    )
    if found.raw["nll"] is None and found.raw["count"]:
        said.append("The NLL is infinite: the model gives some labels no probability at all.")
    if found.raw["nonfinite"]:
        said.append(f"{found.raw['nonfinite']:.0f} images had non-finite logits: errors that no ECE or NLL counts.")
    return said


def ece_sentence(values: Measured) -> str:
    """Return an ECE with all that belongs to it."""
    return (
        f"ECE {number(values['ece'])} ({number(values['ece_low'])} to {number(values['ece_high'])}), "
        f"null {number(values['ece_null'])}, N = {values['count']:,.0f}."
    )


def markdown_text(text: str) -> str:
    """Return text as Markdown shows it, whatever the name of a class or a group holds: one line, nothing marked up."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]|]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", line)


def percent(value: float | None) -> str:
    """Return a fraction in percent."""
    return "n/a" if value is None else f"{value:.1%}"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with a fixed number of digits."""
    return "n/a" if value is None else f"{value:.{digits}f}"
