"""Which samples of a split are used: by arithmetic on indices, without a data set."""

import numpy as np
import pytest

from ols.data.selection import select

AVAILABLE = {split: np.arange(count) for split, count in {"train": 40, "val": 12, "test": 7}.items()}


def _lists(**options):
    return {split: pool.tolist() for split, pool in select(AVAILABLE, **options).items()}


def test_by_default_every_sample_is_used_in_the_order_of_the_data_set():
    assert _lists() == {split: pool.tolist() for split, pool in AVAILABLE.items()}


def test_a_subset_of_training_is_in_order_the_same_for_every_seed_and_part_of_every_larger_one():
    few, more = (_lists(train_images=count, seed=1) for count in (9, 25))
    assert few == _lists(train_images=9, seed=2)
    assert few["train"] == sorted(set(few["train"]))
    assert len(few["train"]) == 9
    assert set(few["train"]) < set(more["train"]) < set(range(40))
    assert (few["val"], few["test"]) == (list(range(12)), list(range(7)))


def test_a_limit_draws_from_each_split_by_the_seed_and_takes_all_of_a_small_one():
    drawn = _lists(limit=10, seed=1)
    assert [len(set(pool)) for pool in drawn.values()] == [10, 10, 7]
    assert drawn == _lists(limit=10, seed=1) != _lists(limit=10, seed=2)


def test_overfitting_evaluates_on_the_indices_it_trains_on_which_lie_within_the_subset():
    drawn = _lists(overfit=6, train_images=9)
    assert drawn["train"] == drawn["val"] == drawn["test"]
    assert len(set(drawn["train"])) == 6
    assert set(drawn["train"]) < set(_lists(train_images=9)["train"])


@pytest.mark.parametrize("count", [0, 41])
def test_more_training_images_than_there_are_or_none_are_refused(count):
    with pytest.raises(ValueError, match=rf"train_images must lie in \[1, 40\], the images of the split, got {count}"):
        select(AVAILABLE, train_images=count)
