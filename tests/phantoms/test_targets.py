"""Phantoms with targets: what is written is what was drawn, and the truth is what the draws say."""

import csv
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from ols.data.sources.table import Table
from ols.phantoms.targets import LesionConfig, draw_images, draw_patient, write_lesion_phantoms

SMALL = LesionConfig(patients=12, image_size=48, without_lesion=0.2, seed=3)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("lesions")
    write_lesion_phantoms(root, SMALL)
    return root


def _rows(root):
    with open(root / "targets.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_same_set_has_the_same_bytes_and_a_patient_does_not_depend_on_how_many_there_are(written, tmp_path):
    write_lesion_phantoms(tmp_path / "again", SMALL)
    write_lesion_phantoms(tmp_path / "fewer", replace(SMALL, patients=4))
    for path in sorted(written.rglob("*")):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(written)).read_bytes() == path.read_bytes()
    for path in (tmp_path / "fewer" / "images").iterdir():
        assert (written / "images" / path.name).read_bytes() == path.read_bytes()


def test_boxes_and_areas_are_those_of_the_masks(written):
    rows = _rows(written)
    assert len({row["patient"] for row in rows}) == 12 < len(rows)
    for row in rows:
        mask = np.asarray(Image.open(written / row["mask"]))
        assert set(np.unique(mask)) <= {0, 255}
        assert float(row["lesion_area"]) == pytest.approx((mask > 0).mean(), abs=1e-6)
        if row["x0"]:
            x0, y0, x1, y1 = (int(row[name]) for name in ("x0", "y0", "x1", "y1"))
            inside = np.zeros_like(mask)
            inside[y0:y1, x0:x1] = 1
            assert not mask[inside == 0].any()
            assert all(mask[line].any() for line in ((y0,), (y1 - 1,), (slice(None), x0), (slice(None), x1 - 1)))
        else:
            assert not mask.any()
            assert row["malignant"] == "0"


def test_lesions_are_darker_than_the_tissue_at_their_depth(written):
    for row in _rows(written):
        pixels, mask = (np.asarray(Image.open(written / row[name])) for name in ("filename", "mask"))
        if mask.any():
            lines = (mask > 0).any(axis=1)
            fan = pixels[lines] > 8
            assert pixels[mask > 0].mean() < 0.75 * pixels[lines][fan & (mask[lines] == 0)].mean()


def test_the_truth_is_the_posterior_of_what_was_drawn():
    config = LesionConfig(patients=4000, separation=2.0, malignant=0.3)
    patients = [draw_patient(config, number) for number in range(config.patients)]
    malignant, posterior, suspicion = np.array([(p.malignant, p.posterior, p.suspicion) for p in patients]).T
    assert roc_auc_score(malignant, suspicion) == pytest.approx(NormalDist().cdf(2 / 2**0.5), abs=0.015)
    for low in (0.0, 0.2, 0.5, 0.8):
        within = (posterior >= low) & (posterior < low + 0.2)
        assert malignant[within].mean() == pytest.approx(posterior[within].mean(), abs=0.07)


def test_sex_is_independent_of_the_lesion_unless_it_is_asked_for():
    for share, expected in ((0.5, (0.5, 0.5)), (0.9, (0.9, 0.1))):
        config = LesionConfig(patients=2000, men_among_malignant=share)
        patients = [draw_patient(config, number) for number in range(config.patients)]
        men = [np.mean([p.man for p in patients if p.malignant is kind]) for kind in (True, False)]
        assert men == pytest.approx(expected, abs=0.05)


def test_pixels_tell_the_kind_of_a_lesion_and_the_sex_of_a_patient_but_not_without_error():
    images = list(draw_images(LesionConfig(patients=150, most_images=1)))
    area = np.array([image.mask.sum() for image in images])
    outline = [np.abs(np.diff(image.mask.astype(int), axis=axis)).sum() for image in images for axis in (0, 1)]
    roughness = np.array(outline).reshape(-1, 2).sum(axis=1) / np.sqrt(area)
    found = roc_auc_score([image.patient.malignant for image in images], roughness)
    assert 0.7 < found < 0.97
    bottom = [image.pixels[40:60, 20:44].mean(axis=1).argmax() for image in images]  # where the fascia shines
    assert roc_auc_score([not image.patient.man for image in images], bottom) > 0.75


def test_a_table_reads_them_as_any_task(written):
    table = Table(written / "targets.csv", kind="mask")
    assert table.has_patients
    assert {np.asarray(table.mask(i)).max() for i in range(len(table))} == {0, 255}
    assert Table(written / "targets.csv", targets=["malignant"]).classes == ["0", "1"]
    assert Table(written / "targets.csv", kind="regression", targets=["age"], side=["sex"]).side.shape == (
        len(table),
        1,
    )


def test_a_folder_with_something_else_is_left_alone(written, tmp_path):
    write_lesion_phantoms(written, SMALL)  # nothing to do
    with pytest.raises(ValueError, match="does not hold the phantoms asked for"):
        write_lesion_phantoms(written, replace(SMALL, seed=4))
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="choose another folder"):
        write_lesion_phantoms(tmp_path, SMALL)
    assert (tmp_path / "mine.txt").read_text() == "x"


@pytest.mark.parametrize("option", [{"patients": 0}, {"malignant": 1}, {"separation": -1}, {"without_lesion": 1}])
def test_impossible_sets_are_refused_by_name(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        LesionConfig(**option)
