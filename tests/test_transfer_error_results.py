"""The published sizes of errors, computed once more from the published scores by scikit-learn, without the package."""

import csv
import gzip
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import precision_score, recall_score, roc_auc_score

TABLES = ["phantoms", "nih1000"]
NIH1000 = Path(__file__).parents[2] / "shared" / "data" / "nih1000" / "targets.csv"  # has labels and patients
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "transfer_errors"
GRID = ("right", "lower_lr", "higher_lr", "right_frozen")
ARMS = {
    "folds by image, not by patient": ("folds_by_image", "right"),
    "weights carried over from fold to fold": ("weights_carried_over", "right"),
    "nothing loaded (`strict=False`)": ("nothing_loaded", "right"),
    "frozen batch norm in train mode": ("frozen_batch_norm_in_train_mode", "right_frozen"),
    "inputs 255 times too small": ("inputs_255_times_too_small", "right"),
    "inputs 255 times too small, trunk frozen": ("frozen_inputs_255_times_too_small", "right_frozen"),
    "inputs 255 times too large": ("inputs_255_times_too_large", "right"),
    "inputs 255 times too large, trunk frozen": ("frozen_inputs_255_times_too_large", "right_frozen"),
    "another source's mean and sd": ("scaling_of_another_source", "right"),
    "another source's mean and sd, trunk frozen": ("frozen_scaling_of_another_source", "right_frozen"),
    "best of four cells chosen on test": ("test", "val"),
    "AUC of the flattened one-hot matrix": ("right", "right"),
    "shares that shrink the test set": ("shares_that_shrink_the_test_set", "right_share"),
    "precision reported as recall": ("right", "right"),
}


def _flattened(positive, score):
    columns = np.stack([-score, score], 1)  # in the order of the probabilities, which would round to 0 and 1
    return roc_auc_score(np.eye(2)[positive.astype(int)].ravel(), columns.ravel())


def _precision(positive, score):
    return precision_score(positive, score > 0)


def _recall(positive, score):
    return recall_score(positive, score > 0)


def _counted_auc(positive, score, counts):
    """AUC of images that count several times, `[R]` of counts `[R, N]`: pairs in order, ties by half."""
    order = np.argsort(score)
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    ill, well = (np.add.reduceat((counts * of)[:, order], starts, axis=1) for of in (positive, ~positive))
    below = np.cumsum(well, axis=1) - well / 2
    with np.errstate(invalid="ignore"):  # where a class is missing from a draw
        return (ill * below).sum(1) / (ill.sum(1) * well.sum(1))


def _counted_flattened(positive, score, counts):
    both = (np.concatenate([positive, ~positive]), np.concatenate([score, -score]))
    return _counted_auc(*both, np.concatenate([counts, counts], 1))


def _counted_precision(positive, score, counts):
    return counts @ (positive & (score > 0)) / (counts @ (score > 0))


def _counted_recall(positive, score, counts):
    return counts @ (positive & (score > 0)) / (counts @ positive)


MEASURES = {
    "AUC of the flattened one-hot matrix": (_flattened, roc_auc_score),
    "precision reported as recall": (_precision, _recall),
}
COUNTED = {roc_auc_score: _counted_auc, _flattened: _counted_flattened}
COUNTED |= {_precision: _counted_precision, _recall: _counted_recall}


@pytest.fixture(scope="module")
def tables():
    """Image, patient, label and score of each split of each cell, by table, arm, seed and fold."""
    labels = list(csv.DictReader(NIH1000.read_text().splitlines())) if NIH1000.is_file() else None
    numbers = {name: number for number, name in enumerate(sorted({row["patient"] for row in labels or []}))}
    found = defaultdict(lambda: defaultdict(list))
    with gzip.open(RESULTS / "predictions.csv.gz", "rt", newline="") as file:
        for row in csv.DictReader(file):
            place = (row["arm"], int(row["seed"]), int(row["fold"]), row["split"])
            image, patient, positive = int(row["image"]), row["patient"], row["positive"]
            if row["table"] == "nih1000":
                if labels is None:
                    continue
                patient, positive = numbers[labels[image]["patient"]], labels[image]["pneumonia"]
            found[row["table"]][place].append((image, int(patient), positive == "1", float(row["score"])))
    return {
        table: {place: [np.array(column) for column in zip(*rows, strict=True)] for place, rows in cells.items()}
        for table, cells in found.items()
    }


@pytest.fixture(scope="module")
def published():
    return json.loads((RESULTS / "summary.json").read_text())["tables"]


