import numpy as np
import pytest
import timm
import torch
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM, HiResCAM, LayerCAM
from torch import nn

from ols.localisation.activation_maps import activation_maps, enlarge, last_feature_layer
from ols.localisation.baselines import input_gradient
from ols.models.truncation import truncate

INNER = {"test_resnet": "layer2", "test_efficientnet": "blocks.2", "test_convnext": "stages.1"}
REFERENCES = {"grad_cam": GradCAM, "hires_cam": HiResCAM, "layer_cam": LayerCAM}
STUDIED = ["resnet50", "densenet121", "inception_v3", "inception_v4", "inception_resnet_v2", "vgg16", "mnasnet_100"]
STUDIED += ["efficientnet_b0", "tf_efficientnet_lite0", "mobilenetv2_100", "mobilenetv3_large_100", "resnet18"]
CLASSES = torch.tensor([3, 0, 4])


def _build(name: str = "test_resnet") -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, in_chans=1)
    for module in model.modules():  # of a fresh net all are 0 and 1
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model.double().eval()


def _images() -> torch.Tensor:
    return torch.randn(3, 1, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("where", ["last", "inner"])
@pytest.mark.parametrize("name", INNER)
def test_grad_cam_is_captums(name, where):
    model, images = _build(name), _images()
    layer = last_feature_layer(model) if where == "last" else INNER[name]
    reference = LayerGradCam(model, model.get_submodule(layer))
    expected = reference.attribute(images, CLASSES, relu_attributions=True)[:, 0].detach()
    found = activation_maps(model, images, CLASSES, layer=layer if where == "inner" else None)
    assert float(expected.amax()) > 0
    torch.testing.assert_close(found.maps, expected, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(found.logits, model(images).detach())


@pytest.mark.parametrize("kind", REFERENCES)
@pytest.mark.parametrize("name", INNER)
def test_enlarged_maps_are_those_of_pytorch_grad_cam(name, kind):
    model, images = _build(name), _images()
    with REFERENCES[kind](model, [model.get_submodule(INNER[name])]) as reference:
        # It adds 1e-7 to what it divides by, which is much beside the logits of a fresh net
        targets = [lambda logits, number=number: 1e6 * logits[number] for number in CLASSES]
        expected = reference(images, targets)  # from 0 to 1
    maps = enlarge(activation_maps(model, images, CLASSES, kind=kind, layer=INNER[name]).maps, (64, 64))
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    assert float((high - low).amax()) > 0
    scaled = (maps - low) / (high - low).clamp(min=1e-30)  # a map that is 0 everywhere stays so
    np.testing.assert_allclose(scaled.numpy(), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIED)
def test_the_nets_of_the_studies_have_a_last_feature_map_and_captums_grad_cam_of_it(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, in_chans=1).double().eval()
    images, classes = torch.randn(2, 1, 128, 128, dtype=torch.float64), torch.tensor([2, 0])
    found = activation_maps(model, images, classes)
    reference = LayerGradCam(model, model.get_submodule(last_feature_layer(model)))
    expected = reference.attribute(images, classes, relu_attributions=True)[:, 0].detach()
    assert min(found.maps.shape[1:]) >= 2
    assert float(expected.amax()) > 0
    torch.testing.assert_close(found.maps, expected, rtol=1e-5, atol=1e-5 * float(expected.amax()))


def test_a_batch_has_the_maps_of_its_images_and_by_default_of_the_class_that_is_predicted():
    model, images = _build(), _images()
    together = activation_maps(model, images)
    assert torch.equal(together.classes, model(images).argmax(dim=1))
    alone = [
        activation_maps(model, image[None], number[None])
        for image, number in zip(images, together.classes, strict=True)
    ]
    torch.testing.assert_close(together.maps, torch.cat([found.maps for found in alone]))


def test_a_model_is_left_as_it_was_whatever_happens():
    model, images = _build().float().train(), _images().float()
    model.layer1.eval()
    model.conv1.requires_grad_(False)
    model(images).sum().backward()
    modes = [module.training for module in model.modules()]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    activation_maps(model, images)
    input_gradient(model, images)
    with pytest.raises(ValueError, match=r"gives \[3, 5\], no feature map"):
        activation_maps(model, images, layer="fc")
    with pytest.raises(RuntimeError):
        activation_maps(model, images[:, :, 0])  # torch refuses their shape
    assert torch.is_grad_enabled()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is None if gradient is None else torch.equal(parameter.grad, gradient)


def test_neither_frozen_layers_nor_the_mode_of_autograd_matter():
    model, images = _build(), _images()
    expected = activation_maps(model, images).maps
    model.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(activation_maps(model, images).maps, expected)
    with torch.inference_mode():
        assert torch.equal(activation_maps(model, images * 1).maps, expected)
        assert input_gradient(model, images * 1).shape == (3, 64, 64)


def test_a_layer_may_be_overwritten_by_the_next():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.randn(2, 1, 8, 8)
    found = activation_maps(model, images, torch.tensor([1, 2]), kind="hires_cam", layer="0").maps
    features = model[0](images)
    expected = torch.stack([features[0, 1], features[1, 2]]).relu() / 36  # the mean over 6 x 6 places
    torch.testing.assert_close(found, expected.detach())


class _Looks(nn.Module):
    """Class 1 is the brightness of the brightest place, class 0 the darkness of the darkest."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(1, 2, 4, stride=4, bias=False)
        nn.init.constant_(self.features.weight, 1 / 16)
        self.features.weight.data[0] *= -1

    def forward(self, images):
        return self.features(images).relu().amax(dim=(2, 3))


@pytest.mark.parametrize("kind", ["hires_cam", "layer_cam"])
def test_a_net_that_looks_at_the_lesion_is_seen_to(kind):
    images = torch.zeros(2, 1, 32, 32)
    images[0, 0, 4:8, 20:24] = 1
    images[0, 0, 16:20, 8:12] = 0.5  # seen, and not what is answered
    images[1, 0, 24:28, 0:4] = -1
    found = activation_maps(_Looks(), images, layer="features", kind=kind)
    assert found.classes.tolist() == [1, 0]
    assert found.maps.nonzero().tolist() == [[0, 1, 5], [1, 6, 0]]
    gradient = input_gradient(_Looks(), images)
    assert gradient[0].nonzero().tolist() == [[y, x] for y in range(4, 8) for x in range(20, 24)]


def test_the_gradient_of_a_linear_net_is_the_size_of_its_weights():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 9, 4))
    found = input_gradient(model, torch.randn(2, 2, 3, 3), torch.tensor([3, 0]))
    expected = model[1].weight.detach()[[3, 0]].view(2, 2, 3, 3).abs().amax(dim=1)
    torch.testing.assert_close(found, expected)


def test_a_truncated_net_shows_its_last_block():
    model = timm.create_model("test_efficientnet", num_classes=2, in_chans=1)
    truncate(model, "blocks.2", 2)
    assert last_feature_layer(model) == "blocks.2"
    assert activation_maps(model, torch.randn(1, 1, 64, 64)).maps.ndim == 3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("test_resnet", {"kind": "gradcam"}, "unknown kind of activation map 'gradcam'; known: grad_cam, hires_cam"),
        ("test_resnet", {"layer": "layer9"}, "ResNet has no layer 'layer9'"),
        ("test_resnet", {"classes": torch.tensor([0, 5, 1])}, r"classes must lie in \[0, 5\), got 0 to 5"),
        ("test_resnet", {"classes": torch.tensor([0])}, r"a class index of each of 3 images, got \[1\]"),
        ("test_vit", {}, r"layer 'blocks.5' of VisionTransformer gives \[3, .*\], no feature map"),
        ("test_mambaout", {}, "MambaOut has features NHWC, an activation map needs NCHW"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_its_name(name, options, message):
    model = timm.create_model(name, num_classes=5, in_chans=1, **({"img_size": 64} if name == "test_vit" else {}))
    with pytest.raises(ValueError, match=message):
        activation_maps(model, torch.zeros(3, 1, 64, 64), **options)


def test_a_layer_that_is_used_twice_or_not_at_all_is_refused():
    shared = nn.Conv2d(1, 1, 1)
    twice = nn.Sequential(shared, shared, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="layer '0' of Sequential is used more than once"):
        activation_maps(twice, torch.zeros(1, 1, 4, 4), layer="0")
    model = _build()
    model.spare = nn.Conv2d(1, 1, 1)
    with pytest.raises(ValueError, match="layer 'spare' of ResNet has no part in its logits"):
        activation_maps(model, _images(), layer="spare")
