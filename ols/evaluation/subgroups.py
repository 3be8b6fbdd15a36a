"""Is a classifier as good for everyone: measures by sex, view, age band or another attribute, and their largest gap."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ols.evaluation.draws import BinaryOutputs
from ols.metrics.resampling import Statistic, bootstrap_interval, resample

MEASURED = ("sensitivity", "specificity", "auc", "ece")
RESAMPLES = 2000
FEWEST = 5  # patients that an interval is drawn from


class Interval(NamedTuple):
    """A measure and its 95 % interval over patients; NaN where undefined.

    There is no interval where less than five patients have such images (positive ones of a sensitivity, either of an
    AUC), or where all draws are the same, as where every image is right: neither tells how far other patients may be.
    """

    value: float
    low: float
    high: float


class Subgroup(NamedTuple):
    """The images that share a value of an attribute.

    Args:
        label: Which of several labels is asked for; empty where there is one question.
        attribute: Such as sex.
        value: Such as F; empty where it is unknown.
        images: How many.
        patients: How many they are of.
        positives: How many images are positive.
        measures: Sensitivity, specificity, AUC and ECE.
    """

    label: str
    attribute: str
    value: str
    images: int
    patients: int
    positives: int
    measures: dict[str, Interval]


class Gap(NamedTuple):
    """How far the best and the worst subgroup are apart.

    Args:
        label: As of the subgroups.
        attribute: Of which the subgroups are values.
        measure: Which measure.
        highest: Value of the subgroup with the highest.
        lowest: Value of that with the lowest.
        gap: Their difference, with the interval of the difference of these two.
        chance: The mean gap where the values are dealt out anew among the patients: what no difference at all shows.
        p_value: Share of such deals with a gap as large.
    """

    label: str
    attribute: str
    measure: str
    highest: str
    lowest: str
    gap: Interval
    chance: float
    p_value: float


def subgroups(
    outputs: BinaryOutputs,
    attributes: Mapping[str, ArrayLike],
    *,
    label: str = "",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[list[Subgroup], list[Gap]]:
    """Measure each value of each attribute on its own, and the largest gap between the values of one.

    The largest of several differences is large by chance, the more so the smaller the subgroups: read it beside its
    `chance`. Unknown values ("") have a row, and no part in gaps. Subgroups in which a measure is undefined have none.

    Args:
        outputs: Of a binary classifier, or of one of several labels.
        attributes: Values of each attribute, `[N]` each.
        label: Name of that label.
        resamples: Number of draws.
        seed: Of the draws.

    Returns:
        Subgroups, attribute by attribute in the order of their values; and gaps, one for each attribute and measure
        that two subgroups have.

    Raises:
        ValueError: An attribute has not a value for each image.
    """
    rows: list[Subgroup] = []
    gaps: list[Gap] = []
    statistics = {name: outputs.measures()[name] for name in MEASURED}
    images = np.array(outputs.sample_ids)
    for attribute, given in attributes.items():
        values = np.asarray(given).astype(str)
        if values.shape != outputs.positive.shape:
            raise ValueError(f"{attribute} has {list(values.shape)} values for {len(outputs.positive)} images")
        names = np.unique(values)
        members = np.stack([values == name for name in names])
        found = {name: _by_group(statistic, members) for name, statistic in statistics.items()}
        once = np.ones((1, len(values)))
        estimates = {name: statistic(once)[0] for name, statistic in found.items()}
        drawn = {
            name: resample(statistic, len(values), resamples=resamples, seed=seed, clusters=outputs.patients)
            for name, statistic in found.items()
        }
        for index, name in enumerate(names.tolist()):
            inside = members[index]
            positive, negative = (
                len(np.unique(outputs.patients[inside & chosen])) for chosen in (outputs.positive, ~outputs.positive)
            )
            patients = len(np.unique(outputs.patients[inside]))
            fewest = {"sensitivity": positive, "specificity": negative, "auc": min(positive, negative), "ece": patients}
            for measure in MEASURED:
                if fewest[measure] < FEWEST:
                    drawn[measure][:, index] = np.nan
            rows.append(
                Subgroup(
                    label,
                    attribute,
                    name,
                    len(np.unique(images[inside])),
                    patients,
                    len(np.unique(images[inside & outputs.positive])),
                    {m: _share(_interval(estimates[m][index], drawn[m][:, index])) for m in MEASURED},
                )
            )
        known = names != ""
        deals = _deals(values, outputs.patients, resamples, seed) if known.sum() > 1 else None
        for measure in MEASURED:
            estimate = np.where(known, estimates[measure], np.nan)
            if deals is None or np.isfinite(estimate).sum() < 2:
                continue
            best, worst = int(np.nanargmax(estimate)), int(np.nanargmin(estimate))
            difference = drawn[measure][:, best] - drawn[measure][:, worst]
            dealt = _dealt_gaps(statistics[measure], names[known & np.isfinite(estimate)], deals)
            gap = estimate[best] - estimate[worst]
            p_value = (np.sum(dealt >= gap - 1e-12) + 1) / (len(dealt) + 1)
            gaps.append(
                Gap(
                    label,
                    attribute,
                    measure,
                    str(names[best]),
                    str(names[worst]),
                    _interval(gap, difference),
                    float(dealt.mean()) if len(dealt) else np.nan,
                    float(p_value),
                )
            )
    return rows, gaps


def markdown(rows: Sequence[Subgroup], gaps: Sequence[Gap]) -> str:
    """Return both tables as Markdown; what is undefined is a dash. Several labels have a column of theirs."""
    several = any(row.label for row in rows)

    def line(label: str, *cells: object) -> str:
        return f"| {' | '.join(map(str, [*([label] if several else []), *cells]))} |"

    def head(*titles: str) -> list[str]:
        return [line("label", *titles), line("---", *["---"] * len(titles))]

    lines = head("attribute", "value", "images", "patients", "positives", *MEASURED)
    for row in rows:
        counts = (f"{count:,}" for count in (row.images, row.patients, row.positives))
        measures = (_say(row.measures[measure]) for measure in MEASURED)
        lines.append(line(row.label, row.attribute, row.value or "(unknown)", *counts, *measures))
    lines += ["", *head("attribute", "measure", "highest", "lowest", "largest gap", "by chance", "p")]
    for gap in gaps:
        numbers = (_say(gap.gap), f"{gap.chance:.3f}", f"{gap.p_value:.3g}")
        lines.append(line(gap.label, gap.attribute, gap.measure, gap.highest, gap.lowest, *numbers))
    return "\n".join(lines) + "\n"


def bands(numbers: ArrayLike, edges: Sequence[float]) -> NDArray:
    """Return the band of each number, such as `40-60` for 40 <= x < 60, as text `[N]`; unknown (NaN) is empty.

    Args:
        numbers: Such as ages `[N]`.
        edges: In ascending order: the first band is below the first, the last from the last on.

    Raises:
        ValueError: The edges do not ascend.
    """
    if not edges or list(edges) != sorted(set(edges)):
        raise ValueError(f"edges must ascend, got {list(edges)}")
    numbers = np.asarray(numbers, np.float64)
    inner = [f"{low:g}-{high:g}" for low, high in pairwise(edges)]
    names = np.array([f"<{edges[0]:g}", *inner, f">={edges[-1]:g}"])
    return np.where(np.isnan(numbers), "", names[np.searchsorted(edges, numbers, side="right")])


def _by_group(statistic: Statistic, members: NDArray) -> Statistic:
    """Return a statistic of each group, from counts `[R, N]` to `[R, G]`."""
    return lambda counts: np.stack([statistic(counts * inside) for inside in members], axis=1)


def _interval(estimate: float, drawn: NDArray) -> Interval:
    defined = drawn[np.isfinite(drawn)]
    if np.isnan(estimate) or not len(defined) or np.ptp(defined) == 0:
        return Interval(float(estimate), np.nan, np.nan)
    low, high = bootstrap_interval(estimate, defined)
    return Interval(float(estimate), float(low), float(high))


def _say(found: Interval) -> str:
    if np.isnan(found.value):
        return "-"
    return f"{found.value:.3f}" + ("" if np.isnan(found.low) else f" ({found.low:.3f} to {found.high:.3f})")


def _share(found: Interval) -> Interval:
    """Return an interval of what lies in [0, 1], cut off there."""
    return Interval(found.value, float(np.clip(found.low, 0, 1)), float(np.clip(found.high, 0, 1)))


def _deals(values: NDArray, patients: NDArray, number: int, seed: int) -> NDArray:
    """Deal the values out among patients anew, `[number, N]`: an image gets those of another patient's first image."""
    _, first, member = np.unique(patients, return_index=True, return_inverse=True)
    rng = np.random.default_rng(seed)
    return np.stack([values[first][rng.permutation(len(first))][member] for _ in range(number)])


def _dealt_gaps(statistic: Statistic, names: NDArray, deals: NDArray) -> NDArray:
    found = np.stack([statistic((deals == name).astype(np.float64)) for name in names], axis=1)
    found = found[np.isfinite(found).all(axis=1)]
    return found.max(axis=1) - found.min(axis=1)
