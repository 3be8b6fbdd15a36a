"""Nets whose answer is known: one looks at the lesion, one at a tag in the corner."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ols.data.loading import EvalLoader
from ols.data.sampling import EvalBatches
from ols.data.transforms import EvalTransform, Preprocessing
from ols.localisation.measurement import BASELINES, localise
from ols.localisation.regions import Boxes
from ols.localisation.summary import ahead_of, choose_thresholds, scores_at, summarise

PLACES = [(14, 10), (20, 22), (12, 30), (24, 18), (2, 5)]  # of lesions, from the left and from the top


class _Images:
    """Black images of 40 x 50 pixels with a gray lesion of 6 x 4; the last one is out of the crop's view."""

    classes, groups = ("healthy", "ill"), ("g", "g")
    targets = np.array([1, 0, 1, 1, 1])

    def __len__(self):
        return len(PLACES)

    def sample_id(self, index):
        return f"{index}.png"

    def read(self, index):
        x, y = PLACES[index]
        pixels = np.zeros((50, 40), np.uint8)
        pixels[y : y + 4, x : x + 6] = 200
        pixels[12:16, 30:34] = 255  # the tag
        return Image.fromarray(pixels)


class _Net(nn.Module):
    """Answers by the brightness of what is gray, or of what is white."""

    def __init__(self, threshold: float, sign: float):
        super().__init__()
        self.features, self.threshold, self.sign = nn.Identity(), threshold, sign

    def forward(self, images):
        bright = (images > 0.9) if self.sign > 0 else (images > 0) & (images < 0.9)
        found = self.features(images * bright)
        return torch.stack([found.mean(dim=(1, 2, 3)) * 0.1, found.mean(dim=(1, 2, 3))], dim=1)


@pytest.fixture
def boxes(tmp_path):
    lines = [f"{index}.png,{x},{y},6,4" for index, (x, y) in enumerate(PLACES)]
    path = tmp_path / "boxes.csv"
    path.write_text("\n".join(["filename,x,y,width,height", *lines]) + "\n")
    return Boxes(path)


def _localise(boxes, net, **options):
    preprocessing = Preprocessing(image_size=30, resize_size=40)
    batches = EvalBatches(np.arange(len(PLACES)), batch_size=2)
    loader = EvalLoader(_Images(), EvalTransform(preprocessing), batches)
    return localise(net, loader, boxes, layer="features", kind="hires_cam", **options)


LESION, TAG = _Net(0, -1), _Net(0, 1)


def test_a_net_that_looks_at_the_lesion_hits_it_and_one_that_looks_at_a_tag_does_not(boxes):
    thresholds = {name: 0.5 for name in ("hires_cam", *BASELINES)}
    scores = scores_at(_localise(boxes, LESION), thresholds)["hires_cam"]
    for measure, values in scores.items():
        np.testing.assert_allclose(values[:4], 1, err_msg=measure)
        assert np.isnan(values[4])
    scores = scores_at(_localise(boxes, TAG), thresholds)["hires_cam"]
    for measure in ("dice", "iou", "pointing", "energy"):
        assert scores[measure][:4].tolist() == [0, 0, 0, 0]


def test_boxes_go_through_the_resizing_and_the_crop_of_their_images(boxes):
    found = _localise(boxes, LESION)
    assert found.areas.tolist() == pytest.approx([24 / 900] * 4 + [0])
    assert found.indices.tolist() == [0, 1, 2, 3, 4]
    assert found.maps.shape == (5, 30, 30)
    for index, (x, y) in enumerate(PLACES[:4]):  # the crop begins at 5 from the left and 10 from the top
        rows, columns = found.maps[index].nonzero().unbind(dim=1)
        assert (int(columns.min()), int(rows.min())) == (x - 5, y - 10)


def test_an_image_with_an_empty_mask_is_counted_and_has_no_part(boxes, monkeypatch):
    expected, mask = _localise(boxes, LESION), boxes.mask
    monkeypatch.setattr(boxes, "mask", lambda name, size: Image.new("L", size) if name == "1.png" else mask(name, size))
    found = _localise(boxes, LESION)
    assert (found.empty, expected.empty, found.indices.tolist()) == (1, 0, [0, 2, 3, 4])
    for name, of_map in found.scores.items():
        for measure, values in of_map.items():
            np.testing.assert_array_equal(values, expected.scores[name][measure][[0, 2, 3, 4]])
    monkeypatch.setattr(boxes, "mask", lambda name, size: Image.new("L", size))
    with pytest.raises(ValueError, match="none of the 5 masks has a lesion"):
        _localise(boxes, LESION)


