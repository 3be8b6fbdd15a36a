import json
import subprocess
import sys
from hashlib import sha256

import pytest
import torch
from safetensors.torch import load_file, save_file

from ols.config import ModelConfig
from ols.data.transforms import Preprocessing
from ols.models.build import build_model
from ols.models.origin import origin_of
from ols.runs.export import export_model, load_export, start_from_export, start_model, start_normalization

WITHOUT_OLS = """
import sys, timm, torch
from safetensors.torch import load_file, save_file
sys.modules["ols"] = None  # importing it would fail
model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
data = timm.data.resolve_data_config(model=model)
assert list(data["input_size"]) == [1, 32, 32], data
assert (list(data["mean"]), list(data["std"]), data["crop_pct"]) == ([0.5], [0.5], 0.8), data
assert model.pretrained_cfg["label_names"] == ["a", "b", "c"], model.pretrained_cfg
with torch.no_grad():
    save_file({"logits": model(load_file(sys.argv[2])["images"])}, sys.argv[3])
"""


DESCRIPTION = {
    "architecture": "test_resnet",
    "classes": ["a", "b", "c"],
    "groups": ["CT/x", "CT/x", "US"],
    "preprocessing": Preprocessing(image_size=32, resize_size=40),
    "metrics": {"test/top1": 0.5},
    "task": "multiclass",
}


@pytest.fixture
def exported(tmp_path):
    model = build_model("test_resnet", 3, 1)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.add_(torch.rand(buffer.shape))
    export_model(tmp_path / "export", model, **DESCRIPTION)
    return model.eval(), tmp_path


