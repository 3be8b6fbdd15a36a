"""A report of labels, each there or not."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ols.figures import label_areas, precision_recall_of_labels
from ols.metrics.auc import undefined_because
from ols.metrics.resampling import Statistic
from ols.tasks.report.intervals import clusters_of, drawn_intervals, interval_note, or_none
from ols.tasks.report.measured import SplitNumbers, measure_splits
from ols.tasks.report.parts import (
    Card,
    Cell,
    Column,
    Drawing,
    Drawings,
    Part,
    Predicted,
    Report,
    Row,
    Section,
    Table,
    Text,
)
from ols.tasks.report.wording import interval_text, measure_card, measure_rows, number, percent
from ols.tasks.task import Task, draw_reliability

COLUMNS = ("auc", "auc_low", "auc_high", "average_precision", "sensitivity_at_90_specificity", "positives", "known")


def report_labels(
    task: Task, predictions: Mapping[str, Predicted], splits: Sequence[str], areas: Mapping[str, Statistic]
) -> Report:
    """Return the report of a multilabel task.

    Args:
        task: What was predicted.
        predictions: Of each split.
        splits: What is reported; the first one is shown in full.
        areas: AUC of each label on the split that is shown, of samples that count.
    """
    numbers = measure_splits(task, predictions, splits)
    shown, predicted = numbers[splits[0]], predictions[splits[0]]
    table = _table(shown, areas, predicted)  # [L, 7]
    ece = f"{interval_text('ece', shown.values)}, null {number(shown.values['ece_null'])}"
    labels = [dict(zip(COLUMNS, map(or_none, row), strict=True)) for row in table.tolist()]
    return Report(
        subject="a model of labels",
        cards=[
            measure_card("mean_auc", shown.values, split=splits[0], images=shown.images),
            measure_card("mean_average_precision", shown.values, split=splits[0], images=shown.images),
            Card("Labels in the means", f"{shown.values['labels_in_mean'] or 0:.0f}", f"of {len(task.classes)}"),
            Card("ECE", number(shown.values["ece"]), ece),
        ],
        sentences=[*task.remarks(shown.values), *shown.nonfinite()],
        note=interval_note(predicted, ["AUC", "average precision"]),
        images={split: found.images for split, found in numbers.items()},
        tones=("",),
        measures=measure_rows(task.report, [found.values for found in numbers.values()]),
        measures_note="The arrow says what is better.",
        sections=[
            _labels(task, table, predicted),
            _precision(task, table, shown.tables),
            _reliability(shown),
        ],
        record={
            "shown": splits[0],
            "splits": {split: found.values for split, found in numbers.items()},
            "labels": [{"name": name, **row} for name, row in zip(task.classes, labels, strict=True)],
        },
    )


def _table(shown: SplitNumbers, areas: Mapping[str, Statistic], predicted: Predicted) -> NDArray:
    """Return the metric's table of labels; its intervals of independent images give way to those over patients."""
    table = shown.tables["labels"].numpy().copy()
    if clusters_of(predicted) is not None:
        drawn = drawn_intervals(areas, predicted)
        for row, name in zip(table, areas, strict=True):
            ends = (drawn[f"{name}_{end}"] for end in ("low", "high"))
            row[1:3] = [math.nan if end is None else end for end in ends]
    return table


def _labels(task: Task, table: NDArray, predicted: Predicted) -> Section:
    rows = []
    for name, row, label in zip(task.classes, table.tolist(), predicted.targets.numpy().T, strict=True):
        area, low, high, precision, sensitivity, positives, known = map(or_none, row)
        reason = undefined_because(label[~np.isnan(label)] == 1)
        interval = "" if low is None else f"{number(low)} to {number(high)}"
        prevalence = positives / known if positives is not None and known else None
        rows.append(
            Row(
                [
                    Cell(name),
                    Cell(f"{positives:,.0f}"),
                    Cell(f"{known:,.0f}"),
                    Cell(f"undefined: {reason}") if reason else Cell(number(area)),
                    Cell(beside=interval),
                    Cell(number(precision)),
                    Cell(number(prevalence)),
                    Cell(percent(sensitivity)),
                ]
            )
        )
    columns = [Column("label"), *(Column(title, True) for title in ("positive", "known", "AUC")), Column("95 %")]
    columns += [Column(title, True) for title in ("average precision", "chance", "sensitivity at 90 % specificity")]
    figure = label_areas(table, task.classes, title="")
    introduction = (
        "Each label over the images of which it is known. Chance is an AUC of 0.5, and the prevalence as average "
        "precision."
    )
    caption = "AUC with its 95 % interval, where there is one; in brackets positives of all known images."
    drawing = Drawing(figure, "AUC of each label", caption)
    return Section("labels", "Labels", [Text(introduction, "introduction"), Drawings([drawing]), Table(columns, rows)])


def _precision(task: Task, table: NDArray, tables: Mapping[str, Tensor]) -> Section:
    curves = [tables[f"precision_recall/{name}"].numpy() for name in task.classes]
    figure = precision_recall_of_labels(curves, table, task.classes, title="")
    caption = "The dashed line is chance: the prevalence, of as many positives of all known images as a title says."
    drawing = Drawing(figure, "Precision against recall of each label", caption)
    return Section("precision", "Precision and recall", [Drawings([drawing])])


def _reliability(shown: SplitNumbers) -> Section:
    introduction = (
        "Of all known labels together, each of two classes: how often the likelier answer is right, by how likely it "
        "is, with its 95 % interval (Wilson). On the diagonal, confidence is what it says."
    )
    figure = draw_reliability(shown.tables, title="")
    parts: list[Part] = [Text(introduction, "introduction"), Drawings([Drawing(figure, "Reliability diagram")])]
    return Section("reliability", "Reliability", parts)
