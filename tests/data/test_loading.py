import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import build_loaders_of
from PIL import Image

from ols.data.class_weights import class_weights
from ols.data.loaders import class_counts
from ols.data.loading import EvalLoader
from ols.data.sampling import EvalBatches
from ols.data.sources.radimagenet import RadImageNet
from ols.data.transforms import EvalTransform, Preprocessing, TrainTransform

SIZES = {"image_size": 12, "resize_size": 14}


def _loaders(tree, **options):
    tree.write_csvs()
    return build_loaders_of(tree.root, **{**SIZES, "workers": 0, "global_batch_size": 4, "seed": 3, **options})


def _by_index(loader, epoch=0):
    loader.batches.epoch = epoch
    return {
        int(index): (image, int(target))
        for batch in loader
        for image, target, index in zip(batch["image"], batch["target"], batch["index"], strict=True)
    }


def test_bytes_become_minus_one_to_one():
    class Ramp:
        classes, groups, targets = ["a"], ["g"], np.zeros(1, np.int64)

        def __len__(self):
            return 1

        def read(self, index):
            return Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))

    loader = EvalLoader(Ramp(), EvalTransform(Preprocessing(16, 16)), EvalBatches(np.arange(1), batch_size=1))
    image = next(iter(loader))["image"]
    assert image.shape == (1, 1, 16, 16)
    torch.testing.assert_close(image.flatten(), torch.linspace(-1, 1, 256))


@pytest.mark.parametrize(
    ("in_chans", "mean", "std", "expected"),
    [
        (1, (0.25,), (0.5,), [[-0.5, -0.1, 1.5]]),
        (3, (0.25,), (0.5,), [[-0.5, -0.1, 1.5]] * 3),
        (3, (0.5, 0.25, 0.0), (0.25, 0.5, 1.0), [[-2, -1.2, 2], [-0.5, -0.1, 1.5], [0, 0.2, 1]]),
        (1, (0.5, 0.25, 0.0), (0.25, 0.5, 0.75), [[-0.5, -0.1, 1.5]]),  # those of RGB, averaged for gray
    ],
)
def test_channels_are_scaled_by_their_own_mean_and_standard_deviation(in_chans, mean, std, expected):
    """Of the bytes 0, 51 and 255, which are 0, 0.2 and 1."""

    class Three:
        classes, groups, targets = ["a"], ["g"], np.zeros(1, np.int64)

        def __len__(self):
            return 1

        def read(self, index):
            pixels = np.repeat(np.array([[0], [51], [255]], np.uint8), 3, axis=1)
            return Image.fromarray(pixels).convert("L" if in_chans == 1 else "RGB")

    preprocessing = Preprocessing(3, 3, in_chans, mean, std)
    loader = EvalLoader(Three(), EvalTransform(preprocessing), EvalBatches(np.arange(1), batch_size=1))
    image = next(iter(loader))["image"]
    torch.testing.assert_close(image[0, :, :, 0], torch.tensor(expected, dtype=torch.float32))


def test_a_sample_looks_the_same_whatever_reads_it(tree):
    reference = _by_index(_loaders(tree).train, epoch=2)
    others = [_by_index(_loaders(tree, rank=rank, world_size=2).train, epoch=2) for rank in (0, 1)] + [
        _by_index(_loaders(tree, accumulation_steps=2).train, epoch=2)
    ]
    assert len(reference) == 24
    for other in others:
        assert other
        for index, (image, target) in other.items():
            assert torch.equal(image, reference[index][0])
            assert target == reference[index][1]
    assert others[0].keys() | others[1].keys() == reference.keys()


def test_epochs_and_seeds_augment_differently_and_evaluation_not_at_all(tree):
    first, second = (_by_index(_loaders(tree).train, epoch) for epoch in (0, 1))
    other_seed = _by_index(_loaders(tree, seed=4).train)
    assert any(not torch.equal(first[index][0], second[index][0]) for index in first)
    assert any(not torch.equal(first[index][0], other_seed[index][0]) for index in first)
    val = _loaders(tree).val
    assert all(torch.equal(a[0], b[0]) for a, b in zip(_by_index(val).values(), _by_index(val).values(), strict=True))


def test_evaluation_takes_the_centre_of_the_resized_image():
    ramp = Image.fromarray(np.tile(np.arange(30, dtype=np.uint8) * 8, (20, 1)))  # 30 wide, 20 high
    transform = EvalTransform(Preprocessing(image_size=10, resize_size=20))
    pixels = transform(ramp, transform.draw(np.zeros(1), np.zeros(1))[0])
    assert pixels.shape == (1, 10, 10)
    assert pixels[0, 0].tolist() == [8 * x for x in range(10, 20)]


