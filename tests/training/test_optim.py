import math

import pytest
import timm.optim
import torch
from timm.utils import ModelEmaV3

from ols.config import OptimConfig
from ols.models.build import build_model
from ols.runs.checkpoint import load_optimizer, load_state, load_tensors, optimizer_tensors, save_checkpoint
from ols.training.optim import MovingAverage, build_optimizer, build_schedule, scheduled_lr, step_unless


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
    optimizer = build_optimizer(model, OptimConfig(name="sgd", peak_lr=0.1, weight_decay=0.01, momentum=0.9))
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert {name for name, p in model.named_parameters() if id(p) not in decayed} == {
        name for name, p in model.named_parameters() if p.ndim <= 1
    }
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)
    with pytest.raises(ValueError, match="unknown optimizer 'sdg'"):
        build_optimizer(model, OptimConfig(name="sdg", peak_lr=0.1, weight_decay=0.0, momentum=0.9))


@pytest.mark.parametrize("name", ["sgd", "adamw", "lamb"])
def test_a_step_is_skipped_on_the_device_as_if_it_had_not_been(name):
    """Also the very first one, whose momentum torch would leave uninitialised."""
    models = [build_model("test_resnet", 3) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [
        build_optimizer(model, OptimConfig(name=name, peak_lr=0.1, weight_decay=0.01, momentum=0.9)) for model in models
    ]
    generator = torch.Generator().manual_seed(0)
    for skip in (True, False, True, False):
        gradients = [torch.randn(parameter.shape, generator=generator) for parameter in models[0].parameters()]
        for model, optimizer in zip(models, optimizers, strict=True):
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = torch.full_like(gradient, torch.nan) if skip else gradient.clone()
            if optimizer is optimizers[0]:
                step_unless(optimizer, torch.tensor(skip))
            elif not skip:
                optimizer.step()
    for found, expected in zip(*(model.parameters() for model in models), strict=True):
        assert found.isfinite().all()
        assert torch.equal(found, expected)


def test_sgd_takes_the_steps_of_torchs_own():
    parameter, reference = (torch.nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4)) for _ in range(2))
    layer = torch.nn.Module()
    layer.weight = parameter
    ours = build_optimizer(layer, OptimConfig(name="sgd", peak_lr=0.1, weight_decay=0.01, momentum=0.9))
    theirs = torch.optim.SGD([reference], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    for step in range(5):
        parameter.grad = torch.sin(torch.arange(12.0).view(3, 4) + step)
        reference.grad = parameter.grad.clone()
        step_unless(ours, torch.tensor(False))
        theirs.step()
        torch.testing.assert_close(parameter, reference, rtol=1e-6, atol=1e-7)


def test_the_moving_average_is_timms_and_stands_still_where_a_step_is_skipped():
    model = build_model("test_resnet", 3)
    ours, theirs = MovingAverage(model, decay=0.9), ModelEmaV3(model, decay=0.9)
    for skip in (False, True, False):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.add_(1)
        before = {name: value.clone() for name, value in ours.module.state_dict().items()}
        ours.update_unless(model, torch.tensor(skip))
        if skip:
            moved = [name for name, value in ours.module.state_dict().items() if not torch.equal(value, before[name])]
            assert all(name.endswith("num_batches_tracked") for name in moved)  # which the trainer has put back
        else:
            theirs.update(model)
    found, expected = (average.module.state_dict() for average in (ours, theirs))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6)


def test_the_schedule_is_a_function_of_the_step():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.8)
    schedule = build_schedule(optimizer, OptimConfig(), epochs=4, steps_per_epoch=10)

    def lr(step):
        schedule.step_update(step)
        return optimizer.param_groups[0]["lr"]

    assert [lr(step) for step in (0, 5, 10)] == pytest.approx([0, 0.4, 0.4 * (1 + math.cos(math.pi / 4))])
    assert lr(20) == pytest.approx(0.4)  # half way: half of the peak
    assert lr(39) == pytest.approx(0.4 * (1 + math.cos(math.pi * 39 / 40)))
    assert lr(5) == pytest.approx(0.4)  # back again: no state


