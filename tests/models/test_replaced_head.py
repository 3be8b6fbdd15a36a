import copy

import pytest
import torch
from torch import nn

from ols.models.build import build_model
from ols.models.head import build_head, find_head, head_parameter_names, head_record, num_outputs, replace_head
from ols.models.options import HeadOptions

KINDS = {
    "linear": HeadOptions(dropout=0.5),
    "mlp": HeadOptions(kind="mlp", width=20, layers=2),
    "conv1d": HeadOptions(kind="conv1d", width=32, filters=4),
    "conv1d_skip": HeadOptions(kind="conv1d_skip", width=32, filters=4),
}
NETS = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout")


def _images(model):
    return torch.randn(3, 1, *model.pretrained_cfg["input_size"][1:], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_new_head_takes_the_features_that_the_old_one_took(name, options):
    model = build_model(name, 5).eval()
    seen = []
    old = next(iter(find_head(model).values()))
    old.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(_images(model))
    replace_head(model, options, 7)
    new = next(iter(find_head(model).values()))
    new.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert model(_images(model)).shape == (3, 7)
    assert torch.equal(*seen)
    assert num_outputs(model, model.state_dict()) == model.num_classes == 7
    assert list(find_head(model).values()) == [new]


@pytest.mark.parametrize("options", [*KINDS.values(), HeadOptions()], ids=[*KINDS, "plain"])
def test_a_head_comes_back_from_its_record_and_tensors(options):
    model = build_model("test_resnet", 5)
    replace_head(model, options, 3)
    again = build_model("test_resnet", 3)
    build_head(again, head_record(model))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(_images(again)), model.eval()(_images(model)))
    assert head_record(again) == head_record(model)


def test_plain_timm_loads_a_linear_head_and_refuses_every_other():
    for kind, options in KINDS.items():
        model, plain = build_model("test_resnet", 3), build_model("test_resnet", 3)
        replace_head(model, options, 3)
        if kind == "linear":
            plain.load_state_dict(model.state_dict())
            assert torch.equal(plain.eval()(_images(plain)), model.eval()(_images(model)))
        else:
            with pytest.raises(RuntimeError, match=r"Missing key.*fc\.weight"):
                plain.load_state_dict(model.state_dict())


def test_a_linear_head_drops_features_in_training_only():
    model = build_model("test_resnet", 3)
    replace_head(model, HeadOptions(dropout=0.5), 3)
    head = model.fc
    nn.init.ones_(head.weight)
    nn.init.zeros_(head.bias)
    ones = torch.ones(2000, head.in_features)
    assert torch.equal(head.eval()(ones), torch.full((2000, 3), float(head.in_features)))
    sums = head.train()(ones)[:, 0].detach()  # twice the number of features that are kept
    assert sums.mean() == pytest.approx(head.in_features, rel=0.02)
    assert sums.std() == pytest.approx(head.in_features**0.5, rel=0.1)


def test_the_convolution_with_a_skip_has_a_billion_parameters_and_is_refused_before_it_is_allocated():
    with torch.device("meta"):
        model = build_model("resnet50", 1000)
    published = HeadOptions(kind="conv1d_skip", width=None, dropout=0.5)
    # pencil: 16 filters at 2047 places, a linear map to them and one between them, norms, and 2 outputs
    flat = 16 * 2047
    expected = 16 * 2 + 16 + 2 * 16 + (2048 + 1 + 2) * flat + (flat + 1 + 2) * flat + 2 * flat + 2
    with pytest.raises(ValueError, match=f"has {expected:,} parameters: training takes 17.0 GiB, 8.0 GiB are there"):
        replace_head(model, published, 2, memory=8 * 2**30)
    assert isinstance(model.fc, nn.Linear)
    assert model.fc.out_features == 1000


@pytest.mark.parametrize("kind", ["conv1d", "conv1d_skip"])
def test_the_width_caps_a_convolution_and_the_line_says_how_many_parameters_there_are(kind):
    model = build_model("test_resnet", 3)
    line = replace_head(model, HeadOptions(kind=kind, width=64), 3)
    count = sum(parameter.numel() for parameter in model.fc.parameters())
    assert f"{count:,} parameters" in line
    assert model.fc.hidden[0].weight.shape == (64, 64)


