"""A file of weights that is not what it is named for is refused, by a line that says why and what it looks like."""

import h5py
import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from ols.models.build import build_model
from ols.models.options import IMAGENET
from ols.models.start import start_from_file


def _save(state, path):
    torch.save(state, path)
    return path


def test_pairs_in_order_have_the_same_last_name(tmp_path):
    """A batch normalisation's scale and offset have one shape, and swapped they would load without a word."""
    own = build_model("test_efficientnet", 3, 3).state_dict()
    renamed = [(f"net.{name}", value) for name, value in own.items()]
    model = build_model("test_efficientnet", 3, 3)
    start_from_file(model, IMAGENET, _save(dict(renamed), tmp_path / "same.pth"))
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    norm = next(number for number, (name, _) in enumerate(renamed) if name.endswith("bn1.weight"))
    renamed[norm], renamed[norm + 1] = renamed[norm + 1], renamed[norm]
    with pytest.raises(ValueError, match=r"net\.bn1\.bias .* in the place of bn1\.weight"):
        start_from_file(model, IMAGENET, _save(dict(renamed), tmp_path / "swapped.pth"))


def test_numbers_of_a_keras_file_that_lie_in_another_file_are_not_read(tmp_path):
    (tmp_path / "elsewhere").write_bytes(np.ones(64, np.float32).tobytes())
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = ["conv1_bn"]
        root.create_group("conv1_bn").attrs["weight_names"] = ["conv1_bn/beta:0"]
        outside = [(str(tmp_path / "elsewhere"), 0, h5py.h5f.UNLIMITED)]
        root.create_dataset("conv1_bn/conv1_bn/beta:0", shape=(64,), dtype="f4", external=outside)
    with pytest.raises(ValueError, match=r"beta:0 has its numbers in another file, which is not read"):
        start_from_file(build_model("resnet50", 2, 3), "radimagenet-keras", tmp_path / "weights.h5")


@pytest.mark.parametrize("prefix", ["", "model.", "features.", "model.features."])
def test_radiologynets_names_may_have_a_prefix(prefix, tmp_path):
    theirs = torchvision.models.resnet18(weights=None)
    state = {f"{prefix}{name}": value for name, value in theirs.state_dict().items()}
    model = build_model("resnet18", 2, 3)
    start_from_file(model, "radiologynet", _save({"model_state": state}, tmp_path / "weights.pth"))
    assert torch.equal(model.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)


def test_a_file_of_another_kind_is_refused_with_the_kind_that_it_looks_like(tmp_path):
    row = nn.Sequential(*list(torchvision.models.resnet50(weights=None).children())[:-2]).state_dict()
    torch_file = _save({f"backbone.{name}": value for name, value in row.items()}, tmp_path / "weights.pt")
    record = _save({"model_state": {"fc.bias": torch.zeros(1)}}, tmp_path / "record.pth")
    h5py.File(tmp_path / "weights.h5", "w").close()
    model = build_model("resnet50", 2, 3)
    for kind, path, looks in (
        (IMAGENET, torch_file, "radimagenet-torch"),
        ("radiologynet", torch_file, "radimagenet-torch"),
        ("radimagenet-torch", record, "radiologynet"),
        ("radimagenet-hub", tmp_path / "weights.h5", "radimagenet-keras"),
    ):
        with pytest.raises(ValueError, match=f"looks like {looks}:<file>, and was named {kind}:<file>"):
            start_from_file(model, kind, path)


def test_a_refusal_names_every_tensor_that_is_left_over(tmp_path):
    row = nn.Sequential(*list(torchvision.models.resnet50(weights=None).children())[:-2]).state_dict()
    odd = [f"backbone.{number}.odd" for number in range(9, 20)] + ["backbone.first.weight"]
    state = {f"backbone.{name}": value for name, value in row.items()} | {name: torch.zeros(1) for name in odd}
    with pytest.raises(ValueError, match=r"weights\.pt is not of resnet50: ") as refused:
        start_from_file(build_model("resnet50", 2, 3), "radimagenet-torch", _save(state, tmp_path / "weights.pt"))
    assert all(name in str(refused.value) for name in odd)


def test_a_file_whose_names_match_nothing_is_refused_with_its_names_and_the_network_s(tmp_path):
    path = _save({f"encoder.layer{number}": torch.zeros(3) for number in range(12)}, tmp_path / "other.pth")
    model = build_model("test_resnet", 2, 3)
    with pytest.raises(ValueError, match=r"12 tensors, and the network has \d+; only in the file: ") as refused:
        start_from_file(model, IMAGENET, path)
    names = [f"encoder.layer{number}" for number in range(12)] + [name for name, _ in model.named_parameters()]
    assert all(name in str(refused.value) for name in names)


def test_what_holds_no_tensors_is_refused_in_a_line_that_advises_no_risk(tmp_path):
    model = build_model("test_resnet", 2, 3)
    (tmp_path / "cut.safetensors").write_bytes(b"12345")
    (tmp_path / "text.pth").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"cannot read .*cut\.safetensors as safetensors"):
        start_from_file(model, IMAGENET, tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match=r"cannot read .*text\.pth as tensors of torch") as refused:
        start_from_file(model, IMAGENET, tmp_path / "text.pth")
    assert "weights_only" not in str(refused.value)
    with pytest.raises(ValueError, match=r"has no named tensors as model_state; it has: model_state, epoch"):
        start_from_file(model, "radiologynet", _save({"model_state": {"a": 1}, "epoch": 2}, tmp_path / "odd.pth"))
