"""How a classifier stands worse images: its measures under each corruption and severity, with intervals."""

import csv
from collections.abc import Mapping
from io import StringIO
from typing import NamedTuple

import numpy as np

from ols.evaluation.predictions import Predictions
from ols.metrics.resampling import bootstrap_interval, resample
from ols.metrics.weighted import weighted_measures

CLEAN = "none"
LABELS = {"auc": "AUC", "top1": "Top-1", "ece": "ECE"}
RESAMPLES = 1000


class CorruptedRow(NamedTuple):
    """A measure of a model on corrupted images.

    Args:
        corruption: Its name; `none` for images as they are.
        severity: 1 to 5; 0 for images as they are.
        measure: `auc` of two classes, else `top1`; or `ece`.
        value: The measure.
        low: Lower end of its 95 % interval over patients.
        high: Upper end.
    """

    corruption: str
    severity: int
    measure: str
    value: float
    low: float
    high: float


def measure_corruptions(
    tests: Mapping[tuple[str, int], Predictions], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[CorruptedRow]:
    """Measure a model under each corruption; the same patients are drawn anew for all.

    Args:
        tests: Predictions by corruption and severity.
        resamples: Number of draws.
        seed: Of the draws.

    Raises:
        ValueError: The targets are no classes.
    """
    rows = []
    for (corruption, severity), found in tests.items():
        if found.logits.ndim != 2 or found.targets.ndim != 1 or found.targets.is_floating_point():
            raise ValueError(f"corruptions are measured of images of one class each, not of a {found.task} task")
        names = ["auc" if len(found.classes) == 2 else "top1", "ece"]
        for name, statistic in weighted_measures(found.logits, found.targets, names).items():
            size = len(found.targets)
            value = float(statistic(np.ones((1, size)))[0])
            drawn = resample(statistic, size, resamples=resamples, seed=seed, clusters=np.array(found.patients))
            low, high = np.nan, np.nan
            if len(drawn := drawn[np.isfinite(drawn)]) and np.isfinite(value):
                low, high = np.clip(bootstrap_interval(value, drawn), 0, 1).tolist()
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
        lines = [f"| {LABELS[measure]} | {' | '.join(f'severity {number}' for number in severities)} |"]
        lines.append("|---" * (1 + len(severities)) + "|")
        names = [name for name in dict.fromkeys(name for name, _ in own) if name != CLEAN]
        for name in names:
            cells = [_text(own[name, number]) if (name, number) in own else "" for number in severities]
            lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
        means = [np.mean([own[n, number].value for n in names if (n, number) in own]) for number in severities]
        lines.append(f"| mean | {' | '.join(f'{mean:.3f}' for mean in means)} |")
        clean = f"Images as they are: {LABELS[measure]} {_text(own[CLEAN, 0])}." if (CLEAN, 0) in own else ""
        parts += [part for part in (clean, "\n".join(lines)) if part]
    return "\n\n".join([*parts, "Intervals are of 95 %, over patients drawn anew."]) + "\n"


def _text(row: CorruptedRow) -> str:
    return f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f})"
