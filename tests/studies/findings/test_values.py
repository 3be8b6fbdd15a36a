import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import brier_score_loss, roc_auc_score

from ols.studies.findings.trainings import choose_ways
from ols.studies.findings.values import measure_way, values_section


def _scores(cell):
    logits = cell.test.logits.numpy()
    return cell.test.targets.numpy(), logits[:, 1] - logits[:, 0]


def test_a_way_has_the_mean_over_folds_and_seeds_and_its_interval_over_patients(make_cells):
    cells = make_cells({"imagenet": 0.8}, seeds=2)
    found = measure_way(choose_ways(cells)[0], resamples=1000)
    scores = [_scores(cell) for cell in cells]
    assert found["auc"][0] == pytest.approx(np.mean([roc_auc_score(*one) for one in scores]))
    assert found["brier_positive"][0] == pytest.approx(np.mean([brier_score_loss(y, expit(s)) for y, s in scores]))
    # By hand: patients drawn with all their images, the same in both seeds
    patients, drawn = sorted({name for cell in cells for name in cell.test.patients}), []
    share = np.full(len(patients), 1 / len(patients))
    counts = np.random.default_rng(7).multinomial(len(patients), share, size=1000)
    for cell, (y, score) in zip(cells, scores, strict=True):
        weights = counts[:, [patients.index(name) for name in cell.test.patients]]
        ill, well = weights[:, y == 1], weights[:, y == 0]
        above = score[y == 1][:, None] > score[y == 0]
        with np.errstate(invalid="ignore"):  # a draw in which a class is missing from a fold does not count
            drawn.append(((ill @ above) * well).sum(1) / (ill.sum(1) * well.sum(1)))
    expected = 2 * found["auc"][0] - np.nanquantile(np.mean(drawn, axis=0), [0.975, 0.025])  # the basic interval
    assert found["auc"][1:] == pytest.approx(expected, abs=0.15 * (expected[1] - expected[0]))


def test_a_way_with_a_fold_less_in_one_seed_is_measured_on_what_is_there(make_cells):
    cells = make_cells({"imagenet": 0.8}, seeds=2)[:-1]
    value, low, high = measure_way(choose_ways(cells)[0], resamples=50)["auc"]
    assert value == pytest.approx(np.mean([roc_auc_score(*_scores(cell)) for cell in cells]))
    assert low < value < high


def test_the_table_has_a_row_for_each_way_with_its_ece_beside_the_null(make_cells):
    ways = choose_ways(make_cells({"imagenet": 0.4, "none": 0.1}))
    table = values_section(ways, resamples=50).parts[0]
    assert [column.title for column in table.columns][2:] == [
        "mean of folds and seeds", "Brier score", "AURC", "ECE of all folds",
    ]  # fmt: skip
    for way, row in zip(ways, table.rows, strict=True):
        (folds,) = way.by_seed().values()
        metrics = folds.evaluation().metrics
        assert row.cells[0].text.split(", ")[0] == way.labels["source"]
        assert row.cells[-1].text == f"{metrics['ece']:.4f}"
        assert row.cells[-1].beside.startswith(f"({metrics['ece_low']:.4f} to ")
        assert row.cells[-1].beside.endswith(f"null {metrics['ece_null']:.4f})")


def test_an_interval_ends_where_the_measure_does_and_is_none_where_no_draw_differs(make_cells):
    skills = (0.8, 1.0, 1.2)
    good = [measure_way(choose_ways(make_cells({"imagenet": s}, folds=2, images=40))[0], resamples=200) for s in skills]
    assert max(one["auc"][2] for one in good) == 1
    assert all(one["auc"][0] <= one["auc"][2] and one["aurc"][1] >= 0 for one in good)
    perfect = measure_way(choose_ways(make_cells({"imagenet": 20.0}, images=60))[0], resamples=200)
    assert perfect["auc"][0] == 1
    assert np.isnan(perfect["auc"][1:]).all()
