import csv
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.metrics import f1_score, roc_auc_score

from ols.evaluation.predictions import Predictions
from ols.studies.findings.page import write_study_page
from ols.studies.findings.sections import conditions_section, number_section
from ols.studies.findings.trainings import choose_ways
from ols.studies.results import CellResult
from ols.tasks import build_task
from ols.tasks.report.parts import Text


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.links = [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.sources += [found["src"]] if "src" in found else []
        self.links += [found["href"]] if tag == "a" else []


@pytest.fixture(scope="module")
def written(make_cells, tmp_path_factory):
    cells = make_cells({"imagenet": 0.3, "radimagenet": 1.3}, lrs=("0.01", "0.001"), images=160)
    folder = tmp_path_factory.mktemp("study")
    page = write_study_page(
        folder, cells, along="source", choose_over=["lr"], question="Is <RadImageNet> better?", resamples=200
    )
    return folder, cells, page.read_text()


def test_the_page_needs_no_other_file_and_links_to_every_cell(written):
    folder, cells, html = written
    found = _Links()
    found.feed(html)
    assert len(found.sources) >= 6
    assert all(source.startswith("data:") for source in found.sources)
    linked = {(folder / link).resolve() for link in found.links if not link.startswith("#")}
    assert linked == {cell.run_dir.resolve() for cell in cells}
    assert not re.search(r"(src|href)=.https?:|@import|url\(", html)
    assert "Is &lt;RadImageNet&gt; better?" in html


def test_the_page_begins_with_the_difference_and_says_what_is_shown_and_what_cannot_be(written):
    folder, _, html = written
    with (folder / "differences.csv").open() as file:
        rows = {row["measure"]: row for row in csv.DictReader(file)}
    value = f"{float(rows['auc']['together_difference']):+.4f}"
    text = (folder / "study.md").read_text()
    assert text.index(f"**AUC, radimagenet less imagenet: {value}**") < text.index("## ")
    assert html.index(f"<b>{value}</b>") < html.index("<h2>Differences")
    assert "AUC, radimagenet against imagenet: better for other patients" in text
    assert "With 5 pairs of trainings no p of flipping signs below 0.062 is possible: signs cannot show" in text
    assert "With one seed, what another seed would change cannot be told" in text
    assert "nan" not in re.sub(r"data:[^\"]*", "", html)
    pictures = re.findall(r"\]\((study-pictures/[^)]+)\)", text)
    assert len(pictures) >= 6
    assert all((folder / picture).stat().st_size > 1000 for picture in pictures)


@pytest.fixture
def undrawn(monkeypatch):
    """Write no picture, which takes seconds."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **options: file.write(b"picture"))


def test_a_study_of_one_setting_says_one_comparison_and_has_no_column_of_settings(make_cells, tmp_path, undrawn):
    cells = make_cells({"imagenet": 0.3, "radimagenet": 1.3}, images=160)
    for cell in cells:
        for axis in ("target", "lr"):
            del cell.labels[axis]
    write_study_page(tmp_path, cells, along="source", question="One?", resamples=50)
    text = (tmp_path / "study.md").read_text()
    assert "over the 1 comparison of a measure" in text
    assert not re.search(r"\b1 (comparisons|pairs|folds|seeds|cells)\b", text)
    assert "| source | value, reference | difference |" in text


def test_a_study_that_is_not_complete_says_what_is_missing_and_compares_what_is_there(make_cells, tmp_path, undrawn):
    cells = make_cells({"imagenet": 0.3, "radimagenet": 1.3}, seeds=2, images=160)
    there = [cell for cell in cells if (cell.labels["source"], cell.labels["seed"]) != ("radimagenet", "1")]
    alone = make_cells({"radimagenet": 1.3}, targets=("breast",), images=160)
    write_study_page(tmp_path, there + alone, along="source", question="Yet?", planned=30, resamples=50)
    text = (tmp_path / "study.md").read_text()
    assert "20 of 30 cells" in text
    assert "Not there yet, or failed: 10 cells." in text
    assert "Not compared, for want of imagenet in the same setting, fold and seed: 1." in text
    with (tmp_path / "differences.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["target"] for row in rows} == {"thyroid"}
    assert {row["trainings_pairs"] for row in rows} == {"5"}  # of seed 0


def test_conditions_are_told_by_their_values_and_what_is_of_one_cell_is_left_out(make_cells):
    cells = make_cells({"imagenet": 0.3, "radimagenet": 1.3})
    for number, cell in enumerate(cells):
        own = {"date": f"2026-11-{20 + number % 3}T10:00:00", "versions": {"torch": "2.15.0", "timm": "1.0.31"}}
        own |= {
            "command": ["python", str(number)],
            "weights": f"checksum{number}",
            "commit": "abc" if number else "def",
        }
        cell.test.conditions.update(own)
    (table, _) = conditions_section(choose_ways(cells)).parts
    assert {row.cells[0].text: row.cells[1].text for row in table.rows} == {
        "device": "cpu",
        "commit": "abc (9 cells); def (1 cell)",
        "date": "2026-11-20 to 2026-11-22",
        "versions": "torch 2.15.0, timm 1.0.31",
    }


def test_pictures_that_are_wider_than_a_narrow_screen_are_marked_and_forests_are_not(written):
    _, _, html = written
    section = html[html.index('id="differences"') : html.index('id="limits"')]
    assert section.count("<figure>") == 4
    assert 'class="wide"' not in section


def _cell(task, labels, logits, targets, folder, measure=None):
    names = [f"image{labels.get('fold', '')}-{row}" for row in range(len(targets))]
    found = Predictions(
        logits, targets, torch.arange(len(targets)), names, names, task.classes, task.groups, task.name
    )  # fmt: skip
    measure = task.selecting(measure)
    return CellResult(
        labels, folder / "-".join(labels.values()), 9.0, 100, found, found, task, measure, [(1, 0.5), (2, 0.6)], {}
    )


def test_a_study_over_losses_whose_runs_have_no_folds_is_compared_over_seeds(tmp_path, undrawn):
    task, rng = build_task("multiclass", ["a", "b", "c"], ["CT"] * 3), torch.Generator().manual_seed(0)
    targets = torch.arange(90) % 3
    cells = [
        _cell(
            task,
            {"model": "net", "loss": loss, "seed": str(seed)},
            skill * torch.eye(3)[targets] + torch.randn(90, 3, generator=rng),
            targets,
            tmp_path,
        )
        for seed in range(6)
        for loss, skill in (("hard", 1.0), ("ols", 3.0))
    ]
    write_study_page(tmp_path, cells, along="loss", question="Which loss?", resamples=50)
    text = (tmp_path / "study.md").read_text()
    assert "12 cells, compared along loss, 1 fold, 6 seeds" in text
    assert "ols against hard: better for other patients and trainings" in text
    with (tmp_path / "differences.csv").open() as file:
        (row, *_) = csv.DictReader(file)
    assert float(row["trainings_p_sign_flip"]) == pytest.approx(2 / 2**6)  # all six pairs of one sign
    of_runs = [
        np.mean(
            [(cell.test.logits.argmax(1) == targets).double().mean() for cell in cells if cell.labels["loss"] == loss]
        )
        for loss in ("ols", "hard")
    ]
    assert row["measure"] == "top1"
    assert (float(row["of_value"]), float(row["of_reference"])) == pytest.approx(tuple(of_runs))


def test_cells_are_compared_in_the_measure_that_chose_their_epoch(tmp_path, undrawn):
    task, rng = build_task("multiclass", ["a", "b", "c"], ["CT"] * 3), torch.Generator().manual_seed(0)
    targets, cells, areas = torch.arange(60) % 3, [], {"none": [], "imagenet": []}
    for fold in range(3):
        for source, skill in (("none", 0.2), ("imagenet", 2.0)):
            logits = skill * torch.eye(3)[targets] + torch.randn(60, 3, generator=rng)
            labels = {"source": source, "fold": str(fold), "seed": "0"}
            cells.append(_cell(task, labels, logits, targets, tmp_path, "macro_auc"))
            areas[source].append(roc_auc_score(targets, logits.softmax(1), multi_class="ovr"))
    write_study_page(tmp_path, cells, along="source", question="Which start?", resamples=50)
    with (tmp_path / "differences.csv").open() as file:
        (row, *_) = csv.DictReader(file)
    assert row["measure"] == "macro_auc"
    assert float(row["within_difference"]) == pytest.approx(np.mean(areas["imagenet"]) - np.mean(areas["none"]))
    assert "imagenet against none: better for other patients" in (tmp_path / "study.md").read_text()


def test_a_study_of_masks_has_its_page_and_compares_their_overlap(tmp_path, undrawn):
    task, rng = build_task("segmentation", ["lesion"], ["US"]), torch.Generator().manual_seed(0)
    cells, dice = [], {"none": [], "imagenet": []}
    for fold in range(3):
        masks = (torch.rand(12, 6, 6, generator=rng) < 0.4).long()
        for source, noise in (("none", 3.0), ("imagenet", 0.5)):
            score = 2.0 * masks - 1 + noise * torch.randn(12, 6, 6, generator=rng)
            labels = {"source": source, "fold": str(fold), "seed": "0"}
            cells.append(_cell(task, labels, torch.stack([-score, score], dim=1), masks, tmp_path))
            pairs = zip(masks.flatten(1).numpy(), (score > 0).flatten(1).numpy(), strict=True)
            dice[source] += [f1_score(mask, found) for mask, found in pairs]
    write_study_page(tmp_path, cells, along="source", question="Which start?", resamples=50)
    with (tmp_path / "differences.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["measure"] == task.selects[0]
    assert (float(row["of_value"]), float(row["of_reference"])) == pytest.approx(
        (np.mean(dice["imagenet"]), np.mean(dice["none"]))
    )
    assert "imagenet against none: better for other patients" in (tmp_path / "study.md").read_text()


def test_a_way_whose_measure_is_undefined_is_left_out_of_the_correlation_with_size(make_cells):
    cells = make_cells({"none": 0.4, "imagenet": 0.8}, folds=2, images=40)
    sized = [
        replace(cell, labels={"model": name, **cell.labels}, parameters=size)
        for name, size in (("small", 1), ("middle", 2), ("large", 3))
        for cell in cells
    ]
    one_class = [replace(cell.test, targets=torch.zeros_like(cell.test.targets)) for cell in sized]
    known = [
        replace(cell, test=test) if (cell.labels["model"], cell.labels["source"]) == ("large", "none") else cell
        for cell, test in zip(sized, one_class, strict=True)
    ]
    texts = [part.text for part in number_section(choose_ways(known), "source", []).parts if isinstance(part, Text)]
    (said,) = [text for text in texts if text.startswith("none")]
    assert "2 networks are few; without 1 whose measure is undefined" in said


def test_networks_are_drawn_against_their_size_where_each_way_has_one(make_cells):
    cells = make_cells({"none": 0.4, "imagenet": 0.8}, folds=2, images=40)
    sized = [replace(cell, parameters=1 + (cell.labels["source"] == "none")) for cell in cells]
    assert number_section(choose_ways(sized), "source", []) is not None
    mixed = [replace(cell, parameters=cell.parameters + (cell.labels["fold"] == "0")) for cell in sized]
    assert number_section(choose_ways(mixed), "source", []) is None
