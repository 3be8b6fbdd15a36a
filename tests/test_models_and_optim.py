import math

import pytest
import torch

from ols.models import build_model
from ols.optim import build_optimizer, build_schedule


@pytest.mark.parametrize("name", ["resnet50", "mobilenetv2_100", "vgg19"])
def test_the_studys_architectures_take_gray_images_and_give_logits(name):
    with torch.device("meta"):
        model = build_model(name, 165, 1)
        for size in (64, 224):
            assert model(torch.empty(2, 1, size, size)).shape == (2, 165)


def test_an_unknown_architecture_lists_near_matches():
    with pytest.raises(ValueError, match=r"unknown model 'resnet5O'; did you mean .*resnet50"):
        build_model("resnet5O", 3)
    with pytest.raises(ValueError, match=r"unknown model 'qqqqqqqq'; did you mean one of timm\.list_models\(\)\?"):
        build_model("qqqqqqqq", 3)


def test_sgd_has_nesterov_momentum_and_decays_no_norms_or_biases():
    model = build_model("test_resnet", 3)
    optimizer = build_optimizer(model, "sgd", peak_lr=0.1, weight_decay=0.01, momentum=0.9)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert {name for name, p in model.named_parameters() if id(p) not in decayed} == {
        name for name, p in model.named_parameters() if p.ndim <= 1
    }
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)
    with pytest.raises(ValueError, match="unknown optimizer 'sdg'"):
        build_optimizer(model, "sdg", peak_lr=0.1, weight_decay=0.0, momentum=0.9)


def test_the_schedule_is_a_function_of_the_step():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.8)
    schedule = build_schedule(optimizer, "cosine", epochs=4, warmup_epochs=1, min_lr=0.0, steps_per_epoch=10)

    def lr(step):
        schedule.step_update(step)
        return optimizer.param_groups[0]["lr"]

    assert [lr(step) for step in (0, 5, 10)] == pytest.approx([0, 0.4, 0.4 * (1 + math.cos(math.pi / 4))])
    assert lr(20) == pytest.approx(0.4)  # half way: half of the peak
    assert lr(39) == pytest.approx(0.4 * (1 + math.cos(math.pi * 39 / 40)))
    assert lr(5) == pytest.approx(0.4)  # back again: no state
