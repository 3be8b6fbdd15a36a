"""The page of a study: one HTML file that needs no other, Markdown with its pictures, and CSV."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np

from ols.evaluation.report.markdown import markdown_text
from ols.evaluation.report.page import report_environment
from ols.files import write_file
from ols.metrics.measures import find_measure
from ols.studies.findings.agreement import agreement_section
from ols.studies.findings.confounders import confounder_section
from ols.studies.findings.differences import Difference, compare_along
from ols.studies.findings.localisation import localisation_section
from ols.studies.findings.sections import (
    calibration_section,
    cells_section,
    choice_section,
    columns_section,
    conditions_section,
    cost_section,
    difference_section,
    early_section,
    links_section,
    number_of,
    number_section,
)
from ols.studies.findings.trainings import Way, choose_ways
from ols.studies.findings.values import values_section
from ols.studies.findings.words import count_of, limits, sentences, signed, unpaired, verdict
from ols.studies.labels import FOLD, SEED
from ols.studies.results import CellResult
from ols.tasks.report.parts import Card, Cell, Drawings, Section, Table, Text

FORMAT = 1
MOST_MARKDOWN_ROWS = 200  # of a table; the HTML page has all


def write_study_page(
    folder: Path,
    cells: Sequence[CellResult],
    *,
    along: str,
    choose_over: Sequence[str] = (),
    question: str,
    planned: int | None = None,
    reference: str | None = None,
    against: Sequence[str] | None = None,
    resamples: int | None = None,
    seed: int = 0,
) -> Path:
    """Write `study.html`, `study.md` with its pictures in `study-pictures/`, and `differences.csv`, of format 1.

    Args:
        folder: Where to; it is made.
        cells: What the cells of the study came to.
        along: Axis whose values are compared, such as `source`.
        choose_over: Axes that validation chooses over within each fold and seed, such as `lr`.
        question: What the study asks, which is the page's title.
        planned: Number of cells that the study has; by default those that are given are all.
        reference: Label of the value that others are compared with; by default the first.
        against: Axes of numbers to draw the measure against; by default all whose labels are numbers.
        resamples: Number of draws of patients; by default what `compare_along` finds enough.
        seed: Of the draws.

    Returns:
        The HTML page.

    Raises:
        ValueError: An axis or a value is not there, or cells do not fit together; the message names them.
    """
    ways = choose_ways(cells, choose_over)
    differences = compare_along(ways, along, reference=reference, resamples=resamples, seed=seed)
    numbers = _number_axes(ways, along) if against is None else list(against)
    for axis in numbers:
        if axis == along or any(math.isnan(number_of(way.labels.get(axis, ""))) for way in ways):
            raise ValueError(f"{axis!r} is no axis of numbers beside {along}; there are {', '.join(ways[0].labels)}")
    seeds = len({cell.labels.get(SEED, "") for cell in cells})
    folds = len({cell.labels.get(FOLD, "") for cell in cells})
    timed = [cell.seconds for cell in cells if cell.seconds is not None]
    planned = len(cells) if planned is None else planned
    count = count_of(len(cells), "cell") if len(cells) == planned else f"{len(cells):,} of {planned:,} cells"
    facts = [count, f"compared along {along}", count_of(folds, "fold"), count_of(seeds, "seed")]
    facts.append(f"{sum(timed) / 3600:.1f} hours" + (f" of {len(timed)} cells" if len(timed) < len(cells) else ""))
    said = sentences([one for one in differences if one.measure in {way.measure for way in ways}])
    cannot = unpaired(differences, ways, along, reference, missing=planned - len(cells))
    cannot += limits(differences, ways, seeds=seeds)
    sections = [
        values_section(ways, seed=seed),
        difference_section(differences, [_how(differences)]) if differences else None,
        Section("limits", "What cannot be shown with these numbers", [Text(text) for text in cannot]),
        choice_section(ways, choose_over),
        cells_section(ways, along),
        number_section(ways, along, numbers),
        early_section(ways, along),
        calibration_section(ways, along),
        agreement_section(ways, along, reference=reference),
        confounder_section(ways, along),
        localisation_section(ways, along, reference=reference),
        columns_section(ways),
        cost_section(ways, along),
        conditions_section(ways),
        links_section(ways, folder),
    ]
    shown: dict[str, Any] = {
        "title": question,
        "kind": "Study",
        "facts": facts,
        "cards": headline(differences),
        "sentences": said or [f"No value of {along} has a partner: nothing is compared."],
        "sections": [section for section in sections if section is not None],
    }
    write_file(folder / "study.html", report_environment().get_template("findings.html.j2").render(shown))
    write_file(folder / "study.md", _markdown(folder / "study-pictures", **shown))
    _write_csv(folder / "differences.csv", differences)
    return folder / "study.html"


def headline(differences: Sequence[Difference]) -> list[Card]:
    """Return a card for each value and measure that tasks select by: the mean difference, and where it is shown."""
    cards = []
    tasks_own = [one for one in differences if one.measure not in ("ece", "aurc", "brier", "brier_positive")]
    for measure, first in dict.fromkeys((one.measure, one.first) for one in tasks_own):
        own = [one for one in tasks_own if (one.measure, one.first) == (measure, first)]
        values = [one.together.difference for one in own if not math.isnan(one.together.difference)]
        verdicts = [verdict(one).split()[0] for one in own]
        known = find_measure(measure)
        unit = " points" if known.percent else ""
        better = "higher" if known.higher_is_better else "lower"
        places = "one setting" if len(own) == 1 else f"mean over {len(own)} settings"
        value = signed(measure, float(np.mean(values))) + unit if values else "n/a"
        note = f"{places}, {better} is better; shown better in {verdicts.count('better')}, worse in "
        note += f"{verdicts.count('worse')}, not shown in {verdicts.count('not')}"
        cards.append(Card(f"{known.label}, {first} less {own[0].second}", value, note))
    return cards


def _how(differences: Sequence[Difference]) -> str:
    family = max(one.family for one in differences)
    return (
        "Pairs agree in all other axes. Patients: the test patients of all folds are drawn anew "
        "with all their images, the same for both, while the networks stay as they are. Trainings: pairs of the same "
        "fold and seed, by the corrected resampled t-test where there are several folds, else by flipping signs. Both "
        f"p are adjusted by Holm over the {count_of(family, 'comparison')} of a measure; shown is a p below 0.05."
    )


def _number_axes(ways: Sequence[Way], along: str) -> list[str]:
    return [
        axis
        for axis in ways[0].labels
        if axis != along
        and len({way.labels[axis] for way in ways}) > 1
        and not any(math.isnan(number_of(way.labels[axis])) for way in ways)
    ]


def _markdown(
    pictures: Path,
    *,
    title: str,
    kind: str,
    facts: Sequence[str],
    cards: Sequence[Card],
    sentences: Sequence[str],
    sections: Sequence[Section],
) -> str:
    parts = [f"# {markdown_text(title)}", markdown_text(f"{kind}: {', '.join(facts)}.")]
    parts += [f"**{markdown_text(card.label)}: {card.value}** ({markdown_text(card.note)})" for card in cards]
    parts.append("\n".join(f"- {markdown_text(sentence)}" for sentence in sentences))
    for section in sections:
        parts.append(f"## {markdown_text(section.title)}")
        number = 0
        for part in section.parts:
            if isinstance(part, Text):
                parts.append(("### " if part.kind == "heading" else "") + markdown_text(part.text))
            elif isinstance(part, Table):
                parts.append(_markdown_table(part))
            elif isinstance(part, Drawings):
                for drawing in part.drawings:
                    number += 1
                    picture = BytesIO()
                    drawing.figure.savefig(picture, format="png", dpi=130)
                    write_file(pictures / f"{section.key}-{number}.png", picture.getvalue())
                    parts.append(f"![{markdown_text(drawing.alt)}]({pictures.name}/{section.key}-{number}.png)")
                    parts.append(markdown_text(drawing.caption))
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    if not table.rows:
        return markdown_text(table.otherwise)
    lines = [
        [markdown_text(column.title) for column in table.columns],
        ["---:" if column.number else "---" for column in table.columns],
        *([_markdown_cell(cell) for cell in row.cells] for row in table.rows[:MOST_MARKDOWN_ROWS]),
    ]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    left = len(table.rows) - MOST_MARKDOWN_ROWS
    return text + (f"\n\n{left:,} more rows are in `study.html`." if left > 0 else "")


def _markdown_cell(cell: Cell) -> str:
    text = f"[{markdown_text(cell.text)}](<{cell.link}>)" if cell.link else markdown_text(cell.text)
    return "; ".join([" ".join(filter(None, [text, markdown_text(cell.beside)])), *map(markdown_text, cell.below)])


def _write_csv(path: Path, differences: Sequence[Difference]) -> None:
    rows: list[Mapping] = []
    for one in differences:
        record = asdict(one)
        row = {"format": FORMAT, **one.setting, "axis": one.axis, "value": one.first, "reference": one.second}
        row |= {"measure": one.measure, "of_value": one.values[0], "of_reference": one.values[1]}
        for name in ("together", "within"):
            row |= {f"{name}_{key}": value for key, value in zip(one.together._fields, record[name], strict=True)}
        if one.trainings:
            row |= {f"trainings_{key}": value for key, value in one.trainings._asdict().items()}
        rows.append(row | {"holm_p_patients": one.p_patients, "holm_p_trainings": one.p_trainings})
    file = StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)) or ["format"])
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, file.getvalue())
