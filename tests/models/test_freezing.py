import copy

import pytest
import timm
import torch
import torch.nn.functional as F

from ols.models.build import build_model
from ols.models.freezing import Freezing, layer_groups
from ols.models.head import replace_head
from ols.models.options import FreezeOptions, HeadOptions


def _trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def _steps(model, count=2):
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], 0.1)
    for step in range(count):
        images = 3 + torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        F.cross_entropy(model.train()(images), torch.arange(4) % 3).backward()
        optimizer.step()


def _changed(model, before):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


NETS = ("test_resnet", "test_efficientnet", "densenet121", "inception_v3", "mobilenetv3_small_050")


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "mobilenetv3_small_050"])
@pytest.mark.parametrize("scheme", ["head", "last:1", "last:2"])
def test_a_frozen_trunk_in_train_mode_keeps_every_buffer_and_weight(name, scheme):
    torch.manual_seed(0)
    model = build_model(name, 3)
    freezing = Freezing(model, FreezeOptions(scheme=scheme))
    freezing.enter(0)
    before = copy.deepcopy(model.state_dict())
    _steps(model)
    trained = _trained(model)
    layers = {entry.rpartition(".")[0] for entry in trained}
    changed = _changed(model, before)
    assert {entry for entry in changed if entry.rpartition(".")[0] not in layers} == set()
    assert trained & changed
    frozen_buffers = {n for n, _ in model.named_buffers() if n.rpartition(".")[0] not in layers}
    assert len(frozen_buffers) > 3
    assert not frozen_buffers & changed


@pytest.mark.parametrize(
    ("policy", "buffers", "weights"), [("frozen", False, False), ("adapt", True, False), ("train", True, True)]
)
def test_the_policy_says_what_a_batch_norm_of_a_frozen_layer_does(policy, buffers, weights):
    model = build_model("test_resnet", 3)
    Freezing(model, FreezeOptions(scheme="head", batch_norm=policy))
    before = copy.deepcopy(model.state_dict())
    _steps(model)
    changed = _changed(model, before) - {"fc.weight", "fc.bias"}
    statistics = {name for name, _ in model.named_buffers()}
    norm_weights = {f"{name.rpartition('.')[0]}.{part}" for name in statistics for part in ("weight", "bias")}
    assert bool(changed & statistics) == buffers
    assert changed & statistics == (statistics if buffers else set())
    assert bool(changed & norm_weights) == weights
    assert changed <= statistics | norm_weights


@pytest.mark.parametrize("name", NETS)
def test_unfreeze_top_n_is_the_head_and_exactly_the_last_n_groups(name):
    with torch.device("meta"):
        model = build_model(name, 3)
    groups, sizes = layer_groups(model), []
    everything = {parameter for parameter, _ in model.named_parameters()}
    head = everything - set().union(*groups)
    assert sum(map(len, groups)) + len(head) == len(everything)
    for count in range(len(groups) + 1):
        Freezing(model, FreezeOptions(scheme=f"last:{count}"))
        assert _trained(model) == head.union(*groups[len(groups) - count :])
        sizes.append(len(_trained(model)))
    assert sizes == sorted(set(sizes))
    assert sizes[0] == len(head)  # 'top 0' is the head alone
    assert _trained(model) == everything  # the last is everything, stem included
    with pytest.raises(ValueError, match=rf"last:{len(groups) + 1}: .* has {len(groups)} layer groups beside the head"):
        Freezing(model, FreezeOptions(scheme=f"last:{len(groups) + 1}"))


def test_the_last_group_of_a_resnet_is_its_last_stage_and_that_of_a_densenet_is_no_norm_alone():
    with torch.device("meta"):
        resnet, densenet = build_model("resnet50", 3), build_model("densenet121", 3)
    assert {name.split(".")[0] for name in layer_groups(resnet)[-1]} == {"layer4"}
    assert {".".join(name.split(".")[:2]) for name in layer_groups(densenet)[-1]} == {
        "features.denseblock4",
        "features.norm5",
    }
    assert (len(layer_groups(resnet)), len(layer_groups(densenet))) == (5, 5)


# Numbers of the trunk that are trained, by pencil from the papers' layer sizes; Keras's convolutions in ResNet50 have
# biases as well, which timm's do not.
TOP_10 = {
    "resnet50": 512 * 512 * 9 + 512 * 2048 + 2 * (512 + 512 + 2048),
    "densenet121": 2 * 992 + 992 * 128 + 2 * 128 + 128 * 32 * 9 + 2 * 1024,
    "inception_resnet_v2": 2080 * 1536 + 1536 + 448 * 2080 + 2080 + 256,
    "inception_v3": 192,
}


