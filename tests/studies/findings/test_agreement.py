"""The section on whether networks err on the same images, beside scikit-learn's kappa."""

from dataclasses import replace

import numpy as np
from sklearn.metrics import cohen_kappa_score

from ols.studies.findings.agreement import agreement_section
from ols.studies.findings.trainings import choose_ways
from ols.tasks import build_task
from ols.tasks.report.parts import Table


def _right(cells, source, seed=None):
    """Whether each image was predicted rightly, by fold, seed and name."""
    return {
        (cell.labels["fold"], seed or cell.labels["seed"], name): bool(right)
        for cell in cells
        if cell.labels["source"] == source and seed in (None, cell.labels["seed"])
        for name, right in zip(cell.test.sample_ids, cell.test.logits.argmax(1) == cell.test.targets, strict=True)
    }


def test_values_are_paired_with_the_reference_by_image_and_its_seeds_with_each_other(make_cells):
    cells = make_cells({"none": 0.6, "own": 0.9, "other": 0.1}, folds=2, seeds=2)
    rng = np.random.default_rng(1)
    mixed = [cell if i % 3 else replace(cell, test=_shuffled(cell.test, rng)) for i, cell in enumerate(cells)]
    section = agreement_section(choose_ways(mixed), "source")
    (table,) = [part for part in section.parts if isinstance(part, Table)]
    assert [row.cells[1].text for row in table.rows] == ["own and none", "other and none", "none, seed 0 and 1"]
    base = _right(cells, "none")
    pairs = [(_right(cells, source), base) for source in ("own", "other")]
    seeds = [{(fold, name): right for (fold, _, name), right in _right(cells, "none", s).items()} for s in ("0", "1")]
    for row, (one, other) in zip(table.rows, [*pairs, seeds], strict=True):
        first, second = (np.array([each[key] for key in one]) for each in (one, other))
        a, b = first.mean(), second.mean()
        assert row.cells[2].text == f"{np.mean(first == second):.3f}"
        assert row.cells[3].text == f"{a * b + (1 - a) * (1 - b):.3f}"
        assert row.cells[4].text == f"{cohen_kappa_score(first, second):.3f}"
        low, high = map(float, row.cells[4].beside.strip("()").split(" to "))
        assert low < cohen_kappa_score(first, second) < high


def test_another_reference_and_one_seed(make_cells):
    cells = make_cells({"none": 0.6, "own": 0.9}, folds=2)
    (table,) = [
        p for p in agreement_section(choose_ways(cells), "source", reference="own").parts if isinstance(p, Table)
    ]
    assert [row.cells[1].text for row in table.rows] == ["none and own"]


def test_a_task_without_one_class_an_image_has_no_section(make_cells):
    ways = choose_ways(make_cells({"none": 0.6, "own": 0.9}, folds=2))
    assert agreement_section(ways, "source") is not None
    labels = build_task("multilabel", ["a", "b"], ["x", "x"])
    others = [replace(way, chosen=[replace(cell, task=labels) for cell in way.chosen]) for way in ways]
    assert agreement_section(others, "source") is None
    assert agreement_section(ways[:1], "source") is None


def _shuffled(predictions, rng):
    order = rng.permutation(len(predictions.sample_ids))
    return replace(
        predictions,
        logits=predictions.logits[order],
        targets=predictions.targets[order],
        indices=predictions.indices[order],
        sample_ids=[predictions.sample_ids[i] for i in order],
        patients=[predictions.patients[i] for i in order],
    )
