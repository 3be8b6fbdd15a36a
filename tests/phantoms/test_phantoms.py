import csv
import json
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ols.phantoms import (
    ANATOMIES,
    LESIONS,
    PHANTOM_CLASSES,
    PhantomConfig,
    class_sizes,
    draw_classes,
    render_phantoms,
    rendering,
    write_phantoms,
    writing,
)

SMALL = PhantomConfig(num_train=180, num_val=165, num_test=170, image_size=32, seed=3)
EVERY_CLASS = np.arange(165)


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms") / "deep" / "set"
    write_phantoms(root, SMALL)
    return root


def files_of(root):
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def read_split(root, split):
    with open(root / f"RadiologyAI_{split}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def normal_of(k):
    return next(i for i, c in enumerate(PHANTOM_CLASSES) if c[2:] == (*PHANTOM_CLASSES[k][2:4], "", "none"))


def test_groups_have_the_sizes_of_radimagenet():
    groups = Counter((c.modality, c.folder.rpartition("/")[0]) for c in PHANTOM_CLASSES)
    assert groups == {
        ("CT", "CT/abd"): 28,
        ("CT", "CT/lung"): 6,
        ("MR", "MR/af"): 25,
        ("MR", "MR/brain"): 10,
        ("MR", "MR/hip"): 14,
        ("MR", "MR/knee"): 18,
        ("MR", "MR/abd"): 26,
        ("MR", "MR/shoulder"): 14,
        ("MR", "MR/spine"): 9,
        ("US", "US"): 15,
    }


def test_labels_and_lesions_are_unique_and_class_folders_are_not():
    assert len({c.label for c in PHANTOM_CLASSES}) == 165
    assert len({c.folder for c in PHANTOM_CLASSES}) == 165
    assert len({(c.anatomy, c.site, c.lesion) for c in PHANTOM_CLASSES}) == 165
    assert sum(c.folder.endswith("/normal") for c in PHANTOM_CLASSES) == len(ANATOMIES) == 10
    assert [c.label for c in PHANTOM_CLASSES] == sorted(c.label for c in PHANTOM_CLASSES)
    assert all(c.label.startswith(f"{c.anatomy}-") for c in PHANTOM_CLASSES)


def test_the_awkward_names_of_radimagenet_occur():
    names = [c.label.split("-", 1)[1] for c in PHANTOM_CLASSES]
    assert any(name.endswith("_") for name in names)
    assert any("++" in name for name in names)
    assert any(name != name.lower() for name in names)
    assert any("-" in name for name in names)


def test_every_class_names_a_shape_of_its_anatomy_and_a_lesion():
    shapes = {group.prefix: {shape.name for shape in group.shapes} for group in ANATOMIES}
    for c in PHANTOM_CLASSES:
        assert c.lesion in LESIONS
        assert c.lesion == "none" or c.site in shapes[c.anatomy], c.label


def test_an_image_depends_on_seed_index_and_class_alone():
    classes, indices = np.tile(EVERY_CLASS, 2), np.arange(330) + 10**9
    together = render_phantoms(classes, indices, SMALL)
    shuffled = np.random.default_rng(0).permutation(330)
    assert np.array_equal(render_phantoms(classes[shuffled], indices[shuffled], SMALL), together[shuffled])
    for i in range(0, 330, 33):
        assert np.array_equal(render_phantoms(classes[i : i + 1], indices[i : i + 1], SMALL)[0], together[i])


@pytest.mark.parametrize("chunk_pixels", [1, 7 * 32 * 32])
def test_the_chunk_size_changes_no_pixel(monkeypatch, chunk_pixels):
    expected = render_phantoms(EVERY_CLASS, EVERY_CLASS, SMALL)
    monkeypatch.setattr(rendering, "_CHUNK_PIXELS", chunk_pixels)
    assert np.array_equal(render_phantoms(EVERY_CLASS, EVERY_CLASS, SMALL), expected)


def test_seeds_and_indices_give_different_images():
    images = render_phantoms(EVERY_CLASS, EVERY_CLASS, SMALL)
    other_seed = render_phantoms(EVERY_CLASS, EVERY_CLASS, replace(SMALL, seed=4))
    other_index = render_phantoms(EVERY_CLASS, EVERY_CLASS + 165, SMALL)
    assert (images != other_seed).any(axis=(1, 2)).all()
    assert (images != other_index).any(axis=(1, 2)).all()
    classes = draw_classes(SMALL)["train"]
    assert not np.array_equal(classes, draw_classes(replace(SMALL, seed=4))["train"])


@pytest.mark.parametrize("image_size", [32, 64, 128])
def test_no_lesion_vanishes(image_size):
    """The same patient with and without the lesion: an area of at least eight pixels of 64 x 64 changes clearly."""
    config = PhantomConfig(image_size=image_size)
    patients = 3 if image_size < 128 else 1
    classes, indices = np.repeat(EVERY_CLASS, patients), np.tile(np.arange(patients), 165)
    healthy = np.repeat([normal_of(k) for k in EVERY_CLASS], patients)
    change = np.abs(
        render_phantoms(classes, indices, config).astype(float) - render_phantoms(healthy, indices, config)
    ).reshape(165, patients, -1)
    for k, c in enumerate(PHANTOM_CLASSES):
        if c.lesion == "none":
            assert change[k].max() == 0
        else:
            clearly = (change[k] > 20).mean(axis=-1) * 64**2  # in pixels of a 64 x 64 image
            assert clearly.min() >= 8, (c.label, clearly)
            assert change[k].mean() > 0.3, c.label


def test_classes_resemble_each_other_more_within_an_anatomy_than_across():
    config = PhantomConfig(image_size=32, noise=0)
    per_class = 4
    images = render_phantoms(np.repeat(EVERY_CLASS, per_class), np.arange(165 * per_class), config)
    similarity = np.corrcoef(images.reshape(165, per_class, -1).mean(axis=1))
    anatomy = np.array([c.anatomy for c in PHANTOM_CLASSES])
    same = anatomy[:, None] == anatomy[None]
    np.fill_diagonal(similarity, np.nan)
    within = np.nanmean(np.where(same, similarity, np.nan), axis=1)
    across = np.nanmean(np.where(same, np.nan, similarity), axis=1)
    assert (within > across + 0.2).all()
    assert (anatomy[np.nanargmax(similarity, axis=1)] == anatomy).all()  # the nearest class is one of its own anatomy


def test_the_same_patient_is_seen_at_every_size():
    small, large = (render_phantoms(EVERY_CLASS, EVERY_CLASS, PhantomConfig(image_size=s, noise=0)) for s in (32, 128))
    shrunk = large.reshape(165, 32, 4, 32, 4).mean(axis=(2, 4))
    correlation = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(small, shrunk, strict=True)]
    not_ultrasound = [c.modality != "US" for c in PHANTOM_CLASSES]  # speckle is finer than a small pixel
    assert min(np.array(correlation)[not_ultrasound]) > 0.95


