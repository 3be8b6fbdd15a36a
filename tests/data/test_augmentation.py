"""RandAugment and random erasing: keyed, the same from files and packs, and radiological where asked."""

import random

import numpy as np
import pytest
import torch
from conftest import build_loaders_of

from ols.data.affine import affine_map, move
from ols.data.augmentation import Augmentation
from ols.data.options import AugmentationOptions
from ols.data.packing import write_pack
from ols.data.sources.opening import open_sources
from ols.data.transforms import Preprocessing, TrainTransform, to_image

SIZES = {"image_size": 12, "resize_size": 14}


def _loaders(root, **options):
    return build_loaders_of(root, **{**SIZES, "workers": 0, "global_batch_size": 4, "seed": 3, **options})


def _by_index(loader, epoch=0):
    loader.batches.epoch = epoch
    return {int(index): image for batch in loader for image, index in zip(batch["image"], batch["index"], strict=True)}


def _noise(count, channels=1, size=32):
    return np.random.default_rng(0).integers(0, 256, (count, channels, size, size), np.uint8)


def _keys(count):
    return np.zeros(count, np.int64), np.arange(count)


def test_by_default_the_bytes_are_those_of_crop_and_flip(tree):
    tree.write_csvs()
    loader = _loaders(tree.root).train
    transform = TrainTransform(Preprocessing(**SIZES), seed=3)
    found = _by_index(loader, epoch=1)
    assert len(found) == 24
    for index, image in found.items():
        draw = transform.draw(np.array([1]), np.array([index]))[0]
        pixels = torch.from_numpy(transform(loader.source.read(index), draw).copy())
        assert torch.equal(((image + 1) * 127.5).round().to(torch.uint8), pixels)


@pytest.mark.parametrize(("augment", "in_chans"), [("radiology", 1), ("mei2022", 1), ("randaugment", 3)])
def test_a_sample_is_augmented_by_its_key_from_files_and_packs_by_any_process(tree, tmp_path, augment, in_chans):
    tree.write_csvs()
    options = {"augment": augment, "erase_prob": 0.5, "in_chans": in_chans}
    sources, _ = open_sources(tree.root, in_chans=in_chans)
    write_pack(sources, tmp_path / "pack", size=14, shard_images=7)
    reference = _by_index(_loaders(tree.root, **options).train, epoch=2)
    others = [
        _by_index(_loaders(tree.root, workers=2, **options).train, epoch=2),
        _by_index(_loaders(tmp_path / "pack", **options).train, epoch=2),
        *(_by_index(_loaders(tree.root, rank=rank, world_size=2, **options).train, epoch=2) for rank in (0, 1)),
    ]
    assert [len(other) for other in others] == [24, 24, 12, 12]
    for other in others:
        assert all(torch.equal(image, reference[index]) for index, image in other.items())
    plain = _by_index(_loaders(tree.root, in_chans=in_chans).train, epoch=2)
    next_epoch, other_seed = (
        _by_index(_loaders(tree.root, **options, **more).train, epoch) for more, epoch in (({}, 3), ({"seed": 4}, 2))
    )
    for different in (plain, next_epoch, other_seed):
        assert sum(not torch.equal(image, reference[index]) for index, image in different.items()) > 12
    val, test = _loaders(tree.root, **options).val, _loaders(tree.root, in_chans=in_chans).val
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(val, test, strict=True))


def test_the_global_generators_are_left_alone():
    before = repr((random.getstate(), np.random.get_state(), torch.get_rng_state()))
    Augmentation(AugmentationOptions("randaugment", erase_prob=1.0))(_noise(8), *_keys(8))
    assert repr((random.getstate(), np.random.get_state(), torch.get_rng_state())) == before


