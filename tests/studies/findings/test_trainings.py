import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ols.studies.findings.trainings import choose_ways, early_area


def _auc(predictions):
    return roc_auc_score(predictions.targets.numpy(), (predictions.logits[:, 1] - predictions.logits[:, 0]).numpy())


def test_validation_chooses_within_each_fold_and_the_test_of_what_it_chose_is_reported(make_cells):
    cells = make_cells({"imagenet": 0.8}, lrs=("0.01", "0.001", "0.1"))
    (way,) = choose_ways(cells, ["lr"])
    by_fold = {fold: [cell for cell in cells if cell.labels["fold"] == fold] for fold in "01234"}
    chosen = [max(there, key=lambda cell: _auc(cell.val)) for there in by_fold.values()]
    assert sorted(cell.run_dir for cell in way.chosen) == sorted(cell.run_dir for cell in chosen)
    assert way.choice.mean == pytest.approx(np.mean([_auc(cell.test) for cell in chosen]))
    assert way.choice.mean_of_all == pytest.approx(np.mean([_auc(cell.test) for cell in cells]))
    assert way.choice.deviation_of_all == pytest.approx(np.std([_auc(cell.test) for cell in cells], ddof=1))
    best = np.mean([max(_auc(cell.test) for cell in there) for there in by_fold.values()])
    assert way.choice.flattery == pytest.approx(best - way.choice.mean)
    assert way.choice.flattery > 0


def test_what_cannot_be_grouped_is_refused_by_name(make_cells):
    cells = make_cells({"imagenet": 0.8})
    with pytest.raises(ValueError, match="no axis 'rate' to choose over; there are source, target, lr, fold, seed"):
        choose_ways(cells, ["rate"])
    with pytest.raises(ValueError, match="fold is no axis to choose over"):
        choose_ways(cells, ["fold"])
    with pytest.raises(ValueError, match=r"two cells have the same labels: imagenet, thyroid, lr 0\.01, fold 0"):
        choose_ways([*cells, cells[0]])
    with pytest.raises(ValueError, match="expected the cells of a study, got none"):
        choose_ways([])


def test_the_area_of_the_first_epochs_is_that_of_straight_lines():
    assert early_area([(0, 0.0), (2, 1.0)], epochs=2) == pytest.approx(0.5)
    assert early_area([(20, 1.0), (0, 0.0)], epochs=10) == pytest.approx(0.25)  # half the way up at 10
    assert early_area([(1, 0.5), (2, 0.7), (4, 0.9)]) == pytest.approx((0.6 * 1 + 0.8 * 2) / 3)
    assert np.isnan(early_area([(1, 0.5)]))
    assert np.isnan(early_area([]))