def test_a_constant_schedule_stays_at_the_peak_after_its_warm_up_whatever_the_smallest_rate():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    options = OptimConfig(schedule="constant", warmup_epochs=1.0, min_lr=0.2)
    schedule = build_schedule(optimizer, options, epochs=400, steps_per_epoch=10)
    found = []
    for step in (0, 5, 10, 11, 2000, 3999):
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([0.2, 0.5, 0.8, 0.8, 0.8, 0.8])


def _learning_rates(model, optimizer) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}


def _after_steps(model, options, step: int) -> dict[str, float]:
    optimizer = build_optimizer(model, options)
    build_schedule(optimizer, options, epochs=4, steps_per_epoch=10).step_update(step)
    assert scheduled_lr(optimizer) == pytest.approx(_cosine(step))
    return _learning_rates(model, optimizer)


def _cosine(step: int) -> float:
    """Learning rate of 0.1 after so many of 40 steps, 10 of them warm-up."""
    return 0.1 * (step / 10 if step < 10 else 0.5 * (1 + math.cos(math.pi * step / 40)))


@pytest.mark.parametrize("step", [5, 20])
def test_the_head_has_a_learning_rate_of_its_own(step):
    model = build_model("test_resnet", 3)
    rates = _after_steps(model, OptimConfig(head_lr_factor=10), step)
    assert rates.keys() == dict(model.named_parameters()).keys()
    for name, rate in rates.items():
        assert rate == pytest.approx(_cosine(step) * (10 if name.startswith("fc.") else 1)), name


def test_learning_rates_fall_from_the_head_to_the_stem():
    model = build_model("test_vit", 3)
    rates = _after_steps(model, OptimConfig(layer_decay=0.5, head_lr_factor=4), 20)
    blocks = len(model.blocks)
    expected = {"patch_embed.proj.weight": blocks + 1, "blocks.0.attn.qkv.weight": blocks, "norm.weight": 1}
    expected |= {f"blocks.{blocks - 1}.mlp.fc1.bias": 1}
    for name, groups_to_the_head in expected.items():
        assert rates[name] == pytest.approx(_cosine(20) * 0.5**groups_to_the_head), name
    assert rates["head.weight"] == pytest.approx(4 * _cosine(20))


def test_learning_rates_of_groups_survive_a_checkpoint():
    model, options = build_model("test_resnet", 3), OptimConfig(layer_decay=0.7, head_lr_factor=3)
    first, second = build_optimizer(model, options), build_optimizer(model, options)
    build_schedule(first, options, epochs=4, steps_per_epoch=10).step_update(12)
    tensors, rest = optimizer_tensors(first)
    load_optimizer(second, tensors, rest)
    assert _learning_rates(model, second) == _learning_rates(model, first)


@pytest.mark.parametrize(("key", "value"), [("head_lr_factor", 0), ("layer_decay", 0.0), ("layer_decay", 1.2)])
def test_learning_rates_that_make_no_sense_are_refused_with_their_key(key, value):
    with pytest.raises(ValueError, match=rf"optim\.{key} must"):
        OptimConfig(**{key: value})


# Why some of timm's optimizers are refused, by the start of their names; Kron draws from torch's global generator.
REFUSED = {"bnb": "bitsandbytes", "fused": "APEX", "adahessian": "second derivatives", "kron": "does not continue"}


def _steps(model, optimizer, numbers):
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        images, targets = torch.randn(8, 2, 6, 6, generator=generator), torch.arange(8) % 3
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), targets).backward()
        step_unless(optimizer, torch.tensor(False))


