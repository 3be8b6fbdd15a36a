"""A comparison of losses as others read it: words, tables, CSV and a figure."""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from ols.metrics.resampling import sign_flip_floor
from ols.studies.comparison import FIGURES, RESAMPLES, Comparison, EvaluatedRun, Summary

SHOWN = 0.05  # adjusted p below which a difference is called shown


def write_report(
    folder: Path,
    runs: Sequence[EvaluatedRun],
    summaries: Sequence[Summary],
    comparisons: Sequence[Comparison],
    conditions: str,
) -> None:
    """Write `comparison.md`, `comparison.png`, `runs.csv`, `losses.csv` and `comparisons.csv`, all of format 1."""
    folder.mkdir(parents=True, exist_ok=True)
    text = f"{markdown(summaries, comparisons, conditions)}\n![Every run and the mean of each loss](comparison.png)\n"
    (folder / "comparison.md").write_text(text)
    draw_runs(runs).savefig(folder / "comparison.png", dpi=150)
    _write_csv(
        folder / "runs.csv",
        [
            {"run": run.run_dir.name, "architecture": run.architecture, "loss": run.loss, "seed": run.seed}
            | {"test_images": run.test_images, "temperature": run.temperature, **run.figures}
            for run in runs
        ],
    )
    _write_csv(
        folder / "losses.csv",
        [
            {"architecture": s.architecture, "loss": s.loss, "seeds": s.seeds}
            | {
                f"{name}_{what}": v
                for name in s.mean
                for what, v in (("mean", s.mean[name]), ("sd", s.deviation[name]))
            }
            for s in summaries
        ],
    )
    _write_csv(folder / "comparisons.csv", [asdict(comparison) for comparison in comparisons])


def markdown(summaries: Sequence[Summary], comparisons: Sequence[Comparison], conditions: str) -> str:
    """Return the tables and what they show in words, as Markdown."""
    figures = [name for name in FIGURES if name in summaries[0].mean]
    header = ["loss", "seeds", *(f"{FIGURES[name].name}{_arrow(name)}" for name in figures), "temperature"]
    several = len({summary.architecture for summary in summaries}) > 1
    parts = ["# Losses compared", conditions]
    for architecture in dict.fromkeys(summary.architecture for summary in summaries):
        rows = [
            [s.loss, str(s.seeds), *(_mean(name, s) for name in figures), _mean("temperature", s)]
            for s in summaries
            if s.architecture == architecture
        ]
        parts += [f"## Mean and standard deviation over seeds, {architecture}", _table(header, rows)]
        parts.append(
            "Scaled: after temperature scaling, fitted on the validation split. Null: the ECE that chance alone would "
            "give a perfectly calibrated model with the same confidences."
        )
        own = [c for c in comparisons if c.architecture == architecture]
        if own:
            parts += [f"## Differences from {own[0].reference}, {architecture}", _floor(own), _difference_table(own)]
            parts.append(f"## What is shown and what is not{f', {architecture}' if several else ''}")
            parts += [_paragraph(own, loss) for loss in dict.fromkeys(c.loss for c in own)]
    return "\n\n".join(parts) + "\n"


def sentences(comparisons: Sequence[Comparison]) -> list[str]:
    """Say in words what the tests of one loss show, and what not: a sentence for each verdict.

    Args:
        comparisons: Of one loss with its reference, in any figures.
    """
    verdicts: dict[str, list[str]] = {}
    for c in comparisons:
        verdicts.setdefault(_verdict(c), []).append(_finding(c))
    loss, reference = comparisons[0].loss, comparisons[0].reference
    return [f"{verdict}: {loss} has {'; '.join(found)} than {reference}." for verdict, found in verdicts.items()]


def draw_runs(runs: Sequence[EvaluatedRun]) -> Canvas:
    """Draw a panel for each figure: a point for each run, a line at the mean of each loss, raw beside scaled."""
    names = [name for name in FIGURES if name in runs[0].figures and FIGURES[name].scaled is not True]
    groups = list(dict.fromkeys((run.architecture, run.loss) for run in runs))
    several = len({architecture for architecture, _ in groups}) > 1
    ticks = [f"{loss}\n{architecture}" if several else loss for architecture, loss in groups]
    columns = 3
    rows = math.ceil(len(names) / columns)
    canvas = Canvas(figsize=(4.4 * columns, 0.8 + rows * (1.2 + 0.28 * len(groups))), layout="constrained")
    panels = canvas.subplots(rows, columns, squeeze=False, sharey=True).flat
    for axes, name in zip(panels, names, strict=False):
        pair = [name, f"{name}_scaled"] if FIGURES[name].scaled is False else [name]
        unit = 100 if FIGURES[name].percent else 1
        for key, color, shift in zip(pair, ("#4c78a8", "#e45756"), (-0.17, 0.17) if pair[1:] else (0.0,), strict=False):
            for row, group in enumerate(groups):
                values = [unit * run.figures[key] for run in runs if (run.architecture, run.loss) == group]
                axes.plot(values, [row + shift] * len(values), "o", color=color, markersize=4, alpha=0.55, mew=0)
                mean = sum(values) / len(values)
                axes.plot([mean, mean], [row + shift - 0.16, row + shift + 0.16], color=color, linewidth=2)
        axes.set_title(f"{FIGURES[name].name}{' [%]' if unit == 100 else ''}{_arrow(name)}", fontsize=10)
        axes.set_yticks(range(len(groups)), ticks, fontsize=8)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
        axes.margins(x=0.08)
    panels = list(canvas.axes)
    panels[0].invert_yaxis()  # shared: the first loss on top
    for axes in panels[len(names) :]:
        axes.remove()
    handles = [
        Line2D([], [], color=color, marker="o", markersize=4, label=label)
        for color, label in (("#4c78a8", "raw"), ("#e45756", "temperature-scaled"))
    ]
    seeds = Counter((run.architecture, run.loss) for run in runs).values()
    count = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
    title = f"a point is a run, a line the mean; {count} seeds, {runs[0].test_images:,} test images"
    canvas.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9, title=title)
    return canvas


