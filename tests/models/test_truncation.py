import pytest
import torch

from ols.models.build import build_model
from ols.models.freezing import Freezing
from ols.models.head import find_head, replace_head
from ols.models.options import FreezeOptions, HeadOptions
from ols.models.truncation import truncate

BLOCKS = {
    "test_resnet": ["layer1", "layer2", "layer3", "layer4"],
    "test_efficientnet": ["blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4"],
    "test_vit": ["blocks.0", "blocks.3", "blocks.5"],
    "densenet121": ["features.denseblock1", "features.denseblock3", "features.norm5"],
    "mobilenetv3_small_050": ["blocks.1", "blocks.5"],
    "inception_v3": ["Mixed_5d", "Mixed_6e"],
    "inception_resnet_v2": ["repeat"],
    "vgg11": ["features.9"],
}


@pytest.mark.parametrize(
    ("name", "after"),
    [
        pytest.param(name, block, marks=[pytest.mark.slow] * name.startswith("inception"))
        for name, blocks in BLOCKS.items()
        for block in blocks
    ],
)
def test_a_model_gives_what_its_block_gives_pooled_and_through_the_head(name, after):
    torch.manual_seed(0)
    model = build_model(name, 3).eval()
    images = torch.randn(2, 1, *model.pretrained_cfg["input_size"][1:])
    seen = {}
    model.get_submodule(after).register_forward_hook(lambda _module, _args, output: seen.update(block=output))
    model(images)
    expected = seen["block"]
    line = truncate(model, after, 4)
    head = next(iter(find_head(model).values()))
    head.register_forward_pre_hook(lambda _module, args: seen.update(features=args[0]))
    assert model(images).shape == (2, 4)
    if expected.ndim == 4 and not name.startswith(("test_eff", "mobilenet")) and after != "features.norm5":
        assert torch.allclose(seen["features"], expected.mean((2, 3)), atol=1e-5)
    numbers = [int(word.replace(",", "")) for word in line.split() if word.replace(",", "").isdigit()]
    assert numbers[-1] == sum(parameter.numel() for parameter in model.parameters()) < numbers[0] * 1.2


def test_a_truncated_model_is_smaller_and_takes_heads_and_freezing():
    model = build_model("test_resnet", 3)
    before = sum(parameter.numel() for parameter in model.parameters())
    truncate(model, "layer2", 3)
    assert sum(parameter.numel() for parameter in model.parameters()) < before
    replace_head(model, HeadOptions(kind="mlp", width=8), 3)
    Freezing(model, FreezeOptions(scheme="last:1"))
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"layer2", "fc"}
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 3)


def test_a_block_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match="no block 'layer9' to end with; it has act1, layer1, layer2, layer3, layer4"):
        truncate(build_model("test_resnet", 3), "layer9", 3)
