import csv
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from ols.studies.findings.page import write_study_page
from ols.studies.findings.sections import conditions_section
from ols.studies.findings.trainings import choose_ways


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
    assert "With 5 pairs of trainings no p of flipping signs below 0.062 is possible: it cannot show" in text
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
