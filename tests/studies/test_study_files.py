"""The files of six published studies, at full size and in small."""

import re
from pathlib import Path

import pytest

from recipes.sweep import parse_study

FOLDER = Path(__file__).parents[2] / "recipes" / "configs" / "studies"
CELLS = {  # by pencil, from the papers' axes
    "mei2022": 24 * 8 * 2 * 5,
    "frees2025": 3 * 2 * 4 * 4 * 2 * 2 * 5 * 2,
    "source_matters2024": 2 * 3 * 3 * 6 * 5,
    "revisiting2023": 7 * 3 * 2 * 5,
    "chextransfer2021": 16 * 2 + 7 * 2,
    "radiologynet2025": 10 * 3 * 5 * 4 * 4 * 5,
    "mei2022_mini": 6 * 2 * 3 * 2,
    "frees2025_mini": 2 * 4 * 3 * 2 * 2,
    "source_matters2024_mini": 3 * 2 * 3 * 3,
    "revisiting2023_mini": 2 * 3 * 2 * 5,
    "chextransfer2021_mini": (3 * 2 + 2) * 5,
    "radiologynet2025_mini": 3 * 3 * 2 * 3,
}


def test_every_study_file_is_counted_here():
    assert {path.stem for path in FOLDER.glob("*.yaml")} - {"errors"} == set(CELLS)


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_a_study_of_a_paper_plans_its_cells_and_says_so(name):
    path = FOLDER / f"{name}.yaml"
    study, runs, _ = parse_study([str(path), "--dry_run"])
    assert study.recipe == "finetune"
    assert len(runs) == CELLS[name]
    assert len({run.run_dir for run in runs}) == len(runs)
    (said,) = re.findall(r"^# Cells: +([\d,]+) = ", path.read_text(), re.MULTILINE)
    assert int(said.replace(",", "")) == len(runs)
    assert "not yet run" in path.read_text()
