from xml.etree import ElementTree

import pytest
from markdown import markdown

from ols.evaluation.report.markdown import markdown_text


@pytest.mark.parametrize(
    "name", ["a|b <i>x</i>\n`c` [d](e)*", "*x* **y**", "_x_ __y__ a_b_c", r"1 & 2 &lt; \frac \*", "![x](y) <script>"]
)
def test_names_are_shown_in_markdown_as_they_are(name):
    page = markdown(f"| {markdown_text(name)} | 1 |\n|---|---|\n| {markdown_text(name)} | 2 |", extensions=["tables"])
    cells = [cell.text for cell in ElementTree.fromstring(page).iter() if cell.tag in ("th", "td")]
    assert cells == [" ".join(name.split()), "1", " ".join(name.split()), "2"]  # and no element inside them
