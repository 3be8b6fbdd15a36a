import pytest
import timm
import torch

from ols.evaluation.report.console import _count_operations
from ols.models.build import build_model, model_arguments


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_vit"])
def test_a_transformer_is_built_for_the_size_of_the_images(name):
    with torch.device("meta"):
        model = build_model(name, 5, 1, image_size=64)
        assert model(torch.empty(2, 1, 64, 64)).shape == (2, 5)


def test_a_network_of_convolutions_needs_no_size():
    assert model_arguments("resnet18", 5, 1, 64) == {"num_classes": 5, "in_chans": 1}


def test_a_size_that_a_model_cannot_have_is_named():
    with pytest.raises(ValueError, match=r"crossvit_tiny_240 cannot be built for data\.image_size 0: "):
        build_model("crossvit_tiny_240", 5, 3, image_size=0)


def test_an_estimate_ends_no_run():
    class Stubborn(torch.nn.Module):
        def forward(self, images):
            raise NotImplementedError("not on the meta device")

    assert _count_operations(Stubborn(), torch.empty(1, 1, 8, 8, device="meta")) is None
    layer = torch.nn.Linear(8, 3)
    assert _count_operations(layer, torch.empty(1, 8, device="meta")) == 2 * 8 * 3
    assert timm.is_model("cait_xxs24_224")
    with torch.device("meta"):
        learned_query = build_model("cait_xxs24_224", 3, 1)
    counted = _count_operations(learned_query, torch.empty(1, 1, 224, 224, device="meta"))
    assert counted is None or counted > 1e9
