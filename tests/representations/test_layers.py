"""Features by layer against timm's own, whichever order of axes a family has, and points by what they must keep."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from ols.data.loading import EvalLoader
from ols.data.sampling import EvalBatches
from ols.data.transforms import EvalTransform, Preprocessing
from ols.models.build import build_model
from ols.models.decoder import UNet
from ols.representations.layers import LayerShape, draw_points, layer_names, layer_shapes, read_layers


class _Batches:
    """Images as a loader gives them, in batches of two sizes."""

    def __init__(self, images, first=3):
        self.images, self.first, self.num_samples = images, first, len(images)

    def __iter__(self):
        yield {"image": self.images[: self.first]}
        yield {"image": self.images[self.first :]}


def _images(count=5, channels=3, size=160):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("test_resnet", ("act1", 32)),
        ("test_vit", ("patch_embed", 64)),
        ("test_convnext", ("stem", 24)),
        ("test_efficientnet", ("bn1", 24)),
        ("test_mambaout", ("stem", 16)),
    ],
)
def test_stem_and_stages_are_timms_features_at_every_position(name, stem):
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    images, names = _images(2), layer_names(model)
    assert names[0] == stem[0]
    shapes = layer_shapes(model, names, {"image": images[:1]})
    with torch.no_grad():
        maps = model.forward_intermediates(images, norm=False, output_fmt="NCHW", intermediates_only=True)
    for layer, expected in zip(names[-len(maps) :], maps, strict=True):
        assert shapes[layer] == (*expected.shape[2:], expected.shape[1])
        points = draw_points(2, [shapes[layer]], rows=10**6)
        found = read_layers(model, _Batches(images, 1), [layer], points)[layer]
        whole = expected.permute(0, 2, 3, 1).reshape(-1, expected.shape[1])  # image, row, column
        np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5)
    assert shapes[names[0]].features == stem[1]


def test_features_do_not_depend_on_the_batches_they_are_streamed_in():
    torch.manual_seed(0)
    model = timm.create_model("test_resnet").double().train()
    images, names = _images(6).double(), layer_names(model)
    points = draw_points(6, layer_shapes(model, names, {"image": images[:1]}).values(), rows=40)
    assert points.rows == 36
    found = [read_layers(model, _Batches(images, first), names, points) for first in (1, 4)]
    assert model.training
    for name in names:
        assert len(found[0][name]) == 36
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=0, atol=1e-10)


class _Coordinates(nn.Module):
    """Layers of three sizes that give the row and column of each position, from 0 to 1, and the image's level."""

    def __init__(self):
        super().__init__()
        self.fine, self.middle, self.coarse = nn.AvgPool2d(1), nn.AvgPool2d(2), nn.AvgPool2d(4)
        self.vector = nn.Flatten()

    def forward(self, images):
        for layer in (self.fine, self.middle, self.coarse):
            layer(images)
        return self.vector(images.mean((2, 3)))


def _coordinates(count, size=16):
    middle = (torch.arange(size) + 0.5) / size
    rows, columns = torch.meshgrid(middle, middle, indexing="ij")
    levels = torch.arange(count)[:, None, None].expand(count, size, size)
    return torch.stack([rows.expand_as(levels), columns.expand_as(levels), levels], 1).float()


