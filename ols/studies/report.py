"""A comparison as others read it: words, tables, CSV and a picture."""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from io import BytesIO, StringIO
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ols.files import write_file
from ols.metrics.measures import MEASURES
from ols.metrics.resampling import sign_flip_floor
from ols.studies.comparison import Comparison, Summary, describe
from ols.studies.evaluated_runs import RESAMPLES, EvaluatedRun
from ols.studies.labels import say

SHOWN = 0.05  # adjusted p below which a difference is called shown


def write_comparison(
    folder: Path,
    runs: Sequence[EvaluatedRun],
    summaries: Sequence[Summary],
    comparisons: Sequence[Comparison],
    conditions: str,
) -> None:
    """Write `comparison.md`, `comparison.png`, `runs.csv`, `summaries.csv` and `comparisons.csv`, all of format 1.

    Args:
        folder: Where to; it is made.
        runs: Runs that were compared.
        summaries: What `summarise` returns of them.
        comparisons: What `compare_runs` returns of them.
        conditions: Under which the numbers were made, in a sentence.
    """
    text = f"{markdown(summaries, comparisons, conditions)}\n![Every run and the mean of its kind](comparison.png)\n"
    write_file(folder / "comparison.md", text)
    picture = BytesIO()
    draw_runs(runs).savefig(picture, format="png", dpi=150)
    write_file(folder / "comparison.png", picture.getvalue())
    _write_csv(
        folder / "runs.csv",
        [
            {"run": run.run_dir.name, **run.setting, run.axis: run.label, "seed": run.seed}
            | {"test_images": run.test_images, "temperature": run.temperature, **run.measures}
            for run in runs
        ],
    )
    _write_csv(
        folder / "summaries.csv",
        [
            {**s.setting, s.axis: s.label, "seeds": s.seeds}
            | {
                f"{name}_{what}": v
                for name in s.mean
                for what, v in (("mean", s.mean[name]), ("sd", s.deviation[name]))
            }
            for s in summaries
        ],
    )
    names = ("reference", "measure", "seeds", "difference", "low", "high", "p_images", "p_seeds")
    _write_csv(
        folder / "comparisons.csv",
        [{**c.setting, c.axis: c.label} | {name: getattr(c, name) for name in names} for c in comparisons],
    )


def markdown(summaries: Sequence[Summary], comparisons: Sequence[Comparison], conditions: str) -> str:
    """Return the tables and what they show in words, as Markdown."""
    axis = summaries[0].axis
    measures = [name for name in summaries[0].mean if name in MEASURES]
    header = [axis, "seeds", *map(_heading, measures), "temperature"]
    settings = [dict(setting) for setting in dict.fromkeys(tuple(s.setting.items()) for s in summaries)]
    parts = [f"# Runs compared along {axis}", conditions]
    for setting in settings:
        where = f", {describe(setting)}" if describe(setting) else ""
        rows = [
            [s.label, str(s.seeds), *(_mean(name, s) for name in measures), _mean("temperature", s)]
            for s in summaries
            if s.setting == setting
        ]
        parts += [f"## Mean and standard deviation over seeds{where}", _table(header, rows)]
        parts.append(
            "Scaled: after temperature scaling, fitted on the validation split. ECE: "
            f"{MEASURES['ece'].note}. Null: the ECE that chance alone would give a perfectly calibrated model with the "
            "same confidences."
        )
        own = [c for c in comparisons if c.setting == setting]
        if own:
            parts += [f"## Differences from {own[0].reference}{where}", _floor(own), _difference_table(own)]
            parts.append(f"## What is shown and what is not{where if settings[1:] else ''}")
            parts += [_paragraph(own, label) for label in dict.fromkeys(c.label for c in own)]
    return "\n\n".join(parts) + "\n"


