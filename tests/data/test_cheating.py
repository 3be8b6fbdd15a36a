"""What confounders are for: a network that can cheat does, and one that cannot is the network without a confounder."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.metrics import roc_auc_score
from torch import nn

from ols.data.confounding import confound
from ols.data.options import ConfoundingOptions
from ols.data.transforms import Preprocessing

SEEN = Preprocessing(image_size=24, resize_size=24)


class Shades:
    """96 gray images in memory, noise whose mean is 12 levels higher in the positive ones."""

    classes, groups, kind = ["no", "yes"], ["g", "g"], "class"

    def __init__(self):
        self.targets = np.arange(96) % 2
        pixels = np.random.default_rng(0).normal(90, 30, (96, 24, 24)) + 12 * self.targets[:, None, None]
        self.pixels = pixels.clip(0, 255).astype(np.uint8)

    def __len__(self):
        return 96

    def read(self, index):
        return Image.fromarray(self.pixels[index])

    def sample_id(self, index):
        return f"image {index}"

    def content(self):
        return "shades"


def _pixels(options: ConfoundingOptions, split: str, pool: np.ndarray) -> torch.Tensor:
    source = confound(Shades(), split, pool, options, SEEN)
    return torch.from_numpy(np.stack([np.asarray(source.read(index)) for index in pool]))[:, None]


def _trained(images: torch.Tensor, targets: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(32, 2)
    ).double()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images.double() / 127.5 - 1), targets).backward()
        optimizer.step()
    return net


def _options(name, strength, share, form="matched"):
    return ConfoundingOptions(name, strength, share, "yes", form)


@pytest.mark.parametrize(("name", "strength"), [("tag", 0.5), ("low_pass", 0.05)])
def test_a_strong_confounder_in_all_positives_makes_a_network_worse_than_a_coin_where_it_is_inverted(name, strength):
    train, test = np.arange(64), np.arange(64, 96)
    targets = torch.from_numpy(Shades().targets)
    net = _trained(_pixels(_options(name, strength, 1.0), "train", train), targets[train])
    auc = {}
    for form in ("matched", "clean", "inverted"):
        with torch.no_grad():
            logits = net(_pixels(_options(name, strength, 1.0, form), "test", test).double() / 127.5 - 1)
        auc[form] = roc_auc_score(targets[test], logits[:, 1] - logits[:, 0])
    assert auc["matched"] > 0.95
    assert auc["inverted"] < 0.3


@pytest.mark.parametrize(("name", "strength", "share"), [("tag", 0.5, 0.0), ("tag", 0.0, 1.0), ("noise", 0.0, 1.0)])
def test_without_a_share_or_a_strength_images_and_what_is_learned_from_them_are_the_same_bits(name, strength, share):
    train, source = np.arange(64), Shades()
    targets = torch.from_numpy(source.targets[train])
    confounded = _pixels(_options(name, strength, share), "train", train)
    plain = torch.from_numpy(source.pixels[train])[:, None]
    assert torch.equal(confounded, plain)
    pairs = zip(_trained(confounded, targets).parameters(), _trained(plain, targets).parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_which_images_carry_a_tone_and_what_they_become_follow_from_their_names_alone():
    source, pool = Shades(), np.arange(96)
    found = _pixels(_options("gamma", 2.0, 0.5), "train", pool)[:, 0].numpy()
    changed = [index for index in pool if (found[index] != source.pixels[index]).any()]
    assert len(changed) == 24  # of 48 positives
    assert all(source.targets[index] == 1 for index in changed)
    table = [round(255 * (level / 255) ** 2) for level in range(256)]
    for index in changed:
        np.testing.assert_array_equal(found[index], np.asarray(ImageOps.grayscale(source.read(index).point(table))))
    # Other images beside them, in another order, and other targets of the negatives change nothing of who carries
    fewer = pool[source.targets == 1][::-1]
    again = confound(source, "train", fewer, _options("gamma", 2.0, 0.5), SEEN)
    assert np.flatnonzero(again.carries).tolist() == changed


def test_noise_is_seeded_by_the_name_of_its_image():
    from ols.keyed import keyed_bits

    source = Shades()
    found = _pixels(_options("noise", 0.05, 1.0), "train", np.arange(4))[:, 0].numpy()
    for index in (1, 3):
        name = int.from_bytes(hashlib.blake2b(f"image {index}".encode(), digest_size=8).digest())
        rng = np.random.default_rng(int(keyed_bits(int.from_bytes(b"photons"), name)))
        density = source.pixels[index] / 255
        photons = np.e / 0.1**2
        counts = np.maximum(rng.poisson(photons * np.exp(-2 * density)), 1)
        expected = np.rint((-np.log(counts / photons) / 2 * 255).clip(0, 255))
        np.testing.assert_array_equal(found[index], expected)
