"""How a classifier stands worse images: its measures under each corruption and severity, with intervals."""

import csv
from collections.abc import Mapping
from io import StringIO
from typing import NamedTuple

import numpy as np

from ols.evaluation.measures import measures_of, possible_interval
from ols.evaluation.predictions import Predictions
from ols.metrics.measures import find_measure
from ols.metrics.resampling import bootstrap_interval, resample
from ols.tasks.segmentation import Segmentation
from ols.tasks.task import Task

CLEAN = "none"
RESAMPLES = 1000


class CorruptedRow(NamedTuple):
    """A measure of a model on corrupted images.

    Args:
        corruption: Its name; `none` for images as they are.
        severity: 1 to 5; 0 for images as they are.
        measure: The one that chooses an epoch of such a task, such as `auc`, `top1` or `mean_auc`; or `ece`.
        value: The measure.
        low: Lower end of its 95 % interval over patients; NaN where no draw differs from another.
        high: Upper end.
    """

    corruption: str
    severity: int
    measure: str
    value: float
    low: float
    high: float


def measure_corruptions(
    tests: Mapping[tuple[str, int], Predictions], task: Task, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[CorruptedRow]:
    """Measure a model under each corruption; the same patients are drawn anew for all.

    Args:
        tests: Predictions by corruption and severity.
        task: What they are of.
        resamples: Number of draws.
        seed: Of the draws.

    Raises:
        ValueError: Pixels are predicted, which some corruptions move.
    """
    if isinstance(task, Segmentation):
        raise ValueError("some corruptions move what the masks mark: there is no such report of a segmentation task")
    rows = []
    for (corruption, severity), found in tests.items():
        chosen = task.selecting(None)
        measures = measures_of(task, found.logits, found.targets, chosen)
        for name in (name for name in (chosen, "ece") if name in measures):
            size = len(found.targets)
            value = float(measures[name](np.ones((1, size)))[0])
            drawn = resample(measures[name], size, resamples=resamples, seed=seed, clusters=np.array(found.patients))
            low, high = np.nan, np.nan
            if len(drawn := drawn[np.isfinite(drawn)]) and np.isfinite(value):
                low, high = possible_interval(name, *map(float, bootstrap_interval(value, drawn)))
            rows.append(CorruptedRow(corruption, severity, name, value, low, high))
    return rows


def corruptions_csv(rows: list[CorruptedRow]) -> str:
    """Return the rows as CSV text."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CorruptedRow._fields)
    writer.writerows(rows)
    return text.getvalue()


def corruptions_markdown(rows: list[CorruptedRow]) -> str:
    """Return a table for each measure, a line for each corruption and a column for each severity, as Markdown."""
    parts = []
    severities = sorted({row.severity for row in rows if row.corruption != CLEAN})
    for measure in dict.fromkeys(row.measure for row in rows):
        own = {(row.corruption, row.severity): row for row in rows if row.measure == measure}
        label = find_measure(measure).label
        lines = [f"| {label} | {' | '.join(f'severity {number}' for number in severities)} |"]
        lines.append("|---" * (1 + len(severities)) + "|")
        names = [name for name in dict.fromkeys(name for name, _ in own) if name != CLEAN]
        for name in names:
            cells = [_text(own[name, number]) if (name, number) in own else "" for number in severities]
            lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
        means = [np.mean([own[n, number].value for n in names if (n, number) in own]) for number in severities]
        lines.append(f"| mean | {' | '.join(f'{mean:.3f}' for mean in means)} |")
        clean = f"Images as they are: {label} {_text(own[CLEAN, 0])}." if (CLEAN, 0) in own else ""
        parts += [part for part in (clean, "\n".join(lines)) if part]
    return "\n\n".join([*parts, "Intervals are of 95 %, over patients drawn anew."]) + "\n"


def _text(row: CorruptedRow) -> str:
    return f"{row.value:.3f}" + ("" if np.isnan(row.low) else f" ({row.low:.3f} to {row.high:.3f})")
