"""The section of a study's page on a confounder: each test against the share of images that carry it."""

from collections.abc import Container, Sequence
from typing import Any

from ols.evaluation.confounder_page import draw_confounder
from ols.evaluation.confounding import LABELS, Arm, ConfounderReport, confounder_report, say_share
from ols.evaluation.draws import BinaryOutputs
from ols.studies.findings.sections import number_of
from ols.studies.findings.trainings import Way, describe, repetition
from ols.studies.findings.words import count_of, p_text
from ols.studies.labels import CONFOUNDER_SHARE
from ols.tasks.report.parts import Cell, Column, Drawing, Drawings, Row, Section, Table, Text

COMPARED = ("auc", "ece", "confidence_less_accuracy")


def confounder_section(ways: Sequence[Way], along: str) -> Section | None:
    """Return AUC and calibration of every form of the test against the share, and what values differ in.

    Args:
        ways: Those that have been tested in the forms of a confounder's test, on an axis `data.confounder_share`, have
            a part.
        along: Axis whose values are compared.
    """
    settings: dict[tuple[tuple[str, str], ...], list[Way]] = {}
    forms = {form for way in ways for cell in way.chosen for form in cell.forms}
    for way in ways:
        # Where the columns of a cell are still made, its way has no part yet
        tested = bool(forms) and all(forms <= cell.forms.keys() for cell in way.chosen)
        if tested and CONFOUNDER_SHARE in way.labels and along != CONFOUNDER_SHARE:
            rest = tuple((axis, label) for axis, label in way.labels.items() if axis not in (along, CONFOUNDER_SHARE))
            settings.setdefault(rest, []).append(way)
    parts: list[Any] = []
    for setting, own in settings.items():
        title = describe(dict(setting)) or "the confounder"
        shared = set.intersection(*(way.repetitions for way in own))
        if not shared:
            parts.append(Text(f"{title}: the values of {along} and the shares have no fold and seed in common yet."))
            continue
        report, trainings = _report(own, along, shared), len(shared)
        parts.append(Text(f"{title}, {count_of(trainings, 'training')} a point", "heading"))
        caption = "Bands: 95 % over patients. Dashed: chance; for ECE and confidence less accuracy, 0."
        parts.append(Drawings([Drawing(draw_confounder(report), f"Tests of {title} against its share", caption)]))
        parts += [_measures(report, along), _breaking(report, along), _differences(report)]
    if not parts:
        return None
    lede = (
        "Share: that of the training positives that carry the confounder, or how far an attribute goes with the label. "
        "The AUC is the mean over trainings, other measures are of their outputs together. Intervals draw the same "
        "patients for every network and say nothing of other trainings; how far trainings differ stands under "
        '"Further numbers". Null: the ECE of perfect calibration.'
    )
    return Section("confounder", "Under the confounder", [Text(lede, "introduction"), *parts])


def _report(ways: Sequence[Way], along: str, shared: Container[tuple[str, str]]) -> ConfounderReport:
    """Compare the ways in folds and seeds that all of them have."""
    tests = {}
    for way in sorted(ways, key=lambda way: number_of(way.labels[CONFOUNDER_SHARE])):
        cells = {key: cell for cell in way.chosen if (key := repetition(cell.labels)) in shared}
        for form in way.chosen[0].forms:
            found = {" ".join(key): cells[key].forms[form] for key in sorted(cells)}
            positive = way.chosen[0].task.state["positive"]
            arm = Arm(way.labels[along], number_of(way.labels[CONFOUNDER_SHARE]), form)
            tests[arm] = BinaryOutputs.of_trainings(found, positive)
    order = list(dict.fromkeys(way.labels[along] for way in ways))
    tests = dict(sorted(tests.items(), key=lambda item: order.index(item[0].source)))
    return confounder_report(tests)


def _measures(report: ConfounderReport, along: str) -> Table:
    cells: dict[tuple[str, str, str], list[Cell]] = {}
    for row in report.rows:
        if row.measure in COMPARED:
            null = "" if row.null is None else f", null {row.null:.3f}"
            text = Cell(f"{row.value:.3f}", beside=f"({row.low:.3f} to {row.high:.3f}{null})")
            cells.setdefault((row.source, f"{row.share:g}", row.form), []).append(text)
    names = [LABELS["auc"], LABELS["ece"], "confidence less accuracy"]
    columns = [Column(along), Column("share", True), Column("test"), *(Column(name, True) for name in names)]
    return Table(columns, [Row([*map(Cell, key), *measures]) for key, measures in cells.items()])


def _breaking(report: ConfounderReport, along: str) -> Table:
    rows = [Row([Cell(one.source), Cell(say_share(one))]) for one in report.breaking]
    return Table([Column(along), Column("inverted AUC below one half from share", True)], rows)


def _differences(report: ConfounderReport) -> Table:
    rows = []
    for one in report.differences:
        if one.form == "inverted" and one.measure in COMPARED:
            found = one.found
            text = Cell(f"{found.difference:+.3f}", beside=f"({found.low:+.3f} to {found.high:+.3f})")
            pair = Cell(f"{one.first} less {one.second}")
            rows.append(
                Row([pair, Cell(f"{one.share:g}"), Cell(LABELS[one.measure]), text, Cell(p_text(one.adjusted_p))])
            )
    columns = [Column("inverted test"), Column("share", True), Column("measure"), Column("difference", True)]
    return Table([*columns, Column("Holm p, patients", True)], rows, otherwise="There is nothing to compare.")
