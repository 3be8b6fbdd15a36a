"""How far models lean on a confounder: AUC and calibration against its share, and where the inverted AUC fails."""

import csv
import math
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ols.evaluation.draws import BinaryOutputs
from ols.metrics.resampling import PairedDifference, bootstrap_interval, bootstrap_p, enough_resamples, holm, resample

FORMS = ("matched", "clean", "inverted")  # of the test
MEASURED = ("auc", "ece", "confidence", "confidence_less_accuracy")
LABELS = {"auc": "AUC", "ece": "ECE", "confidence": "mean confidence", "confidence_less_accuracy": "less accuracy"}
CHANCE = 0.5  # AUC


class Arm(NamedTuple):
    """An arm of a comparison: a model from this source, trained at this share, on this form of the test.

    Args:
        source: What the model started from, or its loss: what is compared.
        share: Share of the training positives that carried the confounder, in [0, 1].
        form: `matched`, `clean` or `inverted`.
    """

    source: str
    share: float
    form: str


class ConfoundedRow(NamedTuple):
    """A measure of a model on a form of the test.

    Args:
        source: What the model started from.
        share: Share of the training positives with the confounder.
        form: Form of the test.
        measure: `auc`, `ece`, `confidence`, the mean of the top label's, or `confidence_less_accuracy`.
        value: The measure.
        low: Lower end of its 95 % interval over patients.
        high: Upper end.
        null: ECE that perfect calibration would show; None of other measures.
    """

    source: str
    share: float
    form: str
    measure: str
    value: float
    low: float
    high: float
    null: float | None


class SourceDifference(NamedTuple):
    """Two sources at one share, on the same test images.

    Args:
        first: A source.
        second: Another.
        share: Share of the training positives with the confounder.
        form: Form of the test.
        measure: One of `MEASURED`.
        found: First less second, with its 95 % interval over patients.
        adjusted_p: Its p, adjusted after Holm for all differences of this form and measure.
    """

    first: str
    second: str
    share: float
    form: str
    measure: str
    found: PairedDifference
    adjusted_p: float


class BreakingShare(NamedTuple):
    """The share at which the inverted AUC falls below one half.

    Args:
        source: What the model started from.
        share: Between two shares by a straight line; infinite where it never falls so low, 0 where it begins there.
        low: Lower end of its 95 % percentile interval over patients.
        high: Upper end; infinite where some draws do not fall so low.
    """

    source: str
    share: float
    low: float
    high: float