def _pairs(cells, mistake):
    """Cells of the wrong and of the right arm, on every seed and fold where both are there."""
    cells_of = [{(s, f) for arm, s, f, split in cells if arm == name and split == "test"} for name in GRID]
    chosen = {"val": {}, "test": {}} if "val" in ARMS[mistake] else {}
    for split, best in chosen.items():
        for seed, fold in set.intersection(*cells_of):
            aucs = [roc_auc_score(*cells[arm, seed, fold, split][2:]) for arm in GRID]
            best[seed, fold] = GRID[int(np.argmax(aucs))]
    places = sorted({place[1:3] for place in cells})
    for place in places:
        arms = [chosen[arm].get(place) if arm in chosen else arm for arm in ARMS[mistake]]
        if all((arm, *place, "test") in cells for arm in arms):
            yield [cells[arm, *place, "test"] for arm in arms]


def _of(tables, name):
    if name not in tables:
        pytest.skip(f"without the labels of {name}")
    return tables[name]


def test_every_mistake_of_every_table_is_there(published):
    assert list(published) == TABLES
    for table in published.values():
        assert list(table["mistakes"]) == list(ARMS)


@pytest.mark.parametrize("mistake", ARMS)
@pytest.mark.parametrize("table", TABLES)
def test_values_and_the_interval_over_trainings_follow_from_the_scores(table, mistake, tables, published):
    wrong, right = MEASURES.get(mistake, (roc_auc_score, roc_auc_score))
    values = np.array([(wrong(*one[2:]), right(*other[2:])) for one, other in _pairs(_of(tables, table), mistake)])
    said = published[table]["mistakes"][mistake]
    assert len(values) == said["pairs"]
    assert values.mean(0) == pytest.approx([said["wrong"], said["right"]], abs=1e-9)
    differences = values[:, 0] - values[:, 1]
    assert differences.mean() == pytest.approx(said["difference"], abs=1e-9)
    n = len(differences)  # three folds: a test share of 1/3 beside 2/3
    half = stats.t.ppf(0.975, n - 1) * np.sqrt((1 / n + 0.5) * differences.var(ddof=1))
    expected = [differences.mean() - half, differences.mean() + half]
    assert said["over_trainings"] == pytest.approx(expected, abs=1e-9)
    row = f"| {mistake} | {values[:, 1].mean():.3f} | {values[:, 0].mean():.3f} | {100 * differences.mean():+.1f} |"
    assert row in (RESULTS / "table.md").read_text()


@pytest.mark.parametrize(("table", "whole", "shrunk"), [("phantoms", 0.635, 0.602), ("nih1000", 0.626, 0.628)])
def test_a_shrunk_test_set_and_a_shrunk_validation_both_change_the_result(table, whole, shrunk, tables):
    cells = _of(tables, table)
    pairs = list(_pairs(cells, "shares that shrink the test set"))
    on_shrunk, others = [], 0
    for wrong, right in pairs:
        there = np.isin(right[0], wrong[0])
        on_shrunk.append(roc_auc_score(right[2][there], right[3][there]))
        others += not np.allclose(right[3][there], wrong[3], atol=1e-3)
    assert np.mean([roc_auc_score(*right[2:]) for _, right in pairs]) == pytest.approx(whole, abs=5e-4)
    assert np.mean(on_shrunk) == pytest.approx(shrunk, abs=5e-4)
    assert (others, len(pairs)) == {"phantoms": (6, 9), "nih1000": (5, 6)}[table]
    assert len(cells) > 100


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ARMS)
@pytest.mark.parametrize("table", TABLES)
def test_intervals_over_patients_are_those_of_patients_drawn_by_number(table, mistake, tables, published):
    measures = MEASURES.get(mistake, (roc_auc_score, roc_auc_score))
    cells = _of(tables, table)
    patients = 1 + max(cell[1].max() for cell in cells.values())
    draws = np.random.default_rng(1).multinomial(patients, np.full(patients, 1 / patients), size=1000)
    counts, pairs = np.concatenate([np.ones((1, patients)), draws]), list(_pairs(cells, mistake))
    drawn = np.zeros(1001)
    for pair in pairs:
        for sign, measure, (_, patient, positive, score) in zip((1, -1), measures, pair, strict=True):
            found = COUNTED[measure](positive, score, counts[:, patient])
            assert found[0] == pytest.approx(measure(positive, score), abs=1e-9)
            drawn += sign * found / len(pairs)
    said = published[table]["mistakes"][mistake]
    expected = 2 * said["difference"] - np.nanquantile(drawn[1:], [0.975, 0.025])
    assert said["over_patients"] == pytest.approx(expected, abs=0.12 * (expected[1] - expected[0]))