def test_the_head_for_bone_age_takes_sex_beside_the_image():
    model = build_model("test_resnet", 3)
    options = HeadOptions(kind="mlp", width=1000, layers=2, side_inputs=1)
    replace_head(model, options, 1)
    shapes = [tuple(parameter.shape) for parameter in model.fc.parameters() if parameter.ndim == 2]
    features = model.num_features
    assert shapes == [(32, 1), (1000, features + 32), (1000, 1000), (1, 1000)]
    images, model = _images(model), model.eval()
    boys, girls = (model(images, side=torch.full((3, 1), float(sex))) for sex in (0, 1))
    assert boys.shape == (3, 1)
    assert not torch.equal(boys, girls)
    assert torch.equal(copy.deepcopy(model)(images, side=torch.zeros(3, 1)), boys)


def test_a_forward_pass_without_the_numbers_beside_the_image_is_refused():
    model = build_model("test_resnet", 3)
    replace_head(model, HeadOptions(kind="mlp", side_inputs=2), 1)
    model(_images(model), side=torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"side=\[3, 2\]; got none"):  # not those of the batch before
        model(_images(model))
    with pytest.raises(ValueError, match=r"side=\[3, 2\]; got \[3, 1\]"):
        model(_images(model), side=torch.zeros(3, 1))


def test_a_head_can_be_replaced_again():
    model = build_model("test_resnet", 3)
    for options in (HeadOptions(kind="mlp", side_inputs=1), *KINDS.values()):
        replace_head(model, options, 4)
    assert model(_images(model)).shape == (3, 4)
    assert not model._forward_pre_hooks


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "mlp", "filters": 8},
        {"width": 100},
        {"kind": "conv1d", "layers": 2},
        {"kind": "conv1d", "side_inputs": 1},
        {"kind": "mlp", "side_units": 8},
    ],
)
def test_options_that_do_not_reach_the_head_are_refused_so_that_no_two_cells_of_a_grid_are_replicas(options):
    with pytest.raises(ValueError, match=r"^head\.\w+ \d+ has no effect on a head .*: leave it out$"):
        HeadOptions(**options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["dropout", "width", "layers", "filters", "kernel_size", "side_inputs", "side_units"])
def test_options_that_reach_the_head_change_what_it_computes(kind, name):
    changed = {"dropout": 0.3, "width": 48, "layers": 3, "filters": 8, "kernel_size": 5, "side_inputs": 2}
    base = {"kind": kind} | ({"side_inputs": 1} if name in ("side_inputs", "side_units") else {})
    try:
        first, second = HeadOptions(**base), HeadOptions(**base | {name: changed.get(name, 16)})
    except ValueError as error:
        assert "has no effect" in str(error)  # noqa: PT017
        return
    outputs = []
    for options in (first, second):
        torch.manual_seed(0)
        model = build_model("test_resnet", 3)
        replace_head(model, options, 3)
        torch.manual_seed(1)
        side = {"side": torch.ones(3, options.side_inputs)} if options.side_inputs else {}
        outputs.append(model.train()(_images(model), **side))
    assert not torch.equal(*outputs)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deit_tiny_distilled_patch16_224", HeadOptions(kind="mlp"), "has 2 heads"),
        ("test_resnet", HeadOptions(kind="conv1d", kernel_size=9999), "longer than the"),
        ("test_resnet", HeadOptions(kind="conv1d", width=8), "head.width 8 is smaller than head.filters 16"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_by_name(name, options, message):
    with torch.device("meta"):
        model = build_model(name, 3)
    with pytest.raises(ValueError, match=message):
        replace_head(model, options, 3)


def test_an_option_of_a_later_version_is_named():
    with pytest.raises(ValueError, match="not known here: gates"):
        build_head(build_model("test_resnet", 3), {"kind": "linear", "gates": 2})


def test_the_head_of_a_replaced_head_is_what_state_dicts_call_it():
    model = build_model("test_resnet", 3)
    replace_head(model, KINDS["conv1d_skip"], 3)
    names = head_parameter_names(model)
    assert set(names) <= set(model.state_dict())
    assert all(name.startswith("fc.") for name in names)
    assert names[-2:] == ["fc.output.weight", "fc.output.bias"]
