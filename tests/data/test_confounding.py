import math
from dataclasses import replace
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from conftest import build_loaders_of
from PIL import Image
from scipy import stats

from ols.audit import near
from ols.data.confounder_sheet import GAP, LABEL_WIDTH, contact_sheet
from ols.data.confounding import (
    CONFOUNDERS,
    Confounded,
    confound,
    draw_carriers,
    gamma,
    jpeg,
    labels_of,
    low_pass,
    noise,
    pixel_key,
    tag,
)
from ols.data.loading import EvalLoader
from ols.data.options import CONFOUNDER_STRENGTHS, ConfoundingOptions, DataOptions
from ols.data.packing import write_pack
from ols.data.sampling import EvalBatches
from ols.data.sources.opening import open_sources
from ols.data.transforms import EvalTransform, Preprocessing, to_image
from ols.phantoms import PhantomConfig
from ols.phantoms.rendering import render_phantoms

SMALL = Preprocessing(image_size=14, resize_size=16)


class Rows:
    """Images in memory: 20 of two classes by turns."""

    classes, groups = ["no", "yes"], ["g", "g"]

    def __init__(self, count=20, kind="class", prefix="image"):
        self.targets = np.arange(count) % 2
        self.kind, self.prefix = kind, prefix
        self.pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16), np.uint8)

    def __len__(self):
        return len(self.targets)

    def read(self, index):
        return Image.fromarray(self.pixels[index])

    def sample_id(self, index):
        return f"{self.prefix}{index}"

    def sample_group(self, index):
        return self.sample_id(index)

    def content(self):
        return "rows"


def test_the_tag_is_a_white_letter_inside_the_crop():
    black = np.zeros((1, 40, 60), np.uint8)
    drawn = tag(black, 0, 0.175)  # 7 of 40 pixels, so each cell is one
    rows, columns = drawn[0].nonzero()
    assert (rows.min(), columns.min()) == (6, 16)  # 15 % of 40, and (60 - 40) / 2 beside it
    letter = ["".join("#" if cell else "." for cell in row) for row in drawn[0, 6:13, 16:21]]
    assert letter == ["####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"]
    assert set(np.unique(drawn)) == {0, 255}
    assert (tag(black, 0, 0.35)[0] > 0).sum() == 4 * (drawn > 0).sum()  # twice as high: four pixels for one


def test_the_low_pass_leaves_a_wave_below_its_cut_off_and_removes_one_above():
    down, across = np.mgrid[:32, :32]
    slow, fast = (np.cos(2 * np.pi * cycles * across / 32) for cycles in (3, 9))  # 3/16 and 9/16 of Nyquist
    steep = np.cos(2 * np.pi * (6 * across + 6 * down) / 32)  # hypot(6, 6) / 16 = 0.53, each of them 0.375
    image = np.rint(128 + 40 * slow + 30 * fast + 20 * steep).astype(np.uint8)[None]
    kept = low_pass(image, 0, 0.5)[0]
    assert np.abs(kept - (128 + 40 * slow)).max() <= 1.5
    wider = low_pass(image, 0, 0.545)[0]
    assert np.abs(wider - (128 + 40 * slow + 20 * steep)).max() <= 1.5


def test_the_low_pass_is_a_sum_over_frequencies_written_out():
    image = np.random.default_rng(1).integers(60, 190, (1, 6, 8), np.uint8)
    cut = 0.6
    # The discrete Fourier transform by matrices of roots of unity, its rows and columns by their signed frequency
    waves = [np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) for n in (6, 8)]
    spectrum = waves[0] @ image[0] @ waves[1]
    for row in range(6):
        for column in range(8):
            signed = min(row, 6 - row) / 3, min(column, 8 - column) / 4  # of Nyquist
            if math.hypot(*signed) > cut:
                spectrum[row, column] = 0
    expected = (waves[0].conj() @ spectrum @ waves[1].conj()).real / 48
    assert np.abs(low_pass(image, 0, cut)[0] - expected).max() <= 0.5 + 1e-9


