"""What differences show, in words, and what their numbers cannot show."""

import math
from collections.abc import Sequence

from ols.metrics.measures import find_measure
from ols.metrics.resampling import sign_flip_floor
from ols.studies.findings.differences import SHOWN, Difference
from ols.studies.findings.trainings import Way, describe
from ols.studies.labels import FOLD

NOT_SHOWN = "not shown"
NAMED_UP_TO = 3  # settings of which those are named, too, where nothing is shown


def verdict(one: Difference) -> str:
    """Return what is shown of a difference, such as `better for other patients`."""
    shown = [
        name
        for name, p in (("patients", one.p_patients), ("trainings", one.p_trainings))
        if p < SHOWN  # false where there is no test
    ]
    if not shown or one.better is None:
        return NOT_SHOWN
    return f"{'better' if one.better else 'worse'} for other {' and '.join(shown)}"


def sentences(differences: Sequence[Difference]) -> list[str]:
    """Say of each measure and value in how many settings it is shown better or worse, and in which."""
    found = []
    for measure, first in dict.fromkeys((one.measure, one.first) for one in differences):
        rows = [one for one in differences if (one.measure, one.first) == (measure, first)]
        by_verdict: dict[str, list[str]] = {}
        for one in rows:
            by_verdict.setdefault(verdict(one), []).append(_number(one))
        words = []
        for what, numbers in sorted(by_verdict.items(), key=lambda item: item[0] == NOT_SHOWN):
            named = what != NOT_SHOWN or len(rows) <= NAMED_UP_TO
            count = f" in {len(numbers)} of {len(rows)} settings" if len(rows) > 1 else ""
            words.append(f"{what}{count}" + (f": {', '.join(numbers)}" if named else ""))
        found.append(f"{find_measure(measure).label}, {first} against {rows[0].second}: {'; '.join(words)}.")
    return found


def limits(differences: Sequence[Difference], ways: Sequence[Way], *, seeds: int) -> list[str]:
    """Say what cannot be shown with these numbers, however they had come out.

    Args:
        differences: All of them, of which the first measure's count.
        ways: What was compared.
        seeds: Number of seeds of the study.
    """
    found = []
    folds = len({cell.labels.get(FOLD, "") for way in ways for cell in way.cells})
    own = [one for one in differences if one.measure == differences[0].measure] if differences else []
    for pairs in sorted({one.trainings.pairs for one in own if one.trainings}):
        if pairs < 2:
            found.append("With one pair of trainings nothing can be said of other trainings.")
            continue
        floor = sign_flip_floor(pairs)
        words = f"With {pairs} pairs of trainings no p of flipping signs below {floor:.2g} is possible"
        if (most := max(one.family for one in own)) > 1:
            words += f", and none of {most} comparisons below {min(1, most * floor):.2g} when adjusted"
            floor *= most
        end = ": signs cannot show anything of other trainings." if floor >= SHOWN else "."
        found.append(words + end)
    if missing := [one for one in own if one.trainings is None]:
        have = "has" if len(missing) == 1 else "have"
        found.append(f"{count_of(len(missing), 'comparison')} {have} no pair of trainings with a number for both.")
    if folds > 1:
        found.append(
            f"The {folds} folds share training images: their differences are not independent, which the corrected "
            "t-test allows for and flipping signs does not. Seeds of a fold, which share its test "
            "images, are averaged in it. Its verdict rests on differences being about normal."
        )
    if seeds < 2:
        found.append(
            "With one seed, what another seed would change cannot be told from what other images would change."
        )
    patients = {name for cell in ways[0].chosen for name in cell.test.patients}
    images = {name for cell in ways[0].chosen for name in cell.test.sample_ids}
    if patients == images:
        found.append("Every image stands for itself: if patients have several, the intervals are too narrow.")
    found.append(
        "'Not shown' is not 'equal': the interval says how large a difference these patients leave possible. What "
        "holds for these data sets is not shown for others."
    )
    return found


def unpaired(
    differences: Sequence[Difference], ways: Sequence[Way], along: str, reference: str | None, *, missing: int
) -> list[str]:
    """Say what is not compared: cells that are missing, and values without a partner.

    Args:
        differences: All of them.
        ways: What was compared.
        along: Axis that they were compared along.
        reference: Label of the value that others were compared with; by default the first.
        missing: Number of cells of the study that are not there.
    """
    found = []
    if missing:
        found.append(
            f"Not there yet, or failed: {count_of(missing, 'cell')}. A difference is over the folds and seeds that "
            "both of its values have, and validation chose among what is there. These numbers will change."
        )
    reference = ways[0].labels[along] if reference is None else reference
    compared = len({(one.first, *one.setting.values()) for one in differences})
    alone = sum(way.labels[along] != reference for way in ways) - compared
    if alone:
        found.append(f"Not compared, for want of {reference} in the same setting, fold and seed: {alone}.")
    return found


def count_of(number: int, what: str) -> str:
    """Return a number with its noun, such as `1 fold` or `2 folds`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def p_text(p: float) -> str:
    """Return a p as a table prints it."""
    return "n/a" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def signed(measure: str, value: float) -> str:
    """Return a difference with its sign: of fractions in points."""
    if math.isnan(value):
        return "n/a"
    return f"{100 * value:+.2f}" if find_measure(measure).percent else f"{value:+.4f}"


def interval(measure: str, low: float, high: float) -> str:
    """Return the ends of an interval of a difference."""
    return "no interval" if math.isnan(low) else f"{signed(measure, low)} to {signed(measure, high)}"


def _number(one: Difference) -> str:
    found = one.together
    where = describe(one.setting)
    numbers = f"{signed(one.measure, found.difference)} ({interval(one.measure, found.low, found.high)})"
    return f"{where} {numbers}" if where else numbers
