"""The studies that come with the package: their cells, by pencil, and whether each can be run as it stands."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from ols.data.preparation.chest import CHEXPERT_FINDINGS
from ols.runs.folder import flatten
from ols.studies.axes import list_cells
from ols.studies.grid import Study, plan_runs
from ols.tasks import find_task

FOLDER = Path(__file__).parents[2] / "recipes" / "configs" / "studies"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "transfer_studies"
CELLS = {
    "mei2022": 4 * (2 + 2 + 2) * 8 * 2 * 5,
    "mei2022_mini": (2 + 2 + 2) * 2 * 3 * 2,
    "frees2025": 3 * 2 * 4 * 4 * 2 * 2 * 5 * 2,
    "frees2025_mini": 2 * 4 * 3 * 2,
    "source_matters2024": 2 * 3 * 3 * 6 * 5,
    "source_matters2024_mini": 3 * 2 * 3 * 3,
    "revisiting2023": 7 * 3 * 2 * 5,
    "revisiting2023_mini": 2 * 3 * 2 * 3,
    "chextransfer2021": 16 * 2 + 7 * 2,
    "chextransfer2021_mini": (3 * 2 + 2) * 5,
    "radiologynet2025": 10 * 3 * 5 * 4 * 4 * 5,
    "radiologynet2025_mini": 3 * 3 * 2 * 2,
}
STARTS = [FOLDER.parent / "starts" / f"{name}.yaml" for name in ("ct", "mr", "xray")]
OF_THIS_PACKAGE = [*FOLDER.glob("confounders_*.yaml"), *STARTS]
MIXED_TASKS = "radiologynet2025"  # each of its cells is read by itself: planned for a part of its values


def _study(name: str, **axes) -> Study:
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    values["axes"] |= axes
    return Study(**values)


def test_every_study_has_a_small_one_beside_it():
    own = {"errors", *(path.stem for path in OF_THIS_PACKAGE)}
    assert {path.stem for path in FOLDER.glob("*.yaml")} - own == set(CELLS)


@pytest.mark.parametrize("path", OF_THIS_PACKAGE, ids=lambda path: path.stem)
def test_a_study_of_this_package_has_the_cells_that_its_header_states(path):
    text = path.read_text()
    study = Study(**yaml.safe_load(text))
    assert len(list_cells(study.list_axes(), study.where)) == int(re.search(r"# Cells: +([\d,]+) = ", text)[1])
    assert study.question.endswith("?")


@pytest.mark.parametrize("name", CELLS)
def test_a_study_has_the_cells_that_its_header_computes(name):
    header = (FOLDER / f"{name}.yaml").read_text().split("folder:")[0]
    stated = re.search(r"# Cells: +([\d,]+) = ([^.]+)\.", header)
    study = _study(name)
    assert study.recipe == "finetune"
    assert len(list_cells(study.list_axes(), study.where)) == CELLS[name] == int(stated[1].replace(",", ""))
    for part in ["Command", "Result"] + (
        [] if name.endswith("mini") else ["Paper", "Question", "Differs", "GPU-hours"]
    ):
        assert f"# {part}:" in header


@pytest.mark.parametrize("name", [name for name in CELLS if name.endswith("mini")])
def test_a_mini_has_been_run_whole_and_its_page_of_the_docs_names_it(name):
    with (RESULTS / f"{name}_cells.csv").open(newline="") as file:
        states = Counter(row["state"] for row in csv.DictReader(file))
    assert states == {"done": CELLS[name]}
    header = (FOLDER / f"{name}.yaml").read_text().split("folder:")[0]
    assert "docs/transfer_studies.md" in header
    assert "not yet run" not in header


@pytest.mark.parametrize("name", [name for name in CELLS if not name.endswith("mini")])
def test_a_study_asks_for_columns_that_the_readers_of_its_sets_write_and_names_the_sets_that_have_none(name):
    page = (FOLDER.parents[2] / "docs" / "targets.md").read_text()
    written = {}
    for names, columns in re.findall(r"^\| (`\w+`(?:, `\w+`)*)[^|]*\|[^|]*\|([^|]*)\|[^|]*\|$", page, re.MULTILINE):
        written |= {name: set(re.findall(r"`(\w+)`", columns)) for name in re.findall(r"`(\w+)`", names)}
    written["chexpert"] |= {finding.replace(" ", "_") for finding in CHEXPERT_FINDINGS}
    assert len(written) == 14
    study = _study(name)
    header = (FOLDER / f"{name}.yaml").read_text().split("folder:")[0]
    asked = [cell.config for cell in list_cells(study.list_axes(), study.where)]
    whole = flatten(study.overrides)
    for root, targets in {
        (one.get("data.root", whole.get("data.root")), tuple(one.get("data.targets", whole.get("data.targets"))))
        for one in asked
    }:
        if (made := Path(root).parent.name) in written:
            assert set(targets) <= written[made], root
        else:
            assert "a table of yours" in header, root


@pytest.mark.parametrize("name", CELLS)
def test_a_study_asks_of_its_sources_and_validation_chooses_the_rate(name):
    study = _study(name)
    assert study.question.endswith("?")
    assert study.along == study.compared_along == "source"
    assert len(study.axes["source"]) > 1
    for source, called in {"radimagenet": "RadImageNet", "phantoms": "phantoms", "radiologynet": "radiology"}.items():
        assert (called in study.question) <= (source in study.axes["source"])
    rates = [axis for axis in study.axes if axis == "lr" and len(study.axes[axis]) > 1]
    assert set(rates) <= set(study.choose_over)


def test_each_net_of_mei_has_six_of_the_24_scenarios():
    study = _study("mei2022", target={"one": {}}, source={"one": {}}, fold=[0])
    found = Counter(
        tuple(cell.labels[axis] for axis in ("freeze", "lr")) for cell in list_cells(study.list_axes(), study.where)
    )
    assert found == dict.fromkeys(
        [
            ("all", "0.01"),
            ("all", "0.001"),
            ("top10", "0.01"),
            ("top10", "0.001"),
            ("none", "0.001"),
            ("none", "0.0001"),
        ],
        4,
    )


def test_only_whole_nets_start_from_none_in_chextransfer():
    study = _study("chextransfer2021")
    fresh = [cell for cell in list_cells(study.list_axes(), study.where) if cell.labels["source"] == "none"]
    assert len(fresh) == 16
    assert not any("model.truncate_after" in cell.config for cell in fresh)


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_a_study_is_planned_and_its_cells_have_the_values_of_their_labels(name):
    cut = {"lr": ["1e-3"], "seed": [0], "share": [0.25]} if name == MIXED_TASKS else {}
    study = _study(name, **cut)
    runs = plan_runs(study, FOLDER / f"{name}.yaml")
    assert len(runs) == (CELLS[name] // (4 * 5 * 4) if cut else CELLS[name])
    for run in runs:
        config = run.config
        made = Path("runs", name, "folds") if name.endswith("mini") else Path(config.data.root).parent
        assert Path(config.split.file).parent == made
        assert config.optim.schedule == ("cosine" if "frees" in name or "radiologynet" in name else "constant")
        assert config.train.select_by in find_task(config.task).selects
        if "fold" in run.cell.labels:
            assert config.split.fold == int(run.cell.labels["fold"])
        if "share" in run.cell.labels:
            assert config.split.share == float(run.cell.labels["share"])