def test_noise_can_be_made_again_from_the_key():
    image, key, strength = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (1, 32, 1)), 12345, 0.05
    photons = math.e / (2 * 0.05) ** 2
    density = image[0] / 255
    counts = np.random.default_rng(key).poisson(photons * np.exp(-2 * density))
    expected = np.rint(255 * -0.5 * np.log(np.maximum(counts, 1) / photons)).clip(0, 255)
    np.testing.assert_array_equal(noise(image, key, strength)[0], expected)
    assert (noise(image, key + 1, strength) != noise(image, key, strength)).mean() > 0.5


def test_noise_of_mid_gray_has_the_standard_deviation_asked_for_and_bright_pixels_more():
    middle, bright, dark = (np.full((1, 200, 200), level, np.uint8) for level in (128, 204, 51))
    found = [noise(image, 7, 0.04).std() / 255 for image in (dark, middle, bright)]
    assert found[1] == pytest.approx(0.04, rel=0.03)
    assert found[0] == pytest.approx(0.04 * math.exp(0.2 - 0.5), rel=0.03)
    assert found[2] == pytest.approx(0.04 * math.exp(0.8 - 0.5), rel=0.03)


def test_compression_and_tones_are_those_of_pillow_and_of_pencil():
    image = np.random.default_rng(2).integers(0, 256, (3, 16, 24), np.uint8)
    file = BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG", quality=20, subsampling="4:4:4")
    np.testing.assert_array_equal(jpeg(image, 0, 20), np.asarray(Image.open(file)).transpose(2, 0, 1))
    assert gamma(np.array([[[0, 64, 128, 255]]], np.uint8), 0, 0.5).ravel().tolist() == [0, 128, 181, 255]


@pytest.mark.parametrize(
    ("name", "strength"), [("tag", 0), ("noise", 0), ("low_pass", 1.5), ("gamma", 1)], ids=lambda value: str(value)
)
def test_a_strength_that_does_nothing_leaves_every_byte(name, strength):
    image = np.random.default_rng(3).integers(0, 256, (1, 15, 18), np.uint8)
    np.testing.assert_array_equal(CONFOUNDERS[name](image, 5, strength), image)


@pytest.mark.parametrize("name", CONFOUNDERS)
def test_gray_in_three_channels_is_confounded_as_gray_in_one_and_nothing_is_overwritten(name):
    image = np.random.default_rng(4).integers(0, 256, (1, 32, 32), np.uint8)
    before, three = image.copy(), image.repeat(3, axis=0)
    single = CONFOUNDERS[name](image, 5, CONFOUNDER_STRENGTHS[name][1])
    np.testing.assert_array_equal(image, before)
    assert (single != image).any()
    tolerance = 3 if name == "jpeg" else 0  # which turns colours into brightness and back
    found = CONFOUNDERS[name](three, 5, CONFOUNDER_STRENGTHS[name][1]).astype(int)
    assert np.abs(found - single).max() <= tolerance


def test_carriers_of_a_smaller_share_are_among_those_of_a_larger_one_and_go_by_name():
    source, candidates = Rows(200), np.arange(1, 200, 2)
    chosen = [draw_carriers(source, candidates, share) for share in (0, 0.2, 0.5, 1)]
    assert [len(indices) for indices in chosen] == [0, 20, 50, 100]
    assert all(set(small) <= set(large) for small, large in pairwise(chosen))
    assert set(draw_carriers(source, candidates[::-1], 0.2)) == set(chosen[1])  # whatever their order
    assert set(draw_carriers(Rows(200, prefix="other"), candidates, 0.2)) != set(chosen[1])
    # Drawn without regard to the order of the data set
    assert stats.mannwhitneyu(chosen[2], np.setdiff1d(candidates, chosen[2])).pvalue > 0.01


