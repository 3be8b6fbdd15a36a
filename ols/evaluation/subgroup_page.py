"""Subgroups as a user names them, and what was found of them as a section of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ols.data.sources.protocol import ImageSource
from ols.evaluation.draws import BinaryOutputs
from ols.evaluation.subgroups import MEASURED, Gap, Interval, Subgroup, bands, subgroups
from ols.tasks.binary import Binary
from ols.tasks.multilabel import Multilabel
from ols.tasks.report.intervals import or_none
from ols.tasks.report.parts import Cell, Column, Part, Report, Row, Section, Table, Text
from ols.tasks.report.wording import number
from ols.tasks.task import Task

INTRODUCTION = (
    "Intervals are of 95 %, over patients drawn anew. The largest of several gaps is large by chance: beside each "
    "stands the mean gap of patients whose attribute is dealt out anew, and p, the share of such deals with one as "
    "large, of this gap alone: of twenty gaps without a cause one has p below .05."
)


def read_attributes(source: ImageSource, wanted: Sequence[str]) -> dict[str, NDArray]:
    """Return attributes of each image of a data set, as text `[N]`.

    Args:
        source: A table of targets, confounded or not.
        wanted: Columns, such as `sex`; or numbers in bands with the first number of each but the first, `age:40,60`.

    Raises:
        ValueError: The data set has no such column, or a cell of one in bands is no number; or edges are none.
    """
    known = getattr(getattr(source, "source", source), "attributes", {})
    found = {}
    for text in wanted:
        name, _, edges = text.partition(":")
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "only a table of targets has columns"
            raise ValueError(f"no column {name!r} for subgroups; {has}")
        found[name] = known[name] if not edges else bands(_numbers(name, known[name]), _edges(text, edges))
    return found


def asked_of(task: Task) -> list[str]:
    """Return what is there or not in an image: the positive class of a binary task, or each of several labels.

    Raises:
        ValueError: The task is neither.
    """
    if isinstance(task, Binary):
        return [task.classes[task.positive]]
    if not isinstance(task, Multilabel):
        raise ValueError(f"subgroups are measured of a binary or multilabel task, this one is {task.name}")
    return task.classes


def with_subgroups(report: Report, rows: Sequence[Subgroup], gaps: Sequence[Gap]) -> Report:
    """Return a report with a section, and a record, of subgroups and gaps of `subgroups`."""
    of_label = ("label",) if any(row.label for row in rows) else ()
    columns = [Column(title) for title in (*of_label, "attribute", "value")]
    columns += [Column(title, number=True) for title in ("images", "patients", "positives", *MEASURED)]
    table = Table(columns, [Row([*(Cell(row.label) for _ in of_label), *_cells(row)]) for row in rows])
    names = [Column(title) for title in (*of_label, "attribute", "measure", "highest", "lowest")]
    names += [Column(title, number=True) for title in ("largest gap", "by chance", "p")]
    lines = [
        Row(
            [
                *(
                    Cell(text)
                    for text in (*(gap.label for _ in of_label), gap.attribute, gap.measure, gap.highest, gap.lowest)
                ),
                _measured(gap.gap),
                Cell(number(or_none(gap.chance), 3)),
                Cell(number(gap.p_value, 3)),
            ]
        )
        for gap in gaps
    ]
    parts: list[Part] = [Text(INTRODUCTION, "introduction"), table, Text("Largest gaps", "heading")]
    section = Section("subgroups", "Subgroups", [*parts, Table(names, lines, otherwise="No two subgroups compare.")])
    record = {"rows": [_plain(row._asdict()) for row in rows], "gaps": [_plain(gap._asdict()) for gap in gaps]}
    return replace(report, sections=[*report.sections, section], record=report.record | {"subgroups": record})


def measure_subgroups(
    outputs: Mapping[str, BinaryOutputs], source: ImageSource, wanted: Sequence[str]
) -> tuple[list[Subgroup], list[Gap]]:
    """Measure subgroups of the images that were predicted; see `read_attributes` and `subgroups`.

    Args:
        outputs: By each of `asked_of`.
        source: A table of targets with the images.
        wanted: As of `read_attributes`.
    """
    attributes = read_attributes(source, wanted)
    place = {source.sample_id(index): index for index in range(len(source))}
    rows: list[Subgroup] = []
    gaps: list[Gap] = []
    for label, one in outputs.items():
        order = np.array([place[name] for name in one.sample_ids], np.int64)
        of_images = {name: values[order] for name, values in attributes.items()}
        more_rows, more_gaps = subgroups(one, of_images, label=label if len(outputs) > 1 else "")
        rows += more_rows
        gaps += more_gaps
    return rows, gaps


def _numbers(name: str, cells: NDArray) -> NDArray:
    numbers = np.full(len(cells), np.nan)
    for index, cell in enumerate(cells.tolist()):
        try:
            numbers[index] = float(cell or "nan")
        except ValueError:
            raise ValueError(f"{name} {cell!r} is no number, and has no band") from None
    return numbers


def _edges(text: str, edges: str) -> list[float]:
    try:
        return [float(edge) for edge in edges.split(",")]
    except ValueError:
        raise ValueError(f"subgroups in bands are named like age:40,60, got {text!r}") from None


def _cells(row: Subgroup) -> list[Cell]:
    counts = [Cell(f"{count:,}") for count in (row.images, row.patients, row.positives)]
    measures = [_measured(row.measures[name]) for name in MEASURED]
    return [Cell(row.attribute), Cell(row.value or "(unknown)"), *counts, *measures]


def _measured(found: Interval) -> Cell:
    ends = [] if np.isnan(found.low) else [f"{number(found.low, 3)} to {number(found.high, 3)}"]
    return Cell(number(or_none(found.value), 3), below=ends)


def _plain(value):
    """Return named tuples as plain values, None for what is no number."""
    if isinstance(value, Interval):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return or_none(value) if isinstance(value, float) else value
