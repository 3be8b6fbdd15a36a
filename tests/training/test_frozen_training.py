"""Frozen parameters in the parts of a run: optimizer, skipped steps, moving average, checkpoints between two phases."""

import copy
import json
import math

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from ols.config import OptimConfig
from ols.models.build import build_model
from ols.models.freezing import Freezing
from ols.models.options import FreezeOptions
from ols.runs.checkpoint import load_optimizer, optimizer_tensors
from ols.training.optim import MovingAverage, build_optimizer, build_schedule, scale_learning_rates
from ols.training.safe_step import SafeStep

STEPS = 3  # of an epoch


class _Run:
    """The parts of a run, as a recipe puts them together."""

    def __init__(self, freeze, **optim):
        torch.manual_seed(0)
        self.model = build_model("test_resnet", 3)
        self.freezing = Freezing(self.model, freeze)
        self.optimizer = build_optimizer(self.model, OptimConfig(warmup_epochs=0, **optim))
        self.schedule = build_schedule(self.optimizer, OptimConfig(warmup_epochs=0), epochs=4, steps_per_epoch=STEPS)
        self.average = MovingAverage(self.model, decay=0.5)
        buffers = [*self.model.buffers()]
        self.safe_step = SafeStep(
            self.model, self.optimizer, guarded=buffers, any_process=lambda flag: flag, average=self.average
        )

    def train(self, steps, spoil=None):
        for step in steps:
            epoch = step // STEPS
            self.freezing.enter(epoch)
            self.model.train()
            scale_learning_rates(self.optimizer, self.freezing.lr_factor(epoch))
            self.schedule.step_update(step)
            images = 2 + torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(step))
            self.safe_step.begin()
            loss = F.cross_entropy(self.model(images * (torch.nan if step == spoil else 1)), torch.arange(4) % 3)
            loss.backward()
            self.safe_step.take(step, loss.detach())
        return self

    def resumed(self, other):
        """Take over from another run what a checkpoint holds, by way of its files."""
        tensors, rest = optimizer_tensors(other.optimizer)
        stored = safetensors.torch.load(safetensors.torch.save({k: v.detach().clone() for k, v in tensors.items()}))
        load_optimizer(self.optimizer, stored, json.loads(json.dumps(rest)))
        self.model.load_state_dict(other.model.state_dict())
        self.average.module.load_state_dict(other.average.module.state_dict())
        return self


def _same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


OPTIMS = [{"name": "sgd"}, {"name": "adamw", "peak_lr": 1e-3}, {"name": "sgd", "layer_decay": 0.8, "head_lr_factor": 3}]
TWO_PHASES = FreezeOptions(first_epochs=2, first_lr_factor=4)


@pytest.mark.parametrize("optim", OPTIMS, ids=["sgd", "adamw", "layer decay"])
@pytest.mark.parametrize("scheme", ["none", "last:1"])
@pytest.mark.parametrize("at", [4, 2 * STEPS, 2 * STEPS + 1], ids=["in the first", "between", "in the second"])
def test_a_run_that_is_resumed_in_either_phase_is_the_one_that_was_not_interrupted(optim, scheme, at):
    freeze = FreezeOptions(scheme=scheme, first_epochs=2, first_lr_factor=4)
    whole = _Run(freeze, **optim).train(range(4 * STEPS))
    resumed = _Run(freeze, **optim).resumed(_Run(freeze, **optim).train(range(at))).train(range(at, 4 * STEPS))
    assert _same(whole.model.state_dict(), resumed.model.state_dict())
    assert _same(whole.average.module.state_dict(), resumed.average.module.state_dict())


def test_the_first_phase_has_learning_rates_of_its_own_and_changes_nothing_but_the_head():
    run = _Run(TWO_PHASES, layer_decay=0.5)
    before = copy.deepcopy(run.model.state_dict())
    rates = []
    for epoch in range(3):
        run.train(range(epoch * STEPS, epoch * STEPS + 1))
        rates.append(
            [group["lr"] / (0.05 * (1 + math.cos(math.pi * epoch / 4))) for group in run.optimizer.param_groups]
        )
        if epoch < 2:
            changed = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
            assert changed == {"fc.weight", "fc.bias"}
    assert rates[0] == pytest.approx(rates[1])
    assert rates[0] == pytest.approx([4 * rate for rate in rates[2]])
    assert len({round(rate, 6) for rate in rates[2]}) > 3
    run.train(range(3 * STEPS, 4 * STEPS))
    changed = {name for name, value in run.model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name for name, _ in run.model.named_parameters()}


def test_an_optimizer_has_no_parameters_that_are_never_trained():
    run = _Run(FreezeOptions(scheme="head"))
    own = {id(parameter) for group in run.optimizer.param_groups for parameter in group["params"]}
    assert own == {id(run.model.fc.weight), id(run.model.fc.bias)}


def test_the_moving_average_of_what_is_frozen_is_what_is_frozen():
    run = _Run(FreezeOptions(scheme="head")).train(range(5))
    average, state = run.average.module.state_dict(), run.model.state_dict()
    differing = {name for name in state if not torch.equal(state[name], average[name])}
    assert differing == {"fc.weight", "fc.bias"}


def test_a_step_that_is_not_finite_is_undone_with_frozen_layers_too():
    run, spoiled = (_Run(FreezeOptions(scheme="last:1")).train(range(3)) for _ in range(2))
    spoiled.train([3], spoil=3)
    assert [finite for _, finite in spoiled.safe_step.read()] == [True, True, True, False]
    assert _same(run.model.state_dict(), spoiled.model.state_dict())