def test_a_crop_reaches_every_position_and_half_are_mirrored():
    pixels = np.arange(25, dtype=np.uint8).reshape(5, 5)
    transform = TrainTransform(Preprocessing(image_size=3, resize_size=5), seed=1)
    draws = transform.draw(np.zeros(900, np.int64), np.arange(900))
    crops = [transform(Image.fromarray(pixels), draw)[0] for draw in draws]
    corners = np.array([min(crop.flat) for crop in crops])
    positions, counts = np.unique(corners, return_counts=True)
    assert positions.tolist() == [0, 1, 2, 5, 6, 7, 10, 11, 12]
    assert counts.min() > 60  # 100 expected, standard deviation 9.4
    mirrored = np.mean([crop[0, 0] > crop[0, 1] for crop in crops])
    assert 0.4 < mirrored < 0.6
    for crop, corner in zip(crops, corners, strict=True):
        top, left = divmod(int(corner), 5)
        expected = pixels[top : top + 3, left : left + 3]
        assert np.array_equal(crop, expected) or np.array_equal(crop, expected[:, ::-1])
    upright = TrainTransform(Preprocessing(image_size=3, resize_size=5), seed=1, horizontal_flip=False)
    kept = [upright(Image.fromarray(pixels), draw)[0] for draw in upright.draw(np.zeros(50), np.arange(50))]
    assert all(crop[0, 0] < crop[0, 1] for crop in kept)


def test_rgb_is_three_channels_first(tree):
    loaders = _loaders(tree, in_chans=3, memory_format=torch.channels_last)
    image = next(iter(loaders.train))["image"]
    assert image.shape == (4, 3, 12, 12)
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(image[:, 0], image[:, 2])  # gray files


def test_an_unreadable_image_names_itself_through_the_loader(tree):
    tree.write_csvs()
    (tree.root / tree.rows["val"][4][0]).write_bytes(b"oops")
    with pytest.raises(ValueError, match=r"RadiologyAI_val\.csv, line 6"):
        list(_loaders(tree).val)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_training_images_are_skipped_and_listed_if_so_asked(tree, workers):
    tree.write_csvs()
    for index in (2, 17):
        (tree.root / tree.rows["train"][index][0]).write_bytes(b"oops")
    (tree.root / tree.rows["val"][4][0]).write_bytes(b"oops")
    loaders = _loaders(tree, unreadable="skip", workers=workers)
    whole = [len(batch) for batch in loaders.train.batches]
    batches = list(loaders.train)
    assert loaders.train.skipped == {2, 17}
    assert [batch.keys() for batch in batches] == [{"image", "target", "index"}] * 6
    assert sum(whole) - sum(len(batch["target"]) for batch in batches) == 2
    assert all(len(batch["image"]) == len(batch["target"]) == len(batch["index"]) for batch in batches)
    indices, targets = (torch.cat([batch[name] for batch in batches]) for name in ("index", "target"))
    assert sorted(indices.tolist()) == [index for index in range(24) if index not in (2, 17)]
    assert targets.tolist() == loaders.train.source.targets[indices].tolist()
    with pytest.raises(ValueError, match=r"RadiologyAI_val\.csv, line 6"):
        list(loaders.val)
    with pytest.raises(ValueError, match=r"RadiologyAI_train\.csv, line (4|19)"):
        list(_loaders(tree, workers=workers).train)


def test_a_batch_of_unreadable_images_stops(tree):
    tree.write_csvs()
    for name, _ in tree.rows["train"]:
        (tree.root / name).write_bytes(b"oops")
    with pytest.raises(ValueError, match="none of the 4 images of a batch can be read: the first is radiology_ai/"):
        list(_loaders(tree, unreadable="skip").train)


def test_class_balanced_loaders_repeat_small_classes_with_other_crops(tree):
    for number in range(20):
        tree.add("train", f"radiology_ai/US/gb/more{number}.png", "us-a")
    loader = _loaders(tree, sampling="class_balanced", global_batch_size=44).train
    (batch,) = loader
    assert batch["target"].bincount().tolist() == [11, 11, 11, 11]
    index = batch["index"][batch["target"] == 0].mode().values
    repeated = batch["image"][batch["index"] == index]
    assert len(repeated) == 2
    assert not torch.equal(repeated[0], repeated[1])
    assert class_counts(loader).tolist() == [6, 6, 6, 26]


