import numpy as np
import pytest
import torch
from PIL import Image

from ols.data.transforms import EvalTransform, Preprocessing, TrainTransform
from ols.models.build import build_model
from ols.representations.features import cached_features


class _Images:
    """Five gray images in memory, which counts how often one is read."""

    classes, groups = ("a", "b"), ("g", "g")
    targets = np.array([0, 1, 0, 1, 0])

    def __init__(self):
        self.reads, self.state = 0, "1"

    def __len__(self):
        return 5

    def sample_id(self, index):
        return f"image {index}"

    def content(self):
        return self.state

    def read(self, index):
        self.reads += 1
        pixels = np.random.default_rng(index).integers(0, 255, (40, 40)).astype(np.uint8)
        return Image.fromarray(pixels)


PREPROCESSING = Preprocessing(image_size=32, resize_size=40)
EVAL = EvalTransform(PREPROCESSING)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model("test_resnet", 3).train()


def test_features_are_what_timm_gives_before_the_head(model, tmp_path):
    source = _Images()
    (features,) = cached_features(tmp_path, model, source, [EVAL], weights="w", batch_size=2)
    arrays = np.stack([np.asarray(source.read(index))[4:36, 4:36] for index in range(5)])
    images = torch.from_numpy(arrays)[:, None] / 127.5 - 1
    assert model.training
    model.eval()
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_an_image_is_read_once_for_each_view_and_never_again(model, tmp_path):
    source = _Images()
    views = [EVAL, TrainTransform(PREPROCESSING, seed=1), TrainTransform(PREPROCESSING, seed=2)]
    first = cached_features(tmp_path, model, source, views, weights="w")
    assert first.shape[:2] == (3, 5)
    assert source.reads == 15
    assert not torch.equal(first[1], first[2])
    assert torch.equal(cached_features(tmp_path, model, source, views, weights="w"), first)
    assert source.reads == 15


def test_other_weights_images_or_transforms_are_other_features(model, tmp_path):
    source = _Images()
    cached_features(tmp_path, model, source, [EVAL], weights="w")
    cached_features(tmp_path, model, source, [EVAL], weights="other")
    assert source.reads == 10
    smaller = EvalTransform(Preprocessing(image_size=24, resize_size=40))
    cached_features(tmp_path, model, source, [smaller], weights="w")
    assert source.reads == 15
    source.state = "2"
    cached_features(tmp_path, model, source, [EVAL], weights="w")
    assert source.reads == 20


def test_a_damaged_file_is_computed_anew(model, tmp_path):
    source = _Images()
    before = cached_features(tmp_path, model, source, [EVAL], weights="w")
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert torch.equal(cached_features(tmp_path, model, source, [EVAL], weights="w"), before)
    assert source.reads == 10


def test_views_that_are_the_same_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="views that differ; got 2"):
        cached_features(tmp_path, model, _Images(), [EVAL, EVAL], weights="w")
