"""Mixup and cutmix: images and labels share alike, and a batch depends on its key alone."""

import random

import numpy as np
import pytest
import torch
from conftest import build_loaders_of

from ols.data.mixing import Mixing
from ols.data.options import MixingOptions

SIZES = {"image_size": 12, "resize_size": 14}
VALUES = torch.tensor([-1.0, -0.25, 0.5, 1.0, 2.0])  # of all pixels of a class


def _loaders(tree, **options):
    tree.write_csvs()
    return build_loaders_of(tree.root, **{**SIZES, "workers": 0, "global_batch_size": 4, "seed": 3, **options})


def _batch(size, seed=0):
    targets = torch.randint(5, (size,), generator=torch.Generator().manual_seed(seed))
    return VALUES[targets].view(-1, 1, 1, 1).repeat(1, 1, 16, 16), targets


def _mix(mixing, batch, epoch=0):
    return mixing(*batch, epoch=epoch, indices=np.arange(len(batch[1])))


def _state():
    return repr((random.getstate(), np.random.get_state(), torch.get_rng_state()))


def test_mixup_gives_the_labels_the_shares_of_the_pixels():
    mixing, mixed = Mixing(5, MixingOptions(mixup_alpha=1.0)), 0
    for epoch in range(20):
        images, target_probs = _mix(mixing, _batch(6, epoch), epoch)
        torch.testing.assert_close(images, (target_probs @ VALUES).view(-1, 1, 1, 1).expand_as(images))
        torch.testing.assert_close(target_probs.sum(1), torch.ones(6))
        mixed += (target_probs.amax(1) < 1).sum()
    assert mixed > 60


def test_cutmix_gives_the_labels_the_shares_of_the_area():
    mixing, pasted = Mixing(5, MixingOptions(cutmix_alpha=1.0)), 0
    for epoch in range(20):
        batch = _batch(6, epoch)
        partners = torch.stack([VALUES[batch[1]], VALUES[batch[1].flip(0)]])  # [2, B]
        images, target_probs = _mix(mixing, batch, epoch)
        torch.testing.assert_close(images.mean((1, 2, 3)), target_probs @ VALUES)
        assert (images == partners.view(2, -1, 1, 1, 1)).any(0).all()
        pasted += (target_probs.amax(1) < 1).sum()
    assert pasted > 60


def test_with_both_on_batches_are_mixed_in_either_way_and_as_often_as_asked():
    mixing = Mixing(5, MixingOptions(mixup_alpha=1.0, cutmix_alpha=1.0, mix_prob=0.6))
    kinds = []
    for epoch in range(400):
        images, target_probs = mixing(
            VALUES[:2].view(-1, 1, 1, 1).repeat(1, 1, 16, 16), torch.arange(2), epoch=epoch, indices=np.arange(2)
        )
        kinds.append("none" if target_probs.amax() == 1 else "cut" if images[0].unique().numel() == 2 else "blend")
    counts = {kind: kinds.count(kind) for kind in ("none", "cut", "blend")}
    assert 130 < counts["none"] < 190  # 160 expected, standard deviation 9.8
    assert min(counts["cut"], counts["blend"]) > 90  # 120 expected each


def test_a_batch_is_mixed_by_its_key_whatever_came_before_and_nothing_else_is_drawn():
    first, again = (Mixing(5, MixingOptions(mixup_alpha=0.4, cutmix_alpha=1.0), seed=7) for _ in range(2))
    for epoch in range(3):
        _mix(first, _batch(6), epoch)
    before = _state()
    found, expected = _mix(first, _batch(6), 3), _mix(again, _batch(6), 3)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert _state() == before
    others = [
        _mix(first, _batch(6), 4),
        _mix(Mixing(5, MixingOptions(mixup_alpha=0.4, cutmix_alpha=1.0), seed=8), _batch(6), 3),
        first(*_batch(6), epoch=3, indices=np.arange(1, 7)),
    ]
    assert all(not torch.equal(other[1], expected[1]) for other in others)


def test_two_images_of_a_class_give_an_exactly_one_hot_row():
    mixing = Mixing(5, MixingOptions(mixup_alpha=1.0))
    for epoch in range(50):
        targets = torch.full((4,), 3)
        _, target_probs = mixing(torch.randn(4, 1, 4, 4), targets, epoch=epoch, indices=np.arange(4))
        assert torch.equal(target_probs, torch.eye(5)[targets])


def test_of_an_odd_number_the_last_image_stays_as_it_is():
    images, targets = _batch(7)
    mixed, target_probs = _mix(Mixing(5, MixingOptions(mixup_alpha=1.0)), (images.clone(), targets))
    assert torch.equal(mixed[6], images[6])
    assert torch.equal(target_probs[6], torch.eye(5)[targets[6]])
    torch.testing.assert_close(mixed[:, 0, 0, 0], target_probs @ VALUES)
    assert (target_probs[:6].amax(1) < 1).any()
    alone, alone_probs = _mix(Mixing(5, MixingOptions(mixup_alpha=1.0)), _batch(1))
    assert torch.equal(alone_probs, torch.eye(5)[_batch(1)[1]])
    assert torch.equal(alone, _batch(1)[0])


def test_the_loader_mixes_training_batches_by_epoch_and_samples_alone(tree):
    plain, mixed, workers = _loaders(tree), _loaders(tree, mixup_alpha=1.0), _loaders(tree, mixup_alpha=1.0, workers=1)
    mixing = Mixing(4, MixingOptions(mixup_alpha=1.0), seed=3)
    compared = 0
    for epoch in (0, 2):
        for loaders in (plain, mixed, workers):
            loaders.train.batches.epoch = epoch
        for unmixed, *found in list(zip(plain.train, mixed.train, workers.train, strict=True))[::-1]:
            images, target_probs = mixing(
                unmixed["image"], unmixed["target"], epoch=epoch, indices=unmixed["index"].numpy()
            )
            for batch in found:
                assert torch.equal(batch["image"], images)
                assert torch.equal(batch["target"], target_probs)
                compared += 1
    assert compared == 2 * 2 * 6
    assert not next(iter(mixed.val))["target"].is_floating_point()
    assert not next(iter(_loaders(tree, mixup_alpha=1.0, overfit_batches=1).train))["target"].is_floating_point()


def test_what_cannot_be_mixed_is_refused_with_the_numbers(tree):
    with pytest.raises(
        ValueError, match=r"global_batch_size 6 / \(2 processes x 1 accumulation steps\) = 3 images, .*odd"
    ):
        _loaders(tree, cutmix_alpha=1.0, global_batch_size=6, world_size=2)
    with pytest.raises(ValueError, match="mixup_alpha must not be negative, got -1"):
        _loaders(tree, mixup_alpha=-1, cutmix_alpha=0)
    with pytest.raises(ValueError, match=r"mix_prob must lie in \[0, 1\], got 2"):
        _loaders(tree, mixup_alpha=1, mix_prob=2)
    with pytest.raises(ValueError, match="nothing to mix: mixup_alpha and cutmix_alpha are 0"):
        Mixing(5, MixingOptions())
