from itertools import chain

import numpy as np
import pytest
from scipy import stats

from ols.data.sampling import BatchShare, EvalBatches, TrainBatches
from ols.keyed import keyed_bits, keyed_order, keyed_uniform

MASK = 2**64 - 1


def _splitmix64(state: int) -> int:
    """The reference in whole numbers of Python (Steele, Lea and Flood 2014)."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def test_keyed_bits_are_splitmix64_chained_over_the_key():
    assert int(keyed_bits(0)) == 0xE220A8397B1DCDAF  # first output of the published generator for seed 0
    for key in [(5,), (1, 2, 3), (2**63, 2**64 - 1, 0, 7)]:
        state = 0
        for part in key:
            state = _splitmix64(state ^ part)
        assert int(keyed_bits(*(np.uint64(part) for part in key))) == state


def test_keyed_numbers_are_uniform_and_streams_uncorrelated():
    first, second = (keyed_uniform(3, 1, np.arange(100_000), stream) for stream in (1, 2))
    assert stats.kstest(first, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    assert first.min() >= 0
    assert first.max() < 1


def test_an_order_is_a_permutation_that_depends_on_seed_and_epoch():
    orders = [keyed_order(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(1000)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize("epoch", [0, 3])
def test_any_number_of_processes_and_accumulation_steps_reads_the_same_global_batches(epoch):
    def global_batches(world_size, accumulation_steps):
        ranks = []
        for rank in range(world_size):
            sampler = TrainBatches(
                np.arange(100),
                BatchShare(24, accumulation_steps=accumulation_steps, rank=rank, world_size=world_size),
                seed=7,
            )
            sampler.epoch = epoch
            ranks.append(list(sampler))
            assert len(sampler) == len(ranks[-1]) == 4 * accumulation_steps
        # micro-batch by micro-batch, rank by rank
        keys = list(chain.from_iterable(chain.from_iterable(zip(*ranks, strict=True))))
        return [keys[start : start + 24] for start in range(0, len(keys), 24)]

    reference = global_batches(1, 1)
    for world_size, accumulation_steps in [(2, 1), (1, 3), (4, 2), (8, 3)]:
        assert global_batches(world_size, accumulation_steps) == reference
    flat = list(chain.from_iterable(reference))
    assert {key[0] for key in flat} == {epoch}
    assert len({key[1] for key in flat}) == len(flat) == 96


@pytest.mark.parametrize("world_size", [1, 2])
def test_an_epoch_continues_at_a_step_with_the_batches_that_are_left(world_size):
    for rank in range(world_size):
        batches = TrainBatches(
            np.arange(50), BatchShare(12, accumulation_steps=3, rank=rank, world_size=world_size), seed=1
        )
        batches.epoch = 2
        whole = list(batches)
        assert len(whole) == 4 * 3
        for step in range(4):
            batches.start_step = step
            assert list(batches) == whole[3 * step :]


def test_what_does_not_divide_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match="global_batch_size 10 does not divide into 2 processes x 3 accumulation"):
        BatchShare(10, accumulation_steps=3, world_size=2)
    with pytest.raises(ValueError, match="9 training images do not fill one global batch of 10"):
        TrainBatches(np.arange(9), BatchShare(10))


@pytest.mark.parametrize("size", [1, 7, 8, 9, 31])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_evaluation_reads_every_sample_exactly_once(size, world_size):
    ranks = [EvalBatches(np.arange(size), batch_size=4, rank=rank, world_size=world_size) for rank in range(world_size)]
    batches = [list(sampler) for sampler in ranks]
    assert [len(sampler) for sampler in ranks] == [len(rank) for rank in batches]
    assert all(len(batch) <= 4 for rank in batches for batch in rank)
    assert sorted(index for rank in batches for batch in rank for _, index in batch) == list(range(size))


def _balanced(targets, pool=None, **share):
    pool = np.arange(len(targets)) if pool is None else pool
    return TrainBatches(pool, BatchShare(**share), balanced=targets[pool], seed=5)


@pytest.mark.parametrize("epoch", [0, 1])
def test_balanced_epochs_have_each_class_equally_often_and_each_sample_of_a_class_too(epoch):
    targets = np.repeat([0, 1, 2, 5], [3, 40, 157, 1])  # classes 3 and 4 are absent
    sampler = _balanced(targets, global_batch_size=201)
    sampler.epoch = epoch
    (keys,) = sampler
    indices = np.array([index for _, index in keys])
    counts = np.bincount(targets[indices], minlength=6)
    assert sorted(counts[[0, 1, 2, 5]]) == [50, 50, 50, 51]
    for k in (0, 1, 2, 5):
        drawn = np.bincount(indices[targets[indices] == k], minlength=201)[targets == k]
        assert drawn.max() - drawn.min() <= 1
        assert drawn.sum() == counts[k]
    assert len(set(keys)) == 201  # repetitions have keys of their own ...
    assert {key % 2**32 for key, _ in keys} == {epoch}
    assert max(key >> 32 for key, _ in keys) == counts[5] - 1  # ... counted from 0, for the class of one sample


def test_balanced_epochs_draw_another_part_of_a_large_class_and_mix_the_classes():
    targets = np.repeat([0, 1], [900, 100])
    sampler = _balanced(targets, global_batch_size=100)
    parts, shares = [], []
    for epoch in range(20):
        sampler.epoch = epoch
        batches = [[index for _, index in batch] for batch in sampler]
        shares += [np.mean(targets[batch]) for batch in batches]
        parts.append({index for batch in batches for index in batch if targets[index] == 0})
    assert {len(part) for part in parts} == {500}
    assert len(set.union(*parts)) == 900
    assert np.mean(shares) == 0.5
    # half of 100 drawn without replacement from 1000: standard deviation 0.0475
    assert stats.chisquare(np.histogram(shares, bins=[0, 0.468, 0.5, 0.532, 1])[0]).pvalue > 1e-9
    assert 0.04 < np.std(shares) < 0.055


def test_balanced_global_batches_are_the_same_on_any_number_of_processes():
    targets, pool = np.random.default_rng(1).integers(0, 5, 200), np.arange(30, 150)

    def global_batches(world_size, accumulation_steps):
        share = {"global_batch_size": 24, "accumulation_steps": accumulation_steps, "world_size": world_size}
        ranks = [list(_balanced(targets, pool, rank=rank, **share)) for rank in range(world_size)]
        keys = list(chain.from_iterable(chain.from_iterable(zip(*ranks, strict=True))))
        return [keys[start : start + 24] for start in range(0, len(keys), 24)]

    reference = global_batches(1, 1)
    assert len(reference) == 5
    assert {index for batch in reference for _, index in batch} <= set(pool.tolist())
    for world_size, accumulation_steps in [(2, 1), (1, 3), (4, 2), (8, 3)]:
        assert global_batches(world_size, accumulation_steps) == reference