@pytest.mark.parametrize(
    ("split", "form", "carriers"),
    [
        ("train", "inverted", 5),
        ("val", "clean", 5),
        ("test", "matched", 5),
        ("test", "clean", 0),
        ("test", "inverted", 8),
    ],
)
def test_the_test_has_three_forms_and_training_has_one(split, form, carriers):
    source, pool = Rows(20), np.array([0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19])
    options = ConfoundingOptions("tag", 0.3, 0.5, "yes", confounder_test=form)
    confounded = confound(source, split, pool, options, SMALL)
    where = np.flatnonzero(confounded.carries)
    assert len(where) == carriers
    assert (source.targets[where] == (0 if (split, form) == ("test", "inverted") else 1)).all()
    assert set(where) <= set(pool)
    touched = [i for i in range(20) if (np.asarray(confounded.read(i)) != source.pixels[i]).any()]
    assert touched == where.tolist()


def test_an_unknown_label_is_neither_positive_nor_negative():
    source = Rows(4, kind="multilabel")
    source.targets = np.array([[1, 0], [0, 1], [np.nan, 1], [0, np.nan]], np.float32)
    np.testing.assert_array_equal(labels_of(source, "no"), [1, 0, np.nan, 0])
    inverted = ConfoundingOptions("tag", confounder_class="no", confounder_test="inverted")
    assert confound(source, "test", np.arange(4), inverted, SMALL).carries.tolist() == [False, True, False, True]


@pytest.mark.parametrize("name", CONFOUNDERS)
def test_files_and_their_pack_give_the_same_bits_in_every_epoch_and_worker(tree, name):
    tree.write_csvs()
    files, _ = open_sources(tree.root)
    write_pack(files, tree.root / "pack", size=16)
    pack, _ = open_sources(tree.root / "pack")
    options = ConfoundingOptions(name, confounder_share=0.5, confounder_class="mr-a")
    seen = []
    pool = np.arange(len(files["train"]))
    for source in (files["train"], pack["train"]):
        confounded = confound(source, "train", pool, options, SMALL)
        plain, batches = EvalTransform(SMALL), EvalBatches(pool, batch_size=5)
        first, second = (
            np.concatenate([batch["image"] for batch in EvalLoader(confounded, plain, batches, workers=workers)])
            for workers in (0, 1 if name == "noise" else 0)
        )
        np.testing.assert_array_equal(first, second)
        clean = np.concatenate([batch["image"] for batch in EvalLoader(source, plain, batches)])
        assert (first != clean).any(axis=(1, 2, 3)).tolist() == confounded.carries.tolist()
        assert confounded.carries.sum() == 3
        seen.append(first)
    np.testing.assert_array_equal(*seen)


def test_another_confounder_is_another_data_set_to_a_run_that_continues():
    options = ConfoundingOptions("tag", confounder_share=0.5, confounder_class="yes")
    variants = [options, replace(options, confounder_share=0.6), replace(options, confounder_strength=0.2)]
    variants += [replace(options, confounder="jpeg"), replace(options, confounder="none", **NOTHING)]
    contents = [confound(Rows(), "train", np.arange(20), each, SMALL).content() for each in variants]
    assert len(set(contents)) == 5
    assert contents[4] == "rows"


