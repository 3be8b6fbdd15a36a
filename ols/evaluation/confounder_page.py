"""A study of a confounder as files: a page with its figure, and every number of it."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from ols.evaluation.confounding import FORMS, LABELS, Arm, ConfoundedRow, ConfounderReport
from ols.evaluation.draws import BinaryOutputs
from ols.evaluation.folds import OutOfFold
from ols.files import write_file, written_aside

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2")


def fold_tests(
    trainings: Mapping[tuple[str, float], Mapping[str, OutOfFold]], positive: str
) -> dict[Arm, BinaryOutputs]:
    """Return the tests that `confounder_report` takes of trainings over folds.

    Args:
        trainings: By source and share of confounded positives, the folds' predictions of each form of the test.
        positive: Label of the positive class.
    """
    return {
        Arm(source, share, form): BinaryOutputs.of_folds(found, positive)
        for (source, share), forms in trainings.items()
        for form, found in forms.items()
    }


def write_confounder_page(folder: Path, report: ConfounderReport, *, title: str, conditions: str) -> None:
    """Write `confounder.md` with all tables, `confounder.csv` and `confounder.png`.

    Args:
        folder: Where to.
        report: What was found.
        title: Heading of the page.
        conditions: Data, model, seeds, versions and date, in a sentence.
    """
    with written_aside(folder / "confounder.png") as aside:
        draw_confounder(report).savefig(aside, format="png", dpi=130, metadata={"Software": None})
    write_file(folder / "confounder.csv", report.csv())
    write_file(
        folder / "confounder.md",
        f"# {title}\n\n{conditions}\n\n![measures against the share of confounded positives](confounder.png)\n\n"
        "Intervals are of 95 %, over patients drawn anew: nothing is said of other trainings. Null: the ECE of a "
        "perfectly calibrated model with these confidences. Less accuracy: mean confidence less accuracy; above 0 it "
        f"is surer than right.\n\n{report.markdown()}",
    )


def draw_confounder(report: ConfounderReport) -> Figure:
    """Draw AUC, ECE and confidence less accuracy against the share, a row each, a column for each form of the test."""
    levels = {"auc": 0.5, "ece": 0.0, "confidence_less_accuracy": 0.0}
    forms = [form for form in FORMS if any(row.form == form for row in report.rows)]
    sources = list(dict.fromkeys(row.source for row in report.rows))
    figure = Figure(figsize=(1 + 2.7 * len(forms), 7.4), layout="constrained")
    grid = figure.subplots(len(levels), len(forms), sharex=True, sharey="row", squeeze=False)
    for (measure, level), line in zip(levels.items(), grid, strict=True):
        for form, axes in zip(forms, line, strict=True):
            axes.axhline(level, color="0.6", linewidth=1, linestyle="--")
            for number, source in enumerate(sources):
                own = _curve(report, source, form, measure)
                if not own:
                    continue
                colour, shares = COLOURS[number % len(COLOURS)], [row.share for row in own]
                axes.plot(shares, [row.value for row in own], "o-", color=colour, markersize=3, label=source)
                axes.fill_between(
                    shares, [row.low for row in own], [row.high for row in own], color=colour, alpha=0.15, linewidth=0
                )
            axes.grid(color="0.93")
        label = "mean confidence less accuracy" if measure == "confidence_less_accuracy" else LABELS[measure]
        line[0].set_ylabel(label)
    for form, axes in zip(forms, grid[0], strict=True):
        axes.set_title(f"{form} test", fontsize="medium")
    figure.supxlabel("share of training positives with the confounder", fontsize="medium")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


def _curve(report: ConfounderReport, source: str, form: str, measure: str) -> list[ConfoundedRow]:
    own = [row for row in report.rows if (row.source, row.form, row.measure) == (source, form, measure)]
    return sorted(own, key=lambda row: row.share)
