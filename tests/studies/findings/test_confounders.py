"""The section on a confounder: numbers of the tests of several trainings, beside scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ols.studies.findings.confounders import confounder_section
from ols.studies.findings.trainings import choose_ways
from ols.tasks.report.parts import Drawings, Table

SKILLS = {("none", "0.0"): 0.8, ("none", "1.0"): -0.6, ("own", "0.0"): 0.9, ("own", "1.0"): 0.4}


@pytest.fixture(scope="module")
def cells(make_cells):
    """Two starts at two shares with two seeds, which fail on the inverted test as the share grows, or do not."""
    found = []
    for (source, share), skill in SKILLS.items():
        for cell in make_cells({source: 1.0}, folds=2, seeds=2, images=80, seed=3):
            labels = {"source": source, "data.confounder_share": share, **cell.labels}
            turned = make_cells({source: skill}, folds=2, seeds=2, images=80, seed=3)
            forms = {"clean": cell.test, "inverted": next(c.test for c in turned if c.labels == cell.labels)}
            found.append(replace(cell, labels=labels, forms=forms))
    return found


def test_an_auc_is_the_mean_over_trainings_and_a_difference_that_of_two_starts(cells):
    section = confounder_section(choose_ways(cells), "source")
    assert section is not None
    measures, breaking, differences = (part for part in section.parts if isinstance(part, Table))
    assert sum(isinstance(part, Drawings) for part in section.parts) == 1
    expected = {}
    for source, share in SKILLS:
        own = [c for c in cells if (c.labels["source"], c.labels["data.confounder_share"]) == (source, share)]
        tests = [cell.forms["inverted"] for cell in own]
        aucs = [roc_auc_score(test.targets, test.logits[:, 1] - test.logits[:, 0]) for test in tests]
        assert len(aucs) == 4
        expected[source, f"{float(share):g}"] = np.mean(aucs)
    shown = {
        (row.cells[0].text, row.cells[1].text): row.cells[3].text
        for row in measures.rows
        if row.cells[2].text == "inverted"
    }
    assert shown == {key: f"{value:.3f}" for key, value in expected.items()}
    assert len(measures.rows) == 8
    said = {row.cells[0].text: row.cells[1].text for row in breaking.rows}
    assert said["own"].startswith("never")
    assert 0 < float(said["none"].split("%")[0]) < 100
    at_one = next(row for row in differences.rows if [cell.text for cell in row.cells[1:3]] == ["1", "AUC"])
    assert at_one.cells[0].text == "none less own"
    assert float(at_one.cells[3].text) == pytest.approx(expected["none", "1"] - expected["own", "1"], abs=6e-4)


def test_what_a_page_does_not_know_of_is_left_out(cells):
    assert confounder_section(choose_ways([replace(cell, forms={}) for cell in cells]), "source") is None
    assert confounder_section(choose_ways(cells), "data.confounder_share") is None
    less = [cell for cell in cells if (cell.labels["source"], cell.labels["seed"]) != ("own", "1")]
    section = confounder_section(choose_ways(less), "source")
    assert "2 trainings a point" in section.parts[1].text  # those that both starts have
    apart = [cell for cell in cells if (cell.labels["source"] == "own") == (cell.labels["seed"] == "1")]
    _, said = confounder_section(choose_ways(apart), "source").parts
    assert "no fold and seed in common yet" in said.text
    first, *others = cells
    begun = [replace(first, forms={"clean": first.forms["clean"]}), *others]
    shown = {
        row.cells[0].text + row.cells[1].text for row in confounder_section(choose_ways(begun), "source").parts[3].rows
    }
    assert len(shown) == 3  # without the way whose columns are at work
