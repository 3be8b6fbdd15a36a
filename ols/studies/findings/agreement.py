"""The section of a study's page on whether networks err on the same images, beside what their accuracies alone give."""

from collections.abc import Container, Sequence

import numpy as np

from ols.evaluation.agreement import Agreement, agreement, right_on_same_images
from ols.studies.findings.trainings import Way, describe, repetition, shared_repetitions
from ols.studies.labels import SEED
from ols.studies.results import CellResult
from ols.tasks.report.parts import Cell, Column, Row, Section, Table, Text


def agreement_section(ways: Sequence[Way], along: str, *, reference: str | None = None) -> Section | None:
    """Return on how many test images each value and the reference are both right or both wrong, and kappa.

    Two seeds of the reference stand beside them, where there are two: what they do not share, no other value can.

    Args:
        ways: Those of tasks whose images have one class each have a part.
        along: Axis whose values are compared.
        reference: Label of the value that others are compared with; by default the first.
    """
    reference = ways[0].labels[along] if reference is None else reference
    rows = []
    for base in ways:
        if base.labels[along] != reference or any(cell.task.kind != "class" for cell in base.chosen):
            continue
        setting = describe({axis: label for axis, label in base.labels.items() if axis != along}) or "all"
        for other in ways:
            shared = shared_repetitions(other, base)
            if other is not base and shared and other.labels == base.labels | {along: other.labels[along]}:
                found = _compare(_cells(other, shared), _cells(base, shared))
                rows.append(_row(setting, f"{other.labels[along]} and {reference}", found))
        seeds = sorted({seed for _, seed in base.repetitions})[:2]
        folds = set.intersection(*(_folds(base, seed) for seed in seeds))
        if len(seeds) == 2 and folds:
            found = _compare(*(_cells(base, {(fold, seed) for fold in folds}) for seed in seeds))
            rows.append(_row(setting, f"{reference}, {SEED} {' and '.join(seeds)}", found))
    if not rows:
        return None
    lede = Text(
        "Share of test images, of all folds and seeds, on which both networks are right or both are wrong; what errors "
        "that know nothing of each other would give at these two accuracies; and kappa, which is 0 for such errors and "
        "1 for the same ones. Intervals of 95 % draw patients anew; what other trainings would change is not in them.",
        "introduction",
    )
    columns = [Column("cells of"), Column("networks"), *(Column(name, True) for name in ("agree", "chance", "kappa"))]
    return Section("agreement", "Do they err on the same images?", [lede, Table(columns, rows)])


def _folds(way: Way, seed: str) -> set[str]:
    return {fold for fold, other in way.repetitions if other == seed}


def _cells(way: Way, only: Container[tuple[str, str]]) -> list[CellResult]:
    return sorted((cell for cell in way.chosen if repetition(cell.labels) in only), key=lambda c: repetition(c.labels))


def _compare(ones: Sequence[CellResult], others: Sequence[CellResult]) -> Agreement:
    """Compare cells that were tested on the same images, pair by pair."""
    right = [right_on_same_images(one.test, other.test) for one, other in zip(ones, others, strict=True)]
    patients = [patient for one in ones for patient in one.test.patients]
    return agreement(*map(np.concatenate, zip(*right, strict=True)), patients=patients)


def _row(setting: str, networks: str, found: Agreement) -> Row:
    def cell(value: float, low: float, high: float) -> Cell:
        return Cell(f"{value:.3f}", beside="" if np.isnan(low) else f"({low:.3f} to {high:.3f})")

    return Row(
        [
            Cell(setting),
            Cell(networks),
            cell(found.observed, found.observed_low, found.observed_high),
            Cell(f"{found.chance:.3f}"),
            cell(found.kappa, found.low, found.high),
        ]
    )