def test_a_signal_to_the_workers_does_not_end_them_but_the_end_of_their_parent_does(tree, tmp_path):
    tree.write_csvs()
    code = f"""
import os, signal, subprocess, time
from ols.data.loaders import build_loaders
from ols.data.options import DataOptions
from ols.data.sampling import BatchShare
options = DataOptions(root={str(tree.root)!r}, image_size=32, resize_size=34, workers=2)
loader = build_loaders(options, BatchShare(8)).train
batches = iter(loader)
next(batches), next(batches)  # one of each worker: both have begun
workers = [worker.pid for worker in loader._loader._iterator._workers]
for number in (signal.SIGINT, signal.SIGTERM):
    for worker in workers:
        subprocess.run(["kill", f"-{{number}}", str(worker)], check=True)
time.sleep(0.5)
loader.batches.epoch = 1
print(len(list(loader)), *workers)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    batches, *workers = map(int, done.stdout.split())
    assert batches == 3
    assert done.stderr == ""
    assert len(workers) == 2
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_a_dry_run_limits_and_overfitting_repeats(tree):
    loaders = _loaders(tree, limit_batches=2)
    assert [loader.num_samples for loader in (loaders.train, loaders.val, loaders.test)] == [8, 8, 8]
    loaders = _loaders(tree, overfit_batches=2)
    epochs = [_by_index(loaders.train, epoch) for epoch in (0, 1)]
    assert len(epochs[0]) == 8
    assert epochs[0].keys() == epochs[1].keys() == _by_index(loaders.test).keys()
    assert all(torch.equal(image, _by_index(loaders.val)[index][0]) for index, (image, _) in epochs[1].items())


def test_a_training_subset_is_the_same_for_every_seed_and_leaves_the_other_splits_whole(tree):
    subsets = [_loaders(tree, train_images=10, seed=seed) for seed in (0, 1)]
    assert subsets[0].train.batches.pool.tolist() == subsets[1].train.batches.pool.tolist()
    assert len(set(subsets[0].train.batches.pool.tolist())) == 10
    assert [loader.num_samples for loader in (subsets[0].train, subsets[0].val)] == [10, _loaders(tree).val.num_samples]
    fixed = _loaders(tree, train_images=10, overfit_batches=2).train.batches.pool
    assert set(fixed.tolist()) <= set(subsets[0].train.batches.pool.tolist())
    with pytest.raises(ValueError, match=r"train_images must lie in \[1, 24\], the images of the split, got 25"):
        _loaders(tree, train_images=25)


def test_class_weights_by_pencil(tree):
    assert class_counts(_loaders(tree).train).tolist() == [6, 6, 6, 6]
    counts = np.array([1, 3, 4])
    assert class_weights(counts, "none") is None
    inverse = class_weights(counts, "inverse")
    np.testing.assert_allclose(inverse, [8 / 3, 8 / 9, 2 / 3])  # n_k w_k = 8 / 3 for every class
    effective = class_weights(np.array([1, 10**6]), "effective")
    np.testing.assert_allclose(effective[0] / effective[1], 10_000, rtol=1e-6)  # effective numbers 1 and 1 / (1 - beta)
    np.testing.assert_allclose((np.array([1, 10**6]) * effective).sum(), 10**6 + 1)
    with pytest.raises(ValueError, match="class 1 has no training image"):
        class_weights(np.array([1, 0, 2]), "inverse")


def test_sizes_are_checked():
    with pytest.raises(ValueError, match=r"resize_size must be at least image_size \(64\), got 32"):
        Preprocessing(64, 32)
    with pytest.raises(ValueError, match=r"in_chans must be 1 .* got 4"):
        Preprocessing(64, 64, in_chans=4)
    with pytest.raises(ValueError, match=r"mean must have one value, or one for each of three channels, got \[0\.1, "):
        Preprocessing(64, 64, mean=(0.1, 0.2))
    with pytest.raises(ValueError, match=r"std must be positive, got \[0\.0\]"):
        Preprocessing(64, 64, std=0)


def test_ids_and_groups_travel_with_the_loader(tree):
    loader = _loaders(tree).test
    assert loader.source.sample_id(0) == RadImageNet(tree.root, "test").sample_id(0)
    assert loader.source.groups[3] == "US"
