"""The tables of a report of classes."""

from collections.abc import Sequence

from ols.tasks.report.class_records import (
    Accuracy,
    Calibration,
    ClassRecord,
    ConfusedPair,
    SoftLabel,
    Subset,
)
from ols.tasks.report.parts import Cell, Column, Row, Table
from ols.tasks.report.wording import number, percent

WORST = 10
WORST_MIN_COUNT = 10  # images that a class is predicted for, to be among the worst calibrated


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


def accuracy_table(records: Sequence[ClassRecord], *, fold: str = "") -> Table:
    """Return the accuracy of classes with its interval."""
    columns = [Column("class"), _of("images"), _of("accuracy"), Column(""), Column("95 %")]
    rows = [
        Row([_named(record), _count(record), Cell(percent(record.accuracy)), Cell(bar=record.accuracy), _range(record)])
        for record in records
    ]
    return Table(columns, rows, fold=fold)


def rest_table(records: Sequence[ClassRecord], *, fold: str = "") -> Table:
    """Return how well each class is told from all others."""
    columns = [Column("class"), _of("images"), _of("AUC"), Column("95 %")]
    columns += [_of(title) for title in ("sensitivity", "specificity", "PPV", "NPV")]
    rows = []
    for record in records:
        rest = record.rest
        rates = (record.accuracy, rest.specificity, rest.ppv, rest.npv)
        area = [Cell(number(rest.auc)), Cell(beside=f"{number(rest.auc_low)} to {number(rest.auc_high)}")]
        rows.append(Row([_named(record), _count(record), *area, *(Cell(percent(rate)) for rate in rates)]))
    return Table(columns, rows, fold=fold)


def calibration_table(records: Sequence[ClassRecord], *, fold: str = "") -> Table:
    """Return the calibration of the images that each class is predicted for."""
    columns = [Column("predicted class"), _of("images"), _of("right"), _of("confidence"), *_ECES]
    rows = []
    for record in records:
        said = record.predicted
        confidence = Cell(percent(said.raw.mean_confidence if said.raw else None))
        cells = [_named(record), Cell(f"{said.images:,}"), Cell(percent(said.precision)), confidence]
        rows.append(Row([*cells, *_eces(said.raw, said.scaled)]))
    return Table(columns, rows, otherwise="No class is predicted for ten images.", fold=fold)


def group_table(records: Sequence[tuple[Subset, bool]]) -> Table:
    """Return accuracy and calibration of groups, and of modalities (True) as sums of theirs."""
    columns = [Column("group"), _of("images"), _of("accuracy"), Column("95 %"), *_ECES]
    rows = []
    for record, is_modality in records:
        cells = [Cell(record.name), _count(record), Cell(percent(record.accuracy)), _range(record)]
        rows.append(Row([*cells, *_eces(record.raw, record.scaled)], total=is_modality))
    return Table(columns, rows)


def confused_table(pairs: Sequence[ConfusedPair]) -> Table:
    """Return the classes that are taken for others."""
    columns = [Column("true class"), Column("predicted as"), _of("images"), _of("of the true class"), Column("")]
    rows = [
        Row(
            [
                Cell(pair.true, small=pair.true_group),
                Cell(pair.predicted, small=pair.predicted_group),
                Cell(f"{pair.images:,}"),
                Cell(percent(pair.share)),
                Cell(bar=pair.share),
                Cell(f"{pair.reverse:,}"),
            ]
        )
        for pair in pairs
    ]
    return Table([*columns, _of("the other way round")], rows, otherwise="There is no error.")


def soft_label_table(records: Sequence[SoftLabel], *, unfolded: bool) -> Table:
    """Return the classes that the soft label of each class has most mass on."""
    columns = [Column("class"), _of("itself")]
    columns += [Column(f"{place}. neighbour") for place in range(1, len(records[0].neighbours) + 1)]
    rows = [
        Row(
            [
                Cell(record.name, small=record.group),
                Cell(percent(record.own)),
                *(Cell(near.name, percent(near.probability), small=near.group) for near in record.neighbours),
            ]
        )
        for record in sorted(records, key=lambda record: record.group)
    ]
    return Table(columns, rows, fold="Nearest classes of each class", unfolded=unfolded)


def _of(title: str) -> Column:
    return Column(title, number=True)


_ECES = (_of("ECE raw"), Column("null", True, "null"), _of("ECE scaled"), Column("null", True, "null"))


def _eces(*found: Calibration | None) -> list[Cell]:
    cells = []
    for one in found:
        interval = f"{number(one.ece_low)} to {number(one.ece_high)}" if one else ""
        cells += [Cell(number(one.ece if one else None), interval), Cell(number(one.ece_null if one else None))]
    return cells


def _named(record: ClassRecord) -> Cell:
    return Cell(record.name, small=record.group)


def _count(record: Accuracy) -> Cell:
    return Cell(f"{record.images:,}")


def _range(record: Accuracy) -> Cell:
    return Cell(beside=f"{percent(record.accuracy_low)} to {percent(record.accuracy_high)}")
