import csv
import itertools
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy.stats import chisquare

from ols.data.sources.radimagenet import RadImageNet
from ols.phantoms import (
    PHANTOM_CLASSES,
    PhantomConfig,
    draw_classes,
    draw_readings,
    known_posterior,
    load_latent_classes,
    load_reader_confusion,
    read_labels,
    reader_confusion,
    render_phantoms,
    write_phantoms,
)

NOISY = PhantomConfig(num_train=600, num_val=200, num_test=300, image_size=16, seed=3, reader_noise=1.0)
ANATOMY = np.array([c.anatomy for c in PHANTOM_CLASSES])
NORMAL = np.array([c.lesion == "none" for c in PHANTOM_CLASSES])
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def noisy_set(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms") / "noisy"
    write_phantoms(root, NOISY)
    return root


def position(label):
    return next(k for k, c in enumerate(PHANTOM_CLASSES) if c.label == label)


def rows_of(root, split):
    with open(root / f"RadiologyAI_{split}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rows_are_distributions_over_the_anatomy_with_the_drawn_class_likeliest():
    confusion = reader_confusion(1.0)
    assert confusion.shape == (165, 165)
    assert confusion.sum(axis=1) == pytest.approx(np.ones(165), abs=1e-12)
    same = ANATOMY[:, None] == ANATOMY
    assert (confusion[~same] == 0).all()
    assert (confusion[same] > 0).all()
    diagonal = confusion.diagonal()
    assert (diagonal.min(), diagonal.max()) == pytest.approx((0.70, 0.85))


def test_readers_without_noise_agree_and_noise_scales_what_they_confuse():
    assert np.array_equal(reader_confusion(0.0), np.eye(165))
    off = ~np.eye(165, dtype=bool)
    assert reader_confusion(0.25)[off] == pytest.approx(0.25 * reader_confusion(1.0)[off], abs=1e-15)


def test_what_looks_alike_is_confused_more():
    confusion = reader_confusion(1.0)

    def read_as(drawn, read):
        return confusion[position(drawn), position(read)]

    assert read_as("us-liver_cyst", "us-liver_nodules") > 5 * read_as("us-liver_cyst", "us-renal_cyst")  # same organ
    assert read_as("us-renal_cyst", "us-renal_ca++_stone") > 5 * read_as("us-renal_cyst", "us-liver_cyst")
    assert read_as("brain-abscess", "brain-White_matter_foci") > 5 * read_as("brain-abscess", "brain-ca++_ganglia")
    same_site, other_site = [], []
    for k, c in enumerate(PHANTOM_CLASSES):
        for j, d in enumerate(PHANTOM_CLASSES):
            if c.anatomy == d.anatomy and k != j and not (NORMAL[k] or NORMAL[j]):
                (same_site if c.site == d.site else other_site).append(confusion[k, j])
    assert np.mean(same_site) > 2 * np.mean(other_site)


def test_lesions_are_missed_more_often_than_invented():
    confusion = reader_confusion(1.0)
    for prefix in np.unique(ANATOMY):
        (normal,) = np.flatnonzero((prefix == ANATOMY) & NORMAL)
        lesions = np.flatnonzero((prefix == ANATOMY) & ~NORMAL)
        assert confusion[lesions, normal].sum() > confusion[normal, lesions].sum(), prefix


def test_labels_are_drawn_from_the_row_of_the_drawn_class():
    confusion = reader_confusion(1.0)
    latent = np.repeat(np.flatnonzero(ANATOMY == "lung"), 20_000)
    read = read_labels(latent, np.arange(len(latent)), confusion, seed=7)
    for k in np.unique(latent):
        counts = np.bincount(read[latent == k], minlength=165)
        possible = confusion[k] > 0
        assert counts[~possible].sum() == 0
        assert chisquare(counts[possible], 20_000 * confusion[k, possible]).pvalue > 1e-3


def test_a_label_depends_on_seed_index_and_class_alone():
    confusion = reader_confusion(1.0)
    latent, indices = np.tile(np.arange(165), 20), np.arange(3300) + 10**9
    together = read_labels(latent, indices, confusion, seed=2**64 - 1)
    shuffled = np.random.default_rng(0).permutation(3300)
    again = read_labels(latent[shuffled], indices[shuffled], confusion, seed=2**64 - 1)
    assert np.array_equal(again, together[shuffled])
    assert (read_labels(latent, indices, confusion, seed=0) != together).any()
    assert (read_labels(latent, indices + 3300, confusion, seed=2**64 - 1) != together).any()


def test_more_noise_changes_more_labels_and_none_back():
    latent, indices = np.tile(np.arange(165), 50), np.arange(8250)
    changed = [
        read_labels(latent, indices, reader_confusion(noise), seed=0) != latent for noise in (0.0, 0.2, 0.6, 1.0)
    ]
    assert not changed[0].any()
    for less, more in itertools.pairwise(changed):
        assert (more | ~less).all()
        assert more.sum() > less.sum()


def test_without_noise_every_label_is_the_class_drawn():
    config = replace(NOISY, reader_noise=0.0)
    latent, read = draw_classes(config), draw_readings(config)
    assert all(np.array_equal(latent[split], read[split]) for split in SPLITS)


def test_a_set_reads_back_with_its_truth(noisy_set):
    classes, confusion = load_reader_confusion(noisy_set)
    assert np.array_equal(confusion, reader_confusion(1.0))
    latent, read = draw_classes(NOISY), draw_readings(NOISY)
    for split in SPLITS:
        source = RadImageNet(noisy_set, split)  # which does not mind the third column
        assert source.classes == classes == [c.label for c in PHANTOM_CLASSES]
        assert source.groups == [c.folder.rpartition("/")[0] for c in PHANTOM_CLASSES]
        assert np.array_equal(source.targets, read[split])
        truth = load_latent_classes(noisy_set, split)
        assert np.array_equal(truth, latent[split])
        assert 0.1 < (truth != source.targets).mean() < 0.35
        for number in (0, len(source) - 1):
            assert f"/{PHANTOM_CLASSES[truth[number]].folder}/" in source.sample_id(number)
    first = render_phantoms(latent["train"][:1], [0], NOISY)[0]
    assert np.array_equal(np.asarray(RadImageNet(noisy_set, "train").read(0)), first)


def test_names_and_images_do_not_depend_on_the_readers(noisy_set, tmp_path):
    write_phantoms(tmp_path / "agreed", replace(NOISY, reader_noise=0.0))
    agreed, noisy = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.png")}
        for root in (tmp_path / "agreed", noisy_set)
    )
    assert agreed == noisy
    assert len(agreed) == 1100
    for split in SPLITS:
        rows = rows_of(noisy_set, split)
        latent = [{"filename": row["filename"], "label": row["latent"]} for row in rows]
        assert rows_of(tmp_path / "agreed", split) == latent
    assert not (tmp_path / "agreed" / "reader_confusion.npz").exists()
    with pytest.raises(FileNotFoundError, match="does not exist; write the phantoms with reader_noise above 0"):
        load_reader_confusion(tmp_path / "agreed")


def test_any_number_of_workers_writes_the_same_readings(noisy_set, tmp_path):
    write_phantoms(tmp_path / "set", NOISY, workers=2)
    for name in ("RadiologyAI_train.csv", "RadiologyAI_test.csv", "reader_confusion.npz", "phantoms.json"):
        assert (tmp_path / "set" / name).read_bytes() == (noisy_set / name).read_bytes()


def test_a_set_from_before_readers_could_disagree_is_still_known(tmp_path):
    config = PhantomConfig(num_train=10, num_val=10, num_test=10, image_size=16)
    write_phantoms(tmp_path / "set", config)
    manifest = asdict(config)
    del manifest["reader_noise"]
    (tmp_path / "set" / "phantoms.json").write_text(json.dumps({"format": 1, "config": manifest}))
    write_phantoms(tmp_path / "set", config)
    with pytest.raises(ValueError, match=r"its reader_noise is 0\.0, not 0\.5"):
        write_phantoms(tmp_path / "set", replace(config, reader_noise=0.5))


@pytest.mark.parametrize("num_train", [5, 50, 165, 200])
def test_a_tiny_set_keeps_every_label_in_training(tmp_path, num_train):
    config = PhantomConfig(num_train=num_train, num_val=num_train, num_test=num_train, image_size=16, reader_noise=1.0)
    for seed in range(20):
        latent, read = draw_classes(replace(config, seed=seed)), draw_readings(replace(config, seed=seed))
        known = np.unique(latent["train"])
        assert np.array_equal(np.unique(read["train"]), known)
        assert np.isin(read["val"], known).all()
        assert np.isin(read["test"], known).all()
        assert all((ANATOMY[latent[split]] == ANATOMY[read[split]]).all() for split in SPLITS)
    write_phantoms(tmp_path / "set", config, workers=1)
    classes, confusion = load_reader_confusion(tmp_path / "set")
    assert [len(RadImageNet(tmp_path / "set", split)) for split in SPLITS] == [num_train] * 3
    assert classes == RadImageNet(tmp_path / "set", "test").classes
    assert confusion.shape == (len(classes), len(classes))
    assert confusion.sum(axis=1) == pytest.approx(np.ones(len(classes)), abs=1e-12)


def test_validation_and_test_are_never_set_right():
    config = PhantomConfig(num_train=165, num_val=165, num_test=165, reader_noise=1.0)
    latent, read = draw_classes(config), draw_readings(config)
    drawn = read_labels(latent["test"], np.arange(330, 495), reader_confusion(1.0), seed=0)
    assert np.array_equal(read["test"], drawn)
    assert (read["test"] != latent["test"]).sum() > 10


def test_an_absent_class_leaves_the_mass_of_the_others_as_it_was():
    brain = np.flatnonzero(ANATOMY == "brain")
    confusion = reader_confusion(1.0)
    fewer = reader_confusion(1.0, brain[:-3])
    assert fewer.diagonal() == pytest.approx(confusion[brain[:-3], brain[:-3]])
    assert fewer[0, 2] / fewer[0, 1] == pytest.approx(confusion[brain[0], brain[2]] / confusion[brain[0], brain[1]])
    assert np.array_equal(reader_confusion(1.0, brain[:1]), [[1.0]])  # alone in its anatomy


def test_another_format_or_split_is_refused_by_name(tmp_path, noisy_set):
    path = tmp_path / "reader_confusion.npz"
    np.savez(path, format=2, classes=["a", "b"], confusion=np.eye(2))
    with pytest.raises(ValueError, match=r"reader_confusion\.npz has format 2, expected 1"):
        load_reader_confusion(tmp_path)
    with np.load(noisy_set / path.name) as file:
        assert file["format"] == 1
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'dev'"):
        load_latent_classes(noisy_set, "dev")


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_share_outside_0_and_1_is_refused(value):
    with pytest.raises(ValueError, match="reader_noise must lie in"):
        PhantomConfig(reader_noise=value)
    with pytest.raises(ValueError, match="reader_noise must lie in"):
        reader_confusion(value)


def test_the_description_of_a_set_gives_the_posterior_that_the_set_ships(noisy_set):
    for split in SPLITS:
        confusion, rows = known_posterior(NOISY, split)
        assert np.array_equal(confusion, load_reader_confusion(noisy_set)[1])
        assert np.array_equal(rows, load_latent_classes(noisy_set, split))