def test_the_written_tree_reads_back(small_set):
    splits = draw_classes(SMALL)
    start = 0
    for split, num_images in (("train", 180), ("val", 165), ("test", 170)):
        rows = read_split(small_set, split)
        assert len(rows) == num_images
        assert [row["label"] for row in rows] == [PHANTOM_CLASSES[k].label for k in splits[split]]
        expected = render_phantoms(splits[split], np.arange(num_images) + start, SMALL)
        for row, k, image in zip(rows, splits[split], expected, strict=True):
            assert row["filename"].startswith(f"radiology_ai/{PHANTOM_CLASSES[k].folder}/")
            with Image.open(small_set / row["filename"]) as file:
                assert (file.mode, file.format) == ("L", "PNG")
                assert np.array_equal(np.asarray(file), image)
        start += num_images
    assert len(list(small_set.rglob("*.png"))) == start


def test_ultrasound_lies_one_level_higher(small_set):
    depths = Counter()
    for row in read_split(small_set, "train"):
        parts = row["filename"].split("/")
        depths[parts[1], len(parts)] += 1
    assert set(depths) == {("CT", 5), ("MR", 5), ("US", 4)}


def test_any_number_of_workers_writes_the_same_files(small_set, tmp_path):
    write_phantoms(tmp_path / "set", SMALL, workers=2)
    assert files_of(tmp_path / "set") == files_of(small_set)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_second_write_does_nothing(small_set, monkeypatch):
    def refuse(*_):
        raise AssertionError("rendered again")

    monkeypatch.setattr(writing, "render_phantoms", refuse)
    before = {path: path.stat().st_mtime_ns for path in small_set.rglob("*")}
    write_phantoms(small_set, SMALL)
    assert {path: path.stat().st_mtime_ns for path in small_set.rglob("*")} == before


