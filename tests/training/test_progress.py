import json
import math
from dataclasses import asdict

import pytest

from ols.training.progress import Best, Progress


def test_progress_travels_through_json():
    progress = Progress(epoch=2, step=17, evaluated=1, best=Best(1, 0.5), epoch_values={"train/x": 1.5}, train_loss=2.0)
    assert Progress.load(json.loads(json.dumps(asdict(progress)))) == progress
    assert math.isnan(Progress.load(json.loads(json.dumps(asdict(Progress())))).best.metric)


def test_skipped_steps_are_counted_and_those_in_a_row_forgotten_after_a_good_one():
    progress = Progress()
    for finite in (True, False, False, True, False):
        progress.count_step(finite=finite, images=8)
    assert (progress.images_in_sum, progress.nonfinite_steps, progress.nonfinite_in_a_row) == (16, 3, 1)


@pytest.mark.parametrize(
    ("higher_is_better", "metrics", "best"),
    [
        (True, [0.3, 0.5, 0.5, 0.4], Best(2, 0.5)),  # the earliest of equals
        (False, [0.3, 0.5, 0.2], Best(3, 0.2)),
        (True, [math.nan, 0.1], Best(2, 0.1)),  # a number is better than none
    ],
)
def test_the_best_epoch_is_remembered_and_named(higher_is_better, metrics, best):
    progress = Progress()
    for epoch, metric in enumerate(metrics, 1):
        progress.epoch = epoch
        progress.count_evaluation(metric, higher_is_better=higher_is_better)
    assert (progress.best, progress.evaluated) == (best, len(metrics))
    assert progress.best.describe("auc", epochs=4) == f"best epoch {best.epoch} of 4 by val auc"


def test_where_validation_cannot_choose_the_last_epoch_is_taken_and_that_is_said():
    progress = Progress()
    for progress.epoch in (1, 2, 3):
        progress.count_evaluation(math.nan, higher_is_better=True)
    said = progress.best.describe("auc", epochs=3)
    assert said == "last epoch 3 of 3, as val auc is undefined and chooses none"


def test_a_run_ends_after_its_epochs_or_after_so_many_without_a_better_one():
    progress = Progress(epoch=3, evaluated=3, best=Best(1, 0.5))
    assert progress.has_ended(epochs=3, early_stop_epochs=None)
    assert not progress.has_ended(epochs=9, early_stop_epochs=None)
    assert progress.has_ended(epochs=9, early_stop_epochs=2)
    assert not progress.has_ended(epochs=9, early_stop_epochs=3)
    assert not Progress().has_ended(epochs=9, early_stop_epochs=1)