def test_timm_loads_an_export_without_this_package(exported):
    model, folder = exported
    images = torch.randn(2, 1, 32, 32)
    save_file({"images": images}, folder / "in.safetensors")
    command = [
        sys.executable,
        "-c",
        WITHOUT_OLS,
        folder / "export",
        folder / "in.safetensors",
        folder / "out.safetensors",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(load_file(folder / "out.safetensors")["logits"], expected, rtol=0, atol=0)


def test_an_export_reads_back_with_everything_that_inference_needs(exported):
    model, folder = exported
    loaded, config = load_export(folder / "export")
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert config["ols"]["groups"] == ["CT/x", "CT/x", "US"]
    assert Preprocessing(**config["ols"]["preprocessing"]) == Preprocessing(32, 40)
    assert config["ols"]["metrics"] == {"test/top1": 0.5}


def test_loading_an_export_leaves_the_random_numbers_alone(exported):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_export(exported[1] / "export")
    assert torch.equal(torch.rand(3), expected)


def test_what_is_no_export_is_named(exported):
    _, folder = exported
    with pytest.raises(FileNotFoundError, match=r"no export in .*nowhere: config\.json is missing"):
        load_export(folder / "nowhere")
    path = folder / "export" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ols": {"format": 2}}))
    with pytest.raises(ValueError, match="has export format 2, expected 1"):
        load_export(folder / "export")


def test_a_model_starts_from_an_export_with_a_new_head_for_other_classes(exported):
    trained, folder = exported
    same, other = build_model("test_resnet", 3, 1).eval(), build_model("test_resnet", 5, 1)
    head = {name: value.clone() for name, value in other.state_dict().items() if name.startswith("fc.")}
    line = start_from_export(same, folder)
    assert line.startswith(f"start {len(trained.state_dict())} tensors of {folder / 'export'}; sha256 ")
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(same(images), trained(images))
    assert "; new: fc.weight, fc.bias; sha256" in start_from_export(other, folder / "export")
    for name, value in other.state_dict().items():
        assert torch.equal(value, head[name] if name in head else trained.state_dict()[name]), name


def test_an_export_says_where_its_weights_come_from_through_every_start(exported):
    trained, folder = exported
    save_file(trained.state_dict(), folder / "weights.safetensors")
    sums = [sha256((folder / "weights.safetensors").read_bytes()).hexdigest()]
    start = f"imagenet:{folder / 'weights.safetensors'}"
    for number in range(2):
        model = build_model("test_resnet", 3 + number, 1)
        line = start_model(model, start)
        export = folder / f"export{number}"
        export_model(export, model, **DESCRIPTION | {"classes": list("abcd")[: 3 + number]})
        assert line.endswith(f"; sha256 {sums[0]}")
        assert [said.rpartition("sha256 ")[2] for said in load_export(export)[1]["ols"]["origin"]] == sums
        assert origin_of(load_export(export)[0])[0] == line
        sums.insert(0, sha256((export / "model.safetensors").read_bytes()).hexdigest())
        start = f"run:{export}"
    assert origin_of(build_model("test_resnet", 3, 1)) == ()


def test_a_gray_image_gives_in_rgb_what_it_gave_before_and_back_again(exported):
    trained, folder = exported
    images = torch.randn(2, 1, 32, 32)
    rgb = build_model("test_resnet", 3, 3).eval()
    assert "; conv1.0.weight adapted from 1 to 3 channels" in start_from_export(rgb, folder)
    torch.testing.assert_close(rgb(images.expand(-1, 3, -1, -1)), trained(images))
    preprocessing = Preprocessing(image_size=32, resize_size=40, in_chans=3)
    export_model(
        folder / "rgb" / "export",
        rgb,
        architecture="test_resnet",
        classes=["a", "b", "c"],
        groups=["x"] * 3,
        preprocessing=preprocessing,
        metrics={},
        task="multiclass",
        task_state={},
    )
    gray = build_model("test_resnet", 3, 1).eval()
    assert "; conv1.0.weight adapted from 3 to 1 channels" in start_from_export(gray, folder / "rgb")
    torch.testing.assert_close(gray(images), trained(images))


def test_an_export_is_read_from_its_safetensors_alone_and_strictly(exported):
    _, folder = exported
    path = folder / "export" / "model.safetensors"
    weights = load_file(path)
    save_file({name: value for name, value in weights.items() if name != "fc.bias"}, path)
    config = json.loads((folder / "export" / "config.json").read_text())
    config["pretrained_cfg"]["pretrained_strict"] = False
    (folder / "export" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"(?s)does not hold the weights of test_resnet: .*fc\.bias"):
        load_export(folder / "export")
    path.rename(folder / "export" / "pytorch_model.bin")
    for load in (load_export, lambda export: start_from_export(build_model("test_resnet", 3, 1), export)):
        with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
            load(folder / "export")


def test_weights_say_which_mean_and_standard_deviation_they_expect(exported, tmp_path):
    _, folder = exported
    rgb = Preprocessing(32, 40, 3, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))
    details = {"architecture": "test_resnet", "classes": ["a", "b", "c"], "groups": ["x"] * 3, "metrics": {}}
    model = build_model("test_resnet", 3, 3)
    export_model(tmp_path / "rgb", model, preprocessing=rgb, task="multiclass", task_state={}, **details)
    config = json.loads((tmp_path / "rgb" / "config.json").read_text())["pretrained_cfg"]
    assert (config["mean"], config["std"]) == ([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])
    found = start_normalization(ModelConfig(start=f"run:{tmp_path / 'rgb'}"))
    assert found == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    gray = Preprocessing(32, 40, 1, *found)
    assert (gray.mean, gray.std) == (pytest.approx((0.5,)), pytest.approx((0.2,)))  # the means of the three
    assert start_normalization(ModelConfig(start=f"run:{folder}")) == ((0.5,), (0.5,))
    assert start_normalization(ModelConfig(name="resnet50")) == ((0.5,), (0.5,))
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert start_normalization(ModelConfig(name="resnet18.tv_in1k", start="imagenet")) == imagenet


def test_another_architecture_and_weights_that_do_not_fit_are_named(exported):
    _, folder = exported
    with pytest.raises(ValueError, match="is an export of test_resnet, and the model is test_convnext"):
        start_from_export(build_model("test_convnext", 3, 1), folder)
    with pytest.raises(FileNotFoundError, match=r"no export in .*nowhere: config\.json is missing"):
        start_from_export(build_model("test_resnet", 3, 1), folder / "nowhere")
    path = folder / "export" / "model.safetensors"
    weights = load_file(path)
    del weights["conv1.0.weight"]
    weights["fc2.bias"] = torch.zeros(1)
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"does not fit the model test_resnet: conv1\.0\.weight, fc2\.bias"):
        start_from_export(build_model("test_resnet", 3, 1), folder)