def test_another_config_is_refused_and_nothing_is_touched(small_set):
    before = files_of(small_set)
    with pytest.raises(ValueError, match=r"set does not hold .* its contrast is .*, not 0\.9"):
        write_phantoms(small_set, replace(SMALL, contrast=0.9))
    assert files_of(small_set) == before
    assert [path.name for path in small_set.parent.iterdir()] == ["set"]


def test_a_foreign_folder_or_format_is_refused_and_nothing_is_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"it has no phantoms\.json"):
        write_phantoms(tmp_path, SMALL)
    (tmp_path / "phantoms.json").write_text(json.dumps({"format": 99, "config": {}}))
    with pytest.raises(ValueError, match="its format is 99"):
        write_phantoms(tmp_path, SMALL)
    (tmp_path / "phantoms.json").write_text("half a fi")
    with pytest.raises(ValueError, match="is not a JSON object"):
        write_phantoms(tmp_path, SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["phantoms.json", "thesis.txt"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch, workers):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(writing, "render_phantoms", fail)
    monkeypatch.setattr(sys, "executable", "false")  # what workers run
    with pytest.raises((OSError, RuntimeError)):
        write_phantoms(tmp_path / "set", SMALL, workers=workers)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("imbalance", [1, 20, 5000])
@pytest.mark.parametrize("num_images", [165, 166, 1000, 123_457])
def test_class_sizes_fall_from_normals_to_the_rarest(num_images, imbalance):
    sizes = class_sizes(num_images, imbalance)
    assert sizes.sum() == num_images
    assert sizes.min() >= 1
    normals = np.array([c.lesion == "none" for c in PHANTOM_CLASSES])
    assert sizes[normals].min() >= sizes[~normals].max()
    larger = class_sizes(num_images, imbalance * 2)
    assert larger.max() >= sizes.max()
    assert larger.min() <= sizes.min()


def test_imbalance_is_the_ratio_of_the_commonest_to_the_rarest():
    sizes = np.sort(class_sizes(1_000_000, 50))
    assert sizes[-1] / sizes[0] == pytest.approx(50, rel=0.02)
    steps = sizes[1:] / sizes[:-1]
    assert steps == pytest.approx(np.full(164, 50 ** (1 / 164)), rel=2e-3)  # the same factor from each to the next


def test_every_class_is_in_every_split_from_165_images_on():
    for classes in draw_classes(PhantomConfig(num_train=200, num_val=165, num_test=165)).values():
        assert set(classes) == set(range(165))


def test_a_tiny_split_holds_one_image_each_of_the_commonest_classes():
    splits = draw_classes(PhantomConfig(num_train=50, num_val=12, num_test=12))
    assert len(set(splits["train"])) == 50
    assert {c.label for c in PHANTOM_CLASSES if c.lesion == "none"} <= {PHANTOM_CLASSES[k].label for k in splits["val"]}
    assert set(splits["val"]) | set(splits["test"]) <= set(splits["train"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_train", 0),
        ("num_val", 0),
        ("num_test", -1),
        ("image_size", 8),
        ("image_size", 2048),
        ("seed", -1),
        ("seed", 2**64),
        ("contrast", 0.0),
        ("contrast", 1.5),
        ("jitter", -0.1),
        ("jitter", float("nan")),
        ("noise", -1.0),
        ("imbalance", 0.5),
    ],
)
def test_a_bad_value_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"^{field} must lie in"):
        replace(PhantomConfig(), **{field: value})


def test_zero_workers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="workers must be at least 1"):
        write_phantoms(tmp_path / "set", SMALL, workers=0)


def test_a_split_may_not_name_classes_that_training_lacks():
    with pytest.raises(ValueError, match="num_test must not exceed num_train"):
        PhantomConfig(num_train=50, num_val=50, num_test=60)
    PhantomConfig(num_train=165, num_val=10_000, num_test=10_000)