def sentences(comparisons: Sequence[Comparison]) -> list[str]:
    """Say in words what the tests of one value show, and what not: a sentence for each verdict.

    Args:
        comparisons: Those of one value with its reference, in any measures.
    """
    verdicts: dict[str, list[str]] = {}
    for c in comparisons:
        verdicts.setdefault(_verdict(c), []).append(_finding(c))
    first = comparisons[0]
    label, reference = say(first.axis, first.label), say(first.axis, first.reference)
    return [f"{verdict}: {label} has {'; '.join(found)} than {reference}." for verdict, found in verdicts.items()]


def draw_runs(runs: Sequence[EvaluatedRun]) -> Figure:
    """Draw a panel for each measure: a point for each run, a line at the mean over seeds, raw beside scaled."""
    names = [name for name in runs[0].measures if MEASURES[name].scaled is not True]
    groups = list(dict.fromkeys(map(_group, runs)))
    several = len({where for where, _ in groups}) > 1
    ticks = [f"{label}\n{where}" if several else label for where, label in groups]
    columns = 3
    rows = math.ceil(len(names) / columns)
    canvas = Figure(figsize=(4.4 * columns, 0.8 + rows * (1.2 + 0.28 * len(groups))), layout="constrained")
    grid = canvas.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, name in zip(grid.flat, names, strict=False):
        pair = [name, f"{name}_scaled"] if MEASURES[name].scaled is False else [name]
        unit = 100 if MEASURES[name].percent else 1
        for key, color, shift in zip(pair, ("#4c78a8", "#e45756"), (-0.17, 0.17) if pair[1:] else (0.0,), strict=False):
            for row, group in enumerate(groups):
                values = [unit * run.measures[key] for run in runs if _group(run) == group]
                axes.plot(values, [row + shift] * len(values), "o", color=color, markersize=4, alpha=0.55, mew=0)
                mean = sum(values) / len(values)
                axes.plot([mean, mean], [row + shift - 0.16, row + shift + 0.16], color=color, linewidth=2)
        axes.set_title(f"{MEASURES[name].label}{' [%]' if unit == 100 else ''} {MEASURES[name].arrow}", fontsize=10)
        axes.set_yticks(range(len(groups)), ticks, fontsize=8)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
        axes.margins(x=0.08)
    panels = list(canvas.axes)
    panels[0].invert_yaxis()  # shared: the first group on top
    for axes in panels[len(names) :]:
        axes.remove()
    handles = [
        Line2D([], [], color=color, marker="o", markersize=4, label=label)
        for color, label in (("#4c78a8", "raw"), ("#e45756", "temperature-scaled"))
    ]
    seeds = Counter(map(_group, runs)).values()
    count = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
    title = f"a point is a run, a line the mean; {count} seeds, {runs[0].test_images:,} test images"
    canvas.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9, title=title)
    return canvas


def _group(run: EvaluatedRun) -> tuple[str, str]:
    return describe(run.setting), run.label


def _paragraph(own: Sequence[Comparison], label: str) -> str:
    words = sentences([c for c in own if c.label == label])
    return f"**{label}**\n\n" + "\n".join(f"- {sentence}" for sentence in words)


def _finding(c: Comparison) -> str:
    measure = MEASURES[c.measure]
    way = "higher" if c.difference > 0 else "lower" if c.difference < 0 else "no other"
    if c.difference:
        way += " (better)" if (c.difference > 0) == measure.higher_is_better else " (worse)"
    numbers = [f"difference {_signed(c.measure, c.difference)}"]
    if not math.isnan(c.p_images):
        low, high = (_signed(c.measure, value, unit=False) for value in (c.low, c.high))
        numbers.append(f"95 % interval {low} to {high}, Holm p {_p(c.p_images)}")
    if not math.isnan(c.p_seeds):
        numbers.append(f"over seeds Holm p {_p(c.p_seeds)}")
    return f"{way} {measure.label} ({', '.join(numbers)})"