def test_the_class_is_the_one_asked_for_or_else_the_predicted_one(boxes):
    assert _localise(boxes, LESION).classes.tolist() == [1, 1, 1, 1, 0]  # of equal logits the first
    assert _localise(boxes, LESION, classes=_Images.targets).classes.tolist() == [1, 0, 1, 1, 1]


def test_the_threshold_is_the_one_with_the_largest_mean_dice(boxes):
    found = _localise(boxes, LESION)
    chosen = choose_thresholds(found)
    assert set(chosen) == {"hires_cam", *BASELINES}
    for name, threshold in chosen.items():
        means = found.scores[name]["dice"][:4].mean(axis=0)
        assert means[found.thresholds.index(threshold)] == means.max()


def test_means_and_differences_are_those_of_numpy_and_of_the_chosen_images(boxes):
    found = _localise(boxes, LESION)
    scores = scores_at(found, {})
    assert "dice" not in scores["hires_cam"]
    group = summarise(scores, chosen=[True, True, False, True, True], patients=["a", "a", "b", "c", "c"])
    assert (group.images, group.patients) == (3, 2)
    kept = [0, 1, 3]
    for name, of_map in scores.items():
        for measure, values in of_map.items():
            estimate = group.maps[name][measure]
            assert estimate.mean == pytest.approx(values[kept].mean())
    gap = scores["hires_cam"]["energy"][kept] - scores["centre_prior"]["energy"][kept]
    assert group.ahead["centre_prior"]["energy"].mean == pytest.approx(gap.mean())
    nobody = summarise(scores, chosen=np.zeros(5, bool))
    assert nobody.images == 0
    assert np.isnan(nobody.maps["hires_cam"]["energy"].mean)


def test_an_interval_draws_patients_and_not_images():
    rng = np.random.default_rng(0)
    of_patient = rng.random(40)
    values = np.repeat(of_patient, 10)
    scores = {"grad_cam": {"energy": values}}
    clustered = summarise(scores, patients=np.repeat(np.arange(40), 10)).maps["grad_cam"]["energy"]
    alone = summarise({"grad_cam": {"energy": of_patient}}).maps["grad_cam"]["energy"]
    naive = summarise(scores).maps["grad_cam"]["energy"]
    assert clustered.high - clustered.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert clustered.high - clustered.low > 2.5 * (naive.high - naive.low)  # by the root of 10


def test_an_interval_stays_where_scores_can_be_and_is_not_drawn_where_nothing_is_known():
    hits = np.array([1.0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    group = summarise({"grad_cam": {"energy": hits, "pointing": 0 * hits}, "centre_prior": {"energy": hits[::-1]}})
    hit, missed = group.maps["grad_cam"]["energy"], group.maps["grad_cam"]["pointing"]
    assert (hit.low, hit.mean) == (0, pytest.approx(1 / 6))
    assert hit.mean < hit.high < 1
    assert missed.mean == 0  # of 12, which does not say that it is 0 of all
    assert np.isnan([missed.low, missed.high]).all()
    ahead = group.ahead["centre_prior"]["energy"]
    assert ahead.low < 0 == ahead.mean < ahead.high
    few = summarise({"grad_cam": {"energy": hits}}, patients=np.arange(12) % 4).maps["grad_cam"]["energy"]
    assert np.isnan([few.low, few.high]).all()


def test_a_model_is_ahead_of_another_by_the_mean_difference_on_the_same_images():
    rng = np.random.default_rng(0)
    first, second = ({"energy": rng.random(30), "dice": rng.random(30)} for _ in range(2))
    first["energy"][4] = np.nan
    found = ahead_of(first, {"energy": second["energy"]}, patients=np.arange(30) // 2)
    assert list(found) == ["energy"]
    gaps = np.delete(first["energy"] - second["energy"], 4)
    assert found["energy"].mean == pytest.approx(gaps.mean())
    assert found["energy"].low < gaps.mean() < found["energy"].high
    with pytest.raises(ValueError, match="the same images of both models"):
        ahead_of(first, {"energy": np.zeros(3)})