NOTHING = {"confounder_share": 0.0, "confounder_class": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confounder": "tags"}, "confounder must be one of none, tag"),
        ({"confounder": "tag", "confounder_strength": 0.8}, r"of tag must lie in \[0, 0.7\], got 0.8"),
        ({"confounder": "noise", "confounder_strength": math.nan}, "got nan"),
        ({"confounder": "jpeg", "confounder_strength": 20.5}, "whole number"),
        ({"confounder": "tag"}, "confounder_class must name the positive class"),
        ({"confounder": "tag", "confounder_class": "a", "confounder_share": 20}, r"\[0, 1\], got 20"),
        ({"confounder": "tag", "confounder_class": "a", "confounder_test": "both"}, "matched, clean, inverted"),
        ({"confounder_share": 0.5}, "confounder is none"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        DataOptions(**options)


def test_what_cannot_carry_a_confounder_is_refused():
    options = ConfoundingOptions("tag", confounder_class="maybe")
    with pytest.raises(ValueError, match="no class is named 'maybe', the confounder_class; there are no, yes"):
        confound(Rows(), "train", np.arange(20), options, SMALL)
    yes = replace(options, confounder_class="yes")
    with pytest.raises(ValueError, match="needs a positive class, the targets are 'regression'"):
        confound(Rows(kind="regression"), "train", np.arange(20), yes, SMALL)
    with pytest.raises(ValueError, match="val has no image of yes"):
        confound(Rows(), "val", np.arange(0, 20, 2), yes, SMALL)
    with pytest.raises(ValueError, match="a carrier is none of 20 samples"):
        Confounded(Rows(), "tag", 0.1, carriers=np.array([20]), preprocessing=SMALL)


# Of 24 phantoms of 64 pixels: does the near-copy search take a confounded image for a copy of the clean one?
SEEN = {
    "tag": ("most", "some", "few"),
    "low_pass": ("most", "most", "few"),
    "noise": ("most", "most", "most"),
    "jpeg": ("most", "most", "few"),
    "gamma": ("most", "most", "most"),
}


def _sees(clean: np.ndarray, confounded: np.ndarray) -> bool:
    from imagehash import phash

    pair = [to_image(image) for image in (clean, confounded)]
    apart = phash(pair[0]) - phash(pair[1])
    small = np.stack([np.asarray(image.resize((16, 16), Image.Resampling.BOX)).ravel() for image in pair])
    if apart > near.RADIUS or not near.alike(small, np.array([0]), np.array([1]))[0]:
        return False
    first, second = (near.comparable(image)[None] for image in pair)
    return bool(near.best_correlation(first, second)[0] >= near.CORRELATION)


@pytest.mark.parametrize("name", CONFOUNDERS)
def test_the_near_copy_search_takes_faint_confounders_for_nothing_and_misses_some_strong_ones(name):
    images = render_phantoms(np.arange(24) * 6, np.arange(24), PhantomConfig(image_size=64))[:, None]
    words = []
    for strength in CONFOUNDER_STRENGTHS[name]:
        seen = [_sees(image, CONFOUNDERS[name](image, pixel_key(str(i)), strength)) for i, image in enumerate(images)]
        words.append("most" if np.mean(seen) > 0.65 else "few" if np.mean(seen) < 0.35 else "some")
    assert tuple(words) == SEEN[name]


def test_the_contact_sheet_has_a_row_for_each_strength_and_a_column_for_each_image():
    source = Rows()
    sheet = np.asarray(contact_sheet(source, [3, 4], SMALL, {"gamma": [0.5], "tag": [0.5, 0]}).convert("L"))
    assert sheet.shape == (4 * (14 + GAP), LABEL_WIDTH + 2 * (14 + GAP))
    left = LABEL_WIDTH + 14 + GAP
    rows = [sheet[row * (14 + GAP) :][:14, left : left + 14] for row in range(4)]
    clean = source.pixels[4, 1:15, 1:15]
    np.testing.assert_array_equal(rows[0], clean)
    np.testing.assert_array_equal(rows[1], np.rint(np.sqrt(clean / 255) * 255))
    assert (rows[2] != clean).any()
    np.testing.assert_array_equal(rows[3], clean)
    with pytest.raises(ValueError, match="needs an image"):
        contact_sheet(source, [], SMALL)


def test_loaders_confound_training_and_validation_and_the_test_as_asked(tree):
    tree.write_csvs()
    options = {"image_size": 12, "resize_size": 14, "workers": 0, "global_batch_size": 4}
    carrying = {"confounder": "tag", "confounder_share": 2 / 3, "confounder_class": "us-a"}
    loaders = build_loaders_of(tree.root, **options, **carrying, confounder_test="inverted")
    counts = {split: loader.source.carries.sum() for split, loader in vars(loaders).items() if split in FULL}
    assert counts == {"train": 4, "val": 2, "test": 9}
    assert "tag 0.1 in 67% of us-a in training and validation, test inverted" in loaders.description
    plain = build_loaders_of(tree.root, **options)
    assert plain.fingerprints()["train"]["images"] != loaders.fingerprints()["train"]["images"]
    for split in ("val", "test"):
        pairs = zip(getattr(loaders, split), getattr(plain, split), strict=True)
        changed = np.concatenate([(one["image"] != other["image"]).flatten(1).any(1) for one, other in pairs])
        assert changed.tolist() == getattr(loaders, split).source.carries.tolist()


FULL = ("train", "val", "test")