class ConfounderReport(NamedTuple):
    """What was found of a confounder: rows, differences between sources, and where each breaks."""

    rows: list[ConfoundedRow]
    differences: list[SourceDifference]
    breaking: list[BreakingShare]

    def csv(self) -> str:
        """Return the rows as CSV text."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(ConfoundedRow._fields)
        writer.writerows(self.rows)
        return text.getvalue()

    def markdown(self) -> str:
        """Return the three tables as Markdown."""
        lines = [
            f"| source | share | test | {' | '.join(LABELS.values())} |",
            "|---|---|---" + "|---" * len(LABELS) + "|",
        ]
        cells: dict[Arm, list[str]] = {}
        for row in self.rows:
            null = "" if row.null is None else f", null {row.null:.3f}"
            text = f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f}{null})"
            cells.setdefault(Arm(row.source, row.share, row.form), []).append(text)
        lines += [
            f"| {key.source} | {key.share:.0%} | {key.form} | {' | '.join(texts)} |" for key, texts in cells.items()
        ]
        lines += [
            "",
            "| difference | share | test | measure | first less second | p, Holm |",
            "|---|---|---|---|---|---|",
        ]
        for item in self.differences:
            found = f"{item.found.difference:+.3f} ({item.found.low:+.3f} to {item.found.high:+.3f})"
            pair = f"{item.first} - {item.second}"
            lines.append(
                f"| {pair} | {item.share:.0%} | {item.form} | {item.measure} | {found} | {item.adjusted_p:.3g} |"
            )
        lines += ["", "| source | inverted AUC below 0.5 from a share of |", "|---|---|"]
        lines += [f"| {item.source} | {say_share(item)} |" for item in self.breaking]
        return "\n".join(lines) + "\n"


def confounder_report(
    tests: Mapping[Arm, BinaryOutputs], *, resamples: int | None = None, seed: int = 0
) -> ConfounderReport:
    """Compare sources by what a confounder does to them.

    Patients are drawn anew, the same ones for every model, so that differences are paired. That says what other test
    patients would change, and nothing of other trainings: repeat those with other seeds.

    Args:
        tests: Outputs of every model on every form of the test. Those of a form are of the same images, in any order;
            of the matched form only those at the same share, as a sampled confounder has others at each.
        resamples: Number of draws; by default `enough_resamples` of the differences of a form and measure.
        seed: Of the draws.

    Returns:
        Rows in the order of the tests; differences of each pair of sources where both have a test; the breaking share
        of each source that has inverted tests.

    Raises:
        ValueError: There is no test, two are of other images, labels or patients, or a share does not lie in [0, 1].
    """
    if not tests:
        raise ValueError("expected the outputs of a test, got none")
    firsts: dict[tuple[str, float | None], BinaryOutputs] = {}
    aligned = {}
    for key, outputs in tests.items():
        first = firsts.setdefault((key.form, key.share if key.form == "matched" else None), outputs)
        if not 0 <= key.share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {key.share} of {key.source}")
        try:
            aligned[key] = outputs.in_order_of(first.sample_ids)
        except ValueError as error:
            raise ValueError(f"{key.source} at {key.share:.0%}, {key.form}: {error}") from error
        for name in ("positive", "patients"):
            if not np.array_equal(getattr(aligned[key], name), getattr(first, name)):
                raise ValueError(f"{key.source} at {key.share:.0%}, {key.form}: other {name} than the first test")
    if resamples is None:
        sources, shares = len({key.source for key in tests}), len({key.share for key in tests})
        resamples = enough_resamples(math.comb(sources, 2) * shares)
    values, drawn = {}, {}
    for key, outputs in aligned.items():
        size = len(outputs.positive)
        for measure in MEASURED:
            statistic = outputs.measures()[measure]
            values[key, measure] = float(statistic(np.ones((1, size)))[0])
            drawn[key, measure] = resample(statistic, size, resamples=resamples, seed=seed, clusters=outputs.patients)
    rows = []
    for key, outputs in aligned.items():
        for measure in MEASURED:
            lowest = -1 if measure == "confidence_less_accuracy" else 0
            low, high = np.clip(_ends(values[key, measure], drawn[key, measure]), lowest, 1).tolist()
            null = outputs.ece_null() if measure == "ece" else None
            rows.append(ConfoundedRow(*key, measure, values[key, measure], low, high, null))
    return ConfounderReport(rows, _differences(values, drawn, list(aligned)), _breaking(values, drawn, list(aligned)))


def breaking_share(shares: Sequence[float], inverted_auc: NDArray) -> NDArray:
    """Return at which share the inverted AUC first falls below one half, by straight lines between the shares.

    Args:
        shares: In ascending order `[P]`.
        inverted_auc: At each share `[..., P]`; NaN where it is undefined.

    Returns:
        `[...]`: the first share itself where it begins below one half, infinite where it stays at one half or above,
        NaN where an AUC is undefined.

    Raises:
        ValueError: The shares do not ascend, or are not as many as the AUCs.
    """
    points, curve = np.asarray(shares, np.float64), np.asarray(inverted_auc, np.float64)
    if points.ndim != 1 or len(points) != curve.shape[-1] or (np.diff(points) <= 0).any():
        raise ValueError(f"expected ascending shares [P] and AUCs [..., P], got {list(points)} and {curve.shape}")
    below = curve < CHANCE
    after = below.argmax(axis=-1)
    before = np.maximum(after - 1, 0)
    high, low = (np.take_along_axis(curve, place[..., None], -1)[..., 0] for place in (before, after))
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(after == before, 0, (high - CHANCE) / (high - low))
    found = points[before] + part * (points[after] - points[before])
    found = np.where(below.any(axis=-1), found, np.inf)
    return np.where(np.isnan(curve).any(axis=-1), np.nan, found)


def _differences(
    values: Mapping[tuple[Arm, str], float], drawn: Mapping[tuple[Arm, str], NDArray], keys: list[Arm]
) -> list[SourceDifference]:
    sources = list(dict.fromkeys(key.source for key in keys))
    found: list[SourceDifference] = []
    for form in dict.fromkeys(key.form for key in keys):
        for measure in MEASURED:
            family = []
            for number, one in enumerate(sources):
                for other in sources[number + 1 :]:
                    for share in sorted({key.share for key in keys if key.form == form}):
                        first, second = Arm(one, share, form), Arm(other, share, form)
                        if (first, measure) not in values or (second, measure) not in values:
                            continue
                        difference = values[first, measure] - values[second, measure]
                        resampled = drawn[first, measure] - drawn[second, measure]
                        resampled = resampled[np.isfinite(resampled)]
                        low, high = _ends(difference, resampled)
                        p = float(bootstrap_p(difference, resampled)) if len(resampled) else np.nan
                        family.append((one, other, share, PairedDifference(difference, low, high, p)))
            adjusted = holm([item[3].p_value for item in family])
            found += [
                SourceDifference(one, other, share, form, measure, difference, p)
                for (one, other, share, difference), p in zip(family, adjusted, strict=True)
            ]
    return found


def _breaking(
    values: Mapping[tuple[Arm, str], float], drawn: Mapping[tuple[Arm, str], NDArray], keys: list[Arm]
) -> list[BreakingShare]:
    found = []
    for source in dict.fromkeys(key.source for key in keys if key.form == "inverted"):
        own = sorted(
            (key for key in keys if key.source == source and key.form == "inverted"), key=lambda key: key.share
        )
        shares = [key.share for key in own]
        share = float(breaking_share(shares, np.array([values[key, "auc"] for key in own])))
        draws = breaking_share(shares, np.stack([drawn[key, "auc"] for key in own], axis=1))
        draws = draws[~np.isnan(draws)]
        low, high = np.nan, np.nan
        if len(draws) and not np.isnan(share):  # a quantile that is one of the draws: between them infinity has none
            low = float(np.quantile(draws, 0.025, method="lower"))
            high = float(np.quantile(draws, 0.975, method="higher"))
        found.append(BreakingShare(source, share, low, high))
    return found


def _ends(value: float, drawn: NDArray) -> tuple[float, float]:
    defined = drawn[np.isfinite(drawn)]
    if np.isnan(value) or not len(defined):
        return np.nan, np.nan
    low, high = bootstrap_interval(value, defined)
    return float(low), float(high)


def say_share(item: BreakingShare) -> str:
    """Return a breaking share with its interval in words."""

    def say(share: float) -> str:
        return "undefined" if np.isnan(share) else "never" if np.isinf(share) else f"{share:.0%}"

    return f"{say(item.share)} ({say(item.low)} to {say(item.high)})"