@pytest.fixture
def one_thread():
    """A second thread for tensors of a few numbers costs a minute on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.skipif(torch.cuda.is_available(), reason="what needs a GPU is refused where there is none")
def test_every_optimizer_of_timm_resumes_to_the_bit_or_is_refused_by_its_name_before_the_first_step(tmp_path):
    resumed_names, refused_names = [], []
    for name in timm.optim.list_optimizers():
        torch.manual_seed(0)
        models = [
            torch.nn.Sequential(
                torch.nn.Conv2d(2, 4, 3), torch.nn.GroupNorm(2, 4), torch.nn.Flatten(), torch.nn.Linear(64, 3)
            )
            for _ in range(2)
        ]
        options = OptimConfig(name=name, peak_lr=0.01, weight_decay=0.01, momentum=0.9)
        reason = next((reason for start, reason in REFUSED.items() if name.startswith(start)), None)
        if reason is not None:
            with pytest.raises(ValueError, match=rf"^optim\.name '{name}' is not for these runs: .*{reason}"):
                build_optimizer(models[0], options)
            refused_names.append(name)
            continue
        first = build_optimizer(models[0], options)
        _steps(models[0], first, range(3))
        tensors, rest = optimizer_tensors(first)
        save_checkpoint(tmp_path / name, {"optimizer": tensors, "model": models[0].state_dict()}, {"optimizer": rest})
        models[1].load_state_dict(load_tensors(tmp_path / name, "model"))
        second = build_optimizer(models[1], options)
        load_optimizer(second, load_tensors(tmp_path / name, "optimizer"), load_state(tmp_path / name)["optimizer"])
        for model, optimizer in zip(models, (first, second), strict=True):
            _steps(model, optimizer, range(3, 8))
        for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(one, other), name
        for one, other in zip(first.state.values(), second.state.values(), strict=True):
            for key, value in one.items():
                if isinstance(value, torch.Tensor):
                    assert value.dtype == other[key].dtype, f"{name} {key}"
                    assert torch.equal(value, other[key]), f"{name} {key}"
                else:
                    assert value == other[key], f"{name} {key}"
        resumed_names.append(name)
    assert len(resumed_names) >= 80
    assert len(refused_names) >= 15
    assert {"sgd", "adamw", "lamb", "adafactorbv", "muon", "laprop"} <= set(resumed_names)


class _Plain(torch.optim.Optimizer):
    """Gradient descent, of which the others below keep something more."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    def rate(self, parameter):
        return 0.1

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(self.rate(parameter) * parameter.grad)


class _CountsAside(_Plain):
    """Keeps a counter where no state dict has it."""

    count = 0

    def rate(self, parameter):
        self.count += 1
        return 1 / self.count


class _Draws(_Plain):
    """Draws from the generator of everything else."""

    def rate(self, parameter):
        return torch.rand(())


class _KeepsAnObject(_Plain):
    """Keeps what no file format has."""

    def rate(self, parameter):
        self.state[parameter]["seen"] = {1.0, 2.0}
        return 0.1


class _NeedsAClosure(_Plain):
    """Evaluates the loss again."""

    def step(self, closure=None):
        return closure()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (_CountsAside, "after a checkpoint it does not continue as it would have"),
        (_Draws, "after a checkpoint it does not continue as it would have"),
        (_KeepsAnObject, r"a checkpoint cannot hold it: _KeepsAnObject keeps a set as state\.0\.seen"),
        (_NeedsAClosure, "it cannot take a step from gradients alone: 'NoneType' object is not callable"),
        (_Plain, None),
    ],
)
def test_an_optimizer_that_timm_may_have_one_day_is_tried_before_the_first_step(kind, message, monkeypatch):
    monkeypatch.setattr(timm.optim, "list_optimizers", lambda: ["new"])
    monkeypatch.setattr(timm.optim, "get_optimizer_class", lambda *_args, **_options: kind)
    monkeypatch.setattr(timm.optim, "create_optimizer_v2", lambda groups, *_args, **_options: kind(groups))
    layer, options = torch.nn.Linear(3, 2), OptimConfig(name="new")
    before, state = layer.weight.clone(), torch.get_rng_state()
    if message is None:
        assert type(build_optimizer(layer, options)) is kind
    else:
        with pytest.raises(ValueError, match=f"^optim.name 'new' is not for these runs: {message}"):
            build_optimizer(layer, options)
    assert torch.equal(layer.weight, before)
    assert torch.equal(torch.get_rng_state(), state)
