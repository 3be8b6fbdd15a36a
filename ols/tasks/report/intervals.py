"""Intervals of measures by drawing images anew, or patients where an image does not stand for itself."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ols.metrics.resampling import Statistic, percentile_interval, resample
from ols.tasks.report.parts import Predicted

RESAMPLES = 1000


def clusters_of(predicted: Predicted) -> NDArray | None:
    """Return what each image belongs to `[N]`; None where every image stands for itself."""
    patients = predicted.patients
    return None if len(set(patients)) == len(patients) else np.array(patients)


def drawn_intervals(statistics: Mapping[str, Statistic], predicted: Predicted) -> dict[str, float | None]:
    """Return 95 % intervals of statistics, as `NAME_low` and `NAME_high`; None where undefined.

    Args:
        statistics: From how often each sample counts `[R, N]` to results `[R]`, NaN where undefined.
        predicted: The samples; those of a patient are drawn together.
    """
    found: dict[str, float | None] = {f"{name}_{end}": None for name in statistics for end in ("low", "high")}
    count, clusters = len(predicted.sample_ids), clusters_of(predicted)
    if (
        not statistics or not count or (clusters is not None and len(set(clusters)) == 1)
    ):  # of one patient nothing can be drawn
        return found
    every = resample(
        lambda counts: np.stack([statistic(counts) for statistic in statistics.values()], axis=1),
        count,
        resamples=RESAMPLES,
        seed=0,
        clusters=clusters,
    )
    for name, values in zip(statistics, every.T, strict=True):
        if len(defined := values[np.isfinite(values)]):
            low, high = percentile_interval(defined)
            found |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return found


def interval_note(predicted: Predicted, labels: Sequence[str]) -> str:
    """Return what intervals are of.

    Args:
        predicted: The samples of the split that is shown.
        labels: What the measures are called whose intervals are drawn.
    """
    drawn = ", ".join(labels)
    if clusters_of(predicted) is None:
        return "Intervals are of 95 % and take images for independent."
    count = len(set(predicted.patients))
    return (
        f"Intervals are of 95 %. Those of {drawn} are over {count:,} patients drawn anew with all their images; all "
        "others take images for independent, and are too narrow where a patient has several."
    )


def plain(values: Mapping[str, float | Tensor]) -> dict[str, float | None]:
    """Return scalars as floats, None where they are not finite."""
    return {name: or_none(value) for name, value in values.items()}


def or_none(value: float | Tensor) -> float | None:
    """Return a number, None where it is not finite."""
    number = float(value)
    return number if np.isfinite(number) else None