@pytest.mark.parametrize("rows", [60 * 16, 60 * 3])
def test_a_row_of_every_layer_is_of_the_same_place_of_the_same_image(rows):
    model, images = _Coordinates(), _coordinates(60)
    names = ["fine", "middle", "coarse"]
    points = draw_points(60, layer_shapes(model, names, {"image": images}).values(), rows=rows)
    assert points.rows == rows
    found = read_layers(model, _Batches(images), names, points)
    places = points.places.reshape(-1, 2)
    for name, positions in zip(names, (16, 8, 4), strict=True):
        assert np.abs(found[name][:, :2] - places).max() <= 0.5 / positions + 1e-6
        assert found[name][:, 2].tolist() == np.repeat(np.arange(60), rows // 60).tolist()
    # two points of an image are never in one position of the coarsest layer
    for image in found["coarse"].reshape(60, -1, 3):
        assert len(np.unique(image, axis=0)) == rows // 60


def test_where_not_all_positions_fit_each_has_its_part_and_chance_keeps_to_it():
    points = draw_points(1000, [LayerShape(4, 4, 8), LayerShape(8, 8, 8)], rows=3000, seed=1)
    assert points.per_image == 3
    cells = (points.places * 4).astype(int) @ [4, 1]  # [N, 3]
    counts = np.bincount(cells.ravel(), minlength=16)
    assert counts.min() > 100
    order = points.permuted(0, seed=1)
    assert sorted(order.tolist()) == list(range(3000))
    assert (order.reshape(1000, 3) // 3 == order.reshape(1000, 3)[:, :1] // 3).all()  # images stay whole
    np.testing.assert_array_equal(points.places.reshape(-1, 2)[order], points.places.reshape(-1, 2))
    assert (order != np.arange(3000)).mean() > 0.95
    assert (points.permuted(1, seed=1) != order).any()
    assert (points.permuted(0, seed=1) == order).all()


def test_beside_a_vector_maps_are_averaged():
    model, images = _Coordinates(), _coordinates(5)
    names = ["fine", "vector"]
    points = draw_points(5, layer_shapes(model, names, {"image": images}).values(), rows=1000)
    found = read_layers(model, _Batches(images), names, points)
    np.testing.assert_allclose(found["fine"], images.mean((2, 3)), rtol=1e-6)
    np.testing.assert_array_equal(found["fine"], found["vector"])


def test_a_loader_and_a_network_below_a_decoder_are_read():
    class Images:
        classes, groups, targets = ["a"], ["g"], np.zeros(4, np.int64)

        def __len__(self):
            return 4

        def read(self, index):
            return Image.fromarray(np.random.default_rng(index).integers(0, 255, (40, 40)).astype(np.uint8))

    torch.manual_seed(0)
    model = UNet("test_resnet", 1, in_chans=1)
    loader = EvalLoader(Images(), EvalTransform(Preprocessing(32, 40)), EvalBatches(np.arange(4), batch_size=3))
    names = layer_names(model)
    points = draw_points(4, layer_shapes(model, names, loader.zeros(1)).values(), rows=4)
    found = read_layers(model, loader, names, points)
    assert {name: rows.shape for name, rows in found.items()} == {
        entry["module"]: (4, entry["num_chs"]) for entry in model.encoder.feature_info
    }


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["layer5"], r"ResNet has no layer 'layer5'; did you mean layer\d"),
        (["act1", ""], "ResNet has no layer ''"),
        (["twice"], "layer twice is used several times"),
        (["never"], "layer never has no part in a pass"),
    ],
)
def test_a_layer_that_gives_no_features_is_named(layers, message):
    model = build_model("test_resnet", 2)
    model.twice, model.never = nn.ReLU(), nn.ReLU()
    model.act1 = nn.Sequential(model.twice, model.twice)
    with pytest.raises(ValueError, match=message):
        layer_shapes(model, layers, {"image": _images(1, 1, 32)})
    assert not [module for module in model.modules() if module._forward_hooks]


def test_images_and_points_have_to_be_as_many():
    model = build_model("test_resnet", 2)
    points = draw_points(4, [LayerShape(2, 2, 8)], rows=16)
    with pytest.raises(ValueError, match="expected 4 images, which points are of, got 5"):
        read_layers(model, _Batches(_images(5, 1, 32)), ["layer1"], points)
    with pytest.raises(ValueError, match="a row for each image: 1 layers, 4 images, 3 rows"):
        draw_points(4, [LayerShape(2, 2, 8)], rows=3)
    with pytest.raises(ValueError, match="timm names no features of a Sequential"):
        layer_names(nn.Sequential(nn.Flatten()))