def _verdict(c: Comparison) -> str:
    images, seeds = c.p_images < SHOWN, c.p_seeds < SHOWN  # false where there is no test
    tests = [] if math.isnan(c.p_images) else [("for other images", images)]
    if not math.isnan(c.p_seeds):
        tests.append(("for other seeds", seeds))
    if not tests:
        return "Not tested"
    if not images and not seeds:
        return f"Not shown, {'neither' if tests[1:] else 'not'} {' nor '.join(name for name, _ in tests)}"
    words = ", ".join(f"{'shown' if shown else 'not shown'} {name}" for name, shown in tests)
    return words[0].upper() + words[1:]


def _floor(own: Sequence[Comparison]) -> str:
    values = len({c.label for c in own})
    lines = [
        f"Difference: value of {own[0].axis} less reference, mean over shared seeds. Over images: the test images are "
        f"drawn anew with replacement {RESAMPLES:,} times, the same for all runs, which stay as they are; a basic 95 % "
        "interval, and the p of its test. Over seeds: the two-sided p of a sign-flip test of the paired differences. "
        f"Both p are adjusted by Holm over the {values} {'value' if values == 1 else 'values'} of a column, not "
        f"over columns. 'Shown' is an adjusted p below {SHOWN}. Where a model is close to perfectly calibrated, the "
        "interval of its ECE is too narrow."
    ]
    for seeds in sorted({c.seeds for c in own}):
        if seeds < 2:
            lines.append("With one seed nothing can be said of other seeds.")
            continue
        floor = sign_flip_floor(seeds)
        line = f"With {seeds} seeds no p over seeds below {floor:.2g} is possible"
        if values > 1:
            line += f", and the smallest of {values} is not below {min(1, values * floor):.2g} when adjusted"
        lines.append(line + (": nothing can be shown of other seeds." if values * floor >= SHOWN else "."))
    return " ".join(lines)


def _difference_table(own: Sequence[Comparison]) -> str:
    measures = list(dict.fromkeys(c.measure for c in own))
    rows = []
    for label in dict.fromkeys(c.label for c in own):
        cells = {c.measure: _difference(c) for c in own if c.label == label}
        rows.append([label, *(cells[measure] for measure in measures)])
    header = [own[0].axis, *map(_heading, measures)]
    legend = "A cell: difference [interval over images], adjusted p over images; adjusted p over seeds."
    return f"{_table(header, rows)}\n\n{legend}"


def _difference(c: Comparison) -> str:
    cell = _signed(c.measure, c.difference, unit=False)
    if not math.isnan(c.p_images):
        low, high = (_signed(c.measure, value, unit=False) for value in (c.low, c.high))
        cell += f" [{low}, {high}], p {_p(c.p_images)}"
    return cell + (f"; p {_p(c.p_seeds)}" if not math.isnan(c.p_seeds) else "")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(name: str, summary: Summary) -> str:
    mean, deviation = summary.mean[name], summary.deviation[name]
    percent = name in MEASURES and MEASURES[name].percent
    null = f" (null {summary.mean[f'{name}_null']:.4f})" if f"{name}_null" in summary.mean else ""
    if math.isnan(deviation):
        return f"{100 * mean:.2f} %" if percent else f"{mean:.4f}{null}"
    return f"{100 * mean:.2f} ± {100 * deviation:.2f} %" if percent else f"{mean:.4f} ± {deviation:.4f}{null}"


def _signed(measure: str, value: float, *, unit: bool = True) -> str:
    if MEASURES[measure].percent:
        return f"{100 * value:+.2f}" + (" points" if unit else "")
    return f"{value:+.4f}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _heading(name: str) -> str:
    return f"{MEASURES[name].label} {MEASURES[name].arrow}"


def _write_csv(path: Path, rows: Sequence[dict]) -> None:
    file = StringIO()
    writer = csv.DictWriter(file, ["format", *rows[0]] if rows else ["format"])
    writer.writeheader()
    writer.writerows({"format": 1, **row} for row in rows)
    write_file(path, file.getvalue())
