import csv
import re
from html.parser import HTMLParser

import pytest

from ols.studies.findings.page import write_study_page


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