@pytest.mark.parametrize(("name", "expected"), TOP_10.items())
def test_top_10_layers_are_what_keras_has_there_and_how_many_is_printed(name, expected):
    with torch.device("meta"):
        model = build_model(name, 3)
    freezing = Freezing(model, FreezeOptions(scheme="keras_last_10"))
    head = {"resnet50": 2048, "densenet121": 1024, "inception_resnet_v2": 1536, "inception_v3": 2048}[name] * 3 + 3
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == expected + head
    total = sum(parameter.numel() for parameter in model.parameters())
    assert f"{trained:,} of {total:,} parameters trained" in freezing.describe()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "keras_name"),
    [
        ("resnet50", "ResNet50"),
        ("densenet121", "DenseNet121"),
        ("inception_resnet_v2", "InceptionResNetV2"),
        ("inception_v3", "InceptionV3"),
    ],
)
def test_top_10_layers_have_as_many_trained_numbers_as_in_keras(name, keras_name, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    import keras

    net = getattr(keras.applications, keras_name)(weights=None, include_top=False, pooling="avg")
    layers = net.layers[-10:]
    biases = sum(w.shape[0] for layer in layers if name == "resnet50" for w in layer.weights if w.path.endswith("bias"))
    trained = sum(torch.Size(weight.shape).numel() for layer in layers for weight in layer.trainable_weights)
    assert trained - biases == TOP_10[name]


def test_keras_last_10_is_refused_for_other_nets():
    with pytest.raises(ValueError, match=r"keras_last_10 is for resnet50, densenet121, .*, got test_resnet"):
        Freezing(build_model("test_resnet", 3), FreezeOptions(scheme="keras_last_10"))


def test_head_first_and_then_all_depends_on_the_epoch_alone():
    model = build_model("test_resnet", 3)
    everything = _trained(model)
    freezing = Freezing(model, FreezeOptions(first_epochs=2, first_lr_factor=10))
    assert _trained(model) == everything  # of which the optimizer is built
    assert [freezing.enter(epoch) for epoch in (0, 1, 2, 3)] == [True, False, True, False]
    assert [freezing.lr_factor(epoch) for epoch in (0, 1, 2, 3)] == [10, 10, 1, 1]
    for epoch in (1, 3, 0, 2):  # in any order
        freezing.enter(epoch)
        assert _trained(model) == ({"fc.weight", "fc.bias"} if epoch < 2 else everything)
        assert model.train().bn1.training == (epoch >= 2)


def test_freezing_is_reversible_and_changes_no_module():
    model = build_model("test_resnet", 3)
    types = [type(module) for module in model.modules()]
    Freezing(model, FreezeOptions(scheme="head"))
    Freezing(model, FreezeOptions())
    assert [type(module) for module in model.modules()] == types
    assert _trained(model) == {name for name, _ in model.named_parameters()}
    assert all(module.training for module in model.train().modules())
    assert not any(module.training for module in model.eval().modules())


def test_norms_of_a_new_head_are_trained():
    model = build_model("test_resnet", 3)
    replace_head(model, HeadOptions(kind="conv1d_skip", width=32), 3)
    Freezing(model, FreezeOptions(scheme="head"))
    model.train()
    assert model.fc.hidden[1].training
    assert not model.bn1.training
    assert {name.split(".")[0] for name in _trained(model)} == {"fc"}


def test_a_copy_of_a_frozen_model_freezes_itself():
    model = build_model("test_resnet", 3)
    Freezing(model, FreezeOptions(scheme="head"))
    copied = copy.deepcopy(model).train()
    assert not copied.bn1.training
    model.eval()
    assert copied.fc.training


def test_a_model_without_a_head_is_refused():
    with pytest.raises(ValueError, match="test_resnet has no head that could be trained"):
        Freezing(timm.create_model("test_resnet", num_classes=0), FreezeOptions(scheme="head"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "last"}, r"freeze\.scheme must be one of none, head, last:<groups>, keras_last_10, got 'last'"),
        ({"scheme": "last:-1"}, r"freeze\.scheme"),
        ({"batch_norm": "eval"}, r"freeze\.batch_norm must be one of frozen, adapt, train, got 'eval'"),
        ({"first_epochs": -1}, r"freeze\.first_epochs must be at least 0"),
        ({"first_lr_factor": 3}, r"freeze\.first_lr_factor has no effect without"),
        ({"first_epochs": 1, "scheme": "head"}, r"freeze\.first_epochs has no effect"),
        ({"first_epochs": 1, "first_lr_factor": float("nan")}, r"freeze\.first_lr_factor must be positive"),
    ],
)
def test_freezing_that_makes_no_sense_is_refused_with_its_key(options, message):
    with pytest.raises(ValueError, match=message):
        FreezeOptions(**options)
