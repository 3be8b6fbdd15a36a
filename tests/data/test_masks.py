"""A mask goes wherever its image goes."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from ols.data.augmentation import Augmentation
from ols.data.loading import TransformedImages
from ols.data.options import AugmentationOptions
from ols.data.transforms import EvalTransform, Preprocessing, TrainTransform


class Blobs:
    """White shapes on black whose mask is where they are white."""

    kind = "mask"
    groups = ("US",)

    def __init__(self, count: int = 12, classes=("blob",), value: int = 255):
        rng = np.random.default_rng(0)
        self.classes, self.value = list(classes), value
        self.targets = np.zeros(count, np.int64)
        self.images = []
        for _ in range(count):
            noise = Image.fromarray(rng.integers(0, 256, (60, 80), dtype=np.uint8))
            smooth = np.asarray(noise.filter(ImageFilter.GaussianBlur(9)))
            self.images.append(Image.fromarray((smooth > np.median(smooth)).astype(np.uint8) * 255))

    def __len__(self) -> int:
        return len(self.targets)

    def read(self, index: int) -> Image.Image:
        return self.images[index]

    def mask(self, index: int) -> Image.Image:
        return Image.fromarray((np.asarray(self.images[index]) > 0).astype(np.uint8) * self.value)

    def sample_id(self, index: int) -> str:
        return str(index)


def _batch(source, transform, augment: str = "none", epoch: int = 3):
    augmentation = Augmentation(AugmentationOptions(augment=augment), seed=5) if augment != "none" else None
    images = TransformedImages(source, transform, augmentation=augmentation)
    return images.__getitems__([(epoch, index) for index in range(len(source))])


@pytest.mark.parametrize("aspect", ["shorter", "longest", "squash"])
def test_a_mask_is_cropped_and_flipped_with_its_image(aspect):
    preprocessing = Preprocessing(image_size=48, resize_size=60, aspect=aspect)
    batch = _batch(Blobs(), TrainTransform(preprocessing, seed=1))
    white, target = batch["image"][:, 0] > 127, batch["target"]
    assert (target.dtype, target.shape) == (torch.int64, (12, 48, 48))
    assert target.unique().tolist() == [0, 1]
    assert (
        float((white == target.bool()).double().mean()) > 0.97
    )  # a border is bilinear in one and nearest in the other
    central = _batch(Blobs(), EvalTransform(preprocessing))["target"]
    assert not torch.equal(central, target)


def test_without_resizing_every_pixel_of_a_mask_is_that_of_its_image():
    batch = _batch(Blobs(), TrainTransform(Preprocessing(image_size=40, resize_size=60), seed=1))
    assert torch.equal(batch["image"][:, 0] == 255, batch["target"].bool())


@pytest.mark.parametrize("augment", ["radiology", "randaugment"])
def test_a_mask_is_augmented_as_its_image_is_and_no_image_is_changed_by_having_one(augment):
    source, transform = Blobs(), EvalTransform(Preprocessing(image_size=60, resize_size=60))
    plain = _batch(source, transform)["target"]
    batch = _batch(source, transform, augment)
    moved = (batch["target"] != plain).flatten(1).any(dim=1)
    assert moved.sum() >= 4
    agreeing = ((batch["image"][:, 0] > 127) == batch["target"].bool()).flatten(1).double().mean(dim=1)
    if augment == "radiology":  # the other inverts and solarises
        assert float(agreeing.min()) > 0.93
    source.kind = "class"
    assert torch.equal(_batch(source, transform, augment)["image"], batch["image"])


def test_a_mask_of_several_classes_keeps_them_and_one_too_many_is_refused_by_the_name_of_its_image():
    transform = EvalTransform(Preprocessing(image_size=48, resize_size=50))
    assert _batch(Blobs(classes=["a", "b"], value=2), transform)["target"].unique().tolist() == [0, 2]
    with pytest.raises(ValueError, match="the mask of 0 has class 3, the largest is 2"):
        _batch(Blobs(classes=["a", "b"], value=3), transform)