def _paragraph(own: Sequence[Comparison], loss: str) -> str:
    return f"**{loss}**\n\n" + "\n".join(f"- {sentence}" for sentence in sentences([c for c in own if c.loss == loss]))


def _finding(c: Comparison) -> str:
    figure = FIGURES[c.figure]
    way = "higher" if c.difference > 0 else "lower" if c.difference < 0 else "no other"
    if c.difference:
        way += " (better)" if (c.difference > 0) == figure.higher_is_better else " (worse)"
    numbers = [f"difference {_signed(c.figure, c.difference)}"]
    if not math.isnan(c.p_images):
        low, high = (_signed(c.figure, value, unit=False) for value in (c.low, c.high))
        numbers.append(f"95 % interval {low} to {high}, Holm p {_p(c.p_images)}")
    if not math.isnan(c.p_seeds):
        numbers.append(f"over seeds Holm p {_p(c.p_seeds)}")
    return f"{way} {figure.name} ({', '.join(numbers)})"


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
    losses = len({c.loss for c in own})
    lines = [
        "Loss less reference, mean over shared seeds. Over images: the test images are drawn anew with replacement "
        f"{RESAMPLES:,} times, the same for all runs, which stay as they are; a basic 95 % interval, and the p of its "
        "test. Over seeds: the two-sided p of a sign-flip test of the paired differences. Both p are adjusted by Holm "
        f"over the {losses} {'loss' if losses == 1 else 'losses'} of a column, not over columns. 'Shown' is an "
        f"adjusted p below {SHOWN}. Where a model is close to perfectly calibrated, the interval of its ECE is too "
        "narrow."
    ]
    for seeds in sorted({c.seeds for c in own}):
        if seeds < 2:
            lines.append("With one seed nothing can be said of other seeds.")
            continue
        floor = sign_flip_floor(seeds)
        line = f"With {seeds} seeds no p over seeds below {floor:.2g} is possible"
        if losses > 1:
            line += f", and the smallest of {losses} is not below {min(1, losses * floor):.2g} when adjusted"
        lines.append(line + (": nothing can be shown of other seeds." if losses * floor >= SHOWN else "."))
    return " ".join(lines)


def _difference_table(own: Sequence[Comparison]) -> str:
    figures = list(dict.fromkeys(c.figure for c in own))
    rows = []
    for loss in dict.fromkeys(c.loss for c in own):
        cells = {c.figure: _difference(c) for c in own if c.loss == loss}
        rows.append([loss, *(cells[figure] for figure in figures)])
    header = ["loss", *(f"{FIGURES[figure].name}{_arrow(figure)}" for figure in figures)]
    legend = "A cell: difference [interval over images], adjusted p over images; adjusted p over seeds."
    return f"{_table(header, rows)}\n\n{legend}"


def _difference(c: Comparison) -> str:
    cell = _signed(c.figure, c.difference, unit=False)
    if not math.isnan(c.p_images):
        low, high = (_signed(c.figure, value, unit=False) for value in (c.low, c.high))
        cell += f" [{low}, {high}], p {_p(c.p_images)}"
    return cell + (f"; p {_p(c.p_seeds)}" if not math.isnan(c.p_seeds) else "")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(name: str, summary: Summary) -> str:
    mean, deviation = summary.mean[name], summary.deviation[name]
    percent = name in FIGURES and FIGURES[name].percent
    null = f" (null {summary.mean[f'{name}_null']:.4f})" if f"{name}_null" in summary.mean else ""
    if math.isnan(deviation):
        return f"{100 * mean:.2f} %" if percent else f"{mean:.4f}{null}"
    return f"{100 * mean:.2f} ± {100 * deviation:.2f} %" if percent else f"{mean:.4f} ± {deviation:.4f}{null}"


def _signed(figure: str, value: float, *, unit: bool = True) -> str:
    if FIGURES[figure].percent:
        return f"{100 * value:+.2f}" + (" points" if unit else "")
    return f"{value:+.4f}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _arrow(name: str) -> str:
    return " ↑" if FIGURES[name].higher_is_better else " ↓"


def _write_csv(path: Path, rows: Sequence[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["format", *rows[0]] if rows else ["format"])
        writer.writeheader()
        writer.writerows({"format": 1, **row} for row in rows)
