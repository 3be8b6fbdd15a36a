import pytest
import torch

from ols.models.build import build_model
from ols.models.head import find_head, head_parameter_names, num_outputs

# The head's layers of a small net of each kind, as timm's source names them.
HEADS = {
    "test_resnet": ["fc"],
    "test_vit": ["head"],
    "test_convnext": ["head.fc"],
    "test_efficientnet": ["classifier"],
    "densenet121": ["classifier"],
    "vgg11": ["head.fc"],
    "mobilenetv3_small_050": ["classifier"],
    "swin_tiny_patch4_window7_224": ["head.fc"],
    "deit_tiny_distilled_patch16_224": ["head", "head_dist"],
    "inception_v3": ["fc"],
}


@pytest.mark.parametrize(("name", "layers"), HEADS.items())
def test_the_head_is_found_by_name(name, layers):
    with torch.device("meta"):
        model = build_model(name, 7, 3)
    assert list(find_head(model)) == layers
    assert head_parameter_names(model) == [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    assert num_outputs(model, model.state_dict()) == 7


def test_a_model_without_classes_has_no_head_and_its_tensors_are_refused():
    model, trunk = build_model("test_resnet", 3), build_model("test_resnet", 0)
    assert find_head(trunk) == {}
    with pytest.raises(ValueError, match=r"no head among the tensors; expected fc\.weight, fc\.bias"):
        num_outputs(model, trunk.state_dict())


def test_a_model_that_is_not_timms_is_named():
    with pytest.raises(ValueError, match="Linear is no model of timm's"):
        find_head(torch.nn.Linear(2, 2))