@pytest.mark.parametrize(("augment", "count"), [("radiology", 8), ("randaugment", 15)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_takes_gray_and_rgb_at_any_magnitude(augment, count, channels):
    operations = Augmentation(AugmentationOptions(augment))._augment.ops
    assert len(operations) == count
    image = to_image(_noise(1, channels)[0])
    for operation in operations:
        operation.prob, operation.magnitude_std = 1.0, 0
        for magnitude in (0, 3, 9, 10):
            operation.magnitude = magnitude
            changed = operation(image)
            assert (changed.mode, changed.size) == (image.mode, image.size), operation
    images = _noise(400, channels)
    assert Augmentation(AugmentationOptions(augment))(images, *_keys(400)).shape == images.shape


def test_the_radiology_preset_neither_mirrors_nor_inverts_and_changes_most_images():
    image = np.full((1, 1, 32, 32), 60, np.uint8)
    image[..., 4:28, 4:14] = 200  # bright on the left, and higher up than down
    image[..., 20:28, 4:14] = 140
    images = Augmentation(AugmentationOptions("radiology"))(image.repeat(500, 0), *_keys(500)).astype(float)
    left, right = images[..., 8:24, 7:12], images[..., 8:24, 20:25]
    assert ((left.mean((1, 2, 3)) - right.mean((1, 2, 3))) > 40).all()
    assert (images[:, 0, 8:16, 7:12].mean((1, 2)) > images[:, 0, 22:26, 7:12].mean((1, 2))).all()
    changed = (images != image).any((1, 2, 3)).mean()
    assert 0.65 < changed < 0.85  # each of two operations with probability 1/2


def test_the_radiology_preset_treats_gray_in_three_channels_as_in_one():
    gray = _noise(200)
    in_rgb = Augmentation(AugmentationOptions("radiology"))(gray.repeat(3, 1), *_keys(200))
    assert np.array_equal(in_rgb, Augmentation(AugmentationOptions("radiology"))(gray, *_keys(200)).repeat(3, 1))


def test_mei2022_is_an_affine_map_within_its_ranges_that_moves_masks_as_images():
    side, count = 64, 200
    line = 31 + 3 * np.arange(side)
    ramps = np.stack([np.repeat(line[:, None], side, 1), np.repeat(line[None], side, 0)] * 2)[:3]
    images = np.tile(ramps.astype(np.uint8), (count, 1, 1, 1))
    masks = images[:, :1].copy()
    Augmentation(AugmentationOptions("mei2022"), seed=1)(images, *_keys(count), masks)
    inner = slice(20, 44)  # where nothing comes from outside
    rows, columns = np.mgrid[inner, inner] - (side - 1) / 2
    design = np.stack([rows.ravel(), columns.ravel(), np.ones(rows.size)], 1)
    place = (images[:, :2, inner, inner].astype(float) - line.mean()) / 3  # in the original
    values = place.reshape(count, 2, -1)
    maps = np.linalg.lstsq(design, values.reshape(-1, len(design)).T, rcond=None)[0].T.reshape(count, 2, 3)
    left = values - maps @ design.T
    assert np.abs(left).max() < 0.6  # affine, up to rounding to bytes: a level is a third of a pixel
    shift, linear = maps[:, :, 2] / side, maps[:, :, :2]
    turns = np.degrees(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    zooms = np.linalg.norm(linear, axis=1)
    for found, most, middle, slack in ((turns, 10, 0, 0.3), (shift, 0.1 * 2**0.5, 0, 0.005), (zooms, 0.1, 1, 0.005)):
        assert 0.85 * most / (2**0.5 if found is shift else 1) < np.abs(found - middle).max() < most + slack
        assert np.abs(found.mean() - middle) < 0.2 * most
    assert np.linalg.norm(shift, axis=1).max() < 0.1 * 2**0.5 + 0.005
    moved = np.abs(masks[:, 0, inner, inner].astype(int) - images[:, 0, inner, inner])
    assert moved.max() <= 3  # the nearest pixel is at most half a pixel away
    assert images.min() >= 31  # the border is repeated


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Please import `affine_transform`:DeprecationWarning")
def test_mei2022_is_the_map_of_keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    from keras.src.legacy.preprocessing.image import apply_affine_transform

    rng = np.random.default_rng(0)
    for _ in range(20):
        image = rng.integers(0, 256, (3, 24, 24), np.uint8)
        theta, shear = rng.uniform(-10, 10), rng.uniform(-20, 20)
        shift, zoom = rng.uniform(-0.2, 0.2, 2), rng.uniform(0.8, 1.2, 2)
        ours = move(image, affine_map(np.radians(theta), shift, np.radians(shear), zoom)).astype(int)
        tx, ty = 24 * shift
        options = {"row_axis": 1, "col_axis": 2, "channel_axis": 0, "fill_mode": "nearest"}
        theirs = apply_affine_transform(image.astype(np.float32), theta, tx, ty, shear, *zoom, **options)
        assert np.abs(ours - theirs).max() <= 0.51  # which are rounded here


def test_random_erasing_blackens_a_rectangle_of_as_many_images_as_asked():
    images = np.full((1000, 1, 32, 32), 7, np.uint8)
    erased = Augmentation(AugmentationOptions(erase_prob=0.3))(images, *_keys(1000))[:, 0] == 0
    hit = erased.any((1, 2))
    assert 0.25 < hit.mean() < 0.35  # standard deviation 0.014
    for mask in erased[hit]:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum()  # one full rectangle
        assert 0.01 < mask.mean() < 0.36  # 2 to 33 %, before its sides are rounded


def test_unknown_operations_and_impossible_shares_are_named():
    with pytest.raises(ValueError, match="augment must be one of none, radiology, mei2022, randaugment, got 'flips'"):
        AugmentationOptions("flips")
    with pytest.raises(ValueError, match=r"erase_prob must lie in \[0, 1\], got 1\.5"):
        AugmentationOptions(erase_prob=1.5)
