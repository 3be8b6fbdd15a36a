import re
import sys
from pathlib import Path

import pytest

from ols.command_line import parse_config
from ols.studies.axes import MOST_NAME_BYTES, list_cells
from ols.studies.grid import Study, plan_runs

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "recipes" / "configs" / "radiology13.yaml"
LOSSES = {"hard": {"name": "hard"}, "soft": {"name": "label_smoothing", "smoothing": 0.2}}


def _study(axes, **changes) -> Study:
    return Study(**({"folder": "study", "configs": [CONFIG.name], "axes": axes} | changes))


def _cells(axes):
    return list_cells(_study(axes).list_axes())


def test_cells_are_the_product_with_seeds_outermost_and_the_last_axis_varying_first():
    cells = _cells({"seed": [0, 1], "model": ["resnet18", "vgg19"], "loss": LOSSES})
    expected = [
        (seed, model, loss) for seed in ("0", "1") for model in ("resnet18", "vgg19") for loss in ("hard", "soft")
    ]
    assert [tuple(cell.labels.values()) for cell in cells] == expected
    moved = _cells({"model": ["resnet18", "vgg19"], "loss": LOSSES, "seed": [0, 1]})
    assert [(c.labels["seed"], c.labels["model"], c.labels["loss"]) for c in moved] == expected
    assert moved[1].name == "resnet18-soft-seed0"


def test_a_value_is_that_of_a_key_or_nested_configuration_or_the_loss_section():
    axes = {
        "lr": [0.1, "3e-2"],
        "optim.weight_decay": [0.001],
        "loss": LOSSES,
        "augment": {"plain": {}, "turned": {"data": {"augment": "radiology", "erase_prob": 0.25}}},
        "train.ema_decay": [None],
    }
    last = _cells(axes)[-1]
    assert last.config == {
        "optim.peak_lr": "3e-2",
        "optim.weight_decay": 0.001,
        "loss.name": "label_smoothing",
        "loss.smoothing": 0.2,
        "data.augment": "radiology",
        "data.erase_prob": 0.25,
        "train.ema_decay": None,
    }
    assert last.name == "lr3e-2-weight_decay0.001-soft-turned-null"
    (run,) = plan_runs(_study({name: _last(values) for name, values in axes.items()}), CONFIG)
    assert run.config.optim.peak_lr == 0.03
    assert run.config.optim.weight_decay == 0.001
    assert run.config.loss == {"name": "label_smoothing", "smoothing": 0.2}
    assert (run.config.data.augment, run.config.data.erase_prob) == ("radiology", 0.25)
    assert run.config.train.ema_decay is None
    assert run.config.train.epochs == 12  # of the file
    assert run.config.run_dir == str(run.run_dir) == f"study/runs/{last.name}"


def _last(values):
    return [values[-1]] if isinstance(values, list) else dict([list(values.items())[-1]])


def test_losses_may_be_a_list_of_names():
    assert [cell.config for cell in _cells({"loss": ["hard", "ols"]})] == [{"loss.name": "hard"}, {"loss.name": "ols"}]


def test_a_long_name_is_cut_where_file_systems_like_it_and_stays_one_of_its_own():
    label = "ä" * 50
    axes = {"a": {label: {}}, "b": {f"{label}-x": {"seed": 1}, f"{label}-y": {}}}
    names = [cell.name for cell in _cells(axes)]
    assert len(set(names)) == 2
    assert all(len(name.encode()) <= MOST_NAME_BYTES and name.startswith(label) for name in names)
    assert names[1:] == [cell.name for cell in _cells(axes | {"b": {f"{label}-y": {}}})]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "axes is empty"),
        ({"seed": []}, "axes.seed is empty"),
        ({"seed": 3}, "axes.seed must be a list of values, or a mapping"),
        ({"seed": [1, 1]}, "axes.seed has a value twice"),
        ({"model": ["vgg19", "vgg19"]}, "axes.model has a value twice"),
        ({"loss": {"a": {"name": "ols"}, "b": {"name": "ols"}}}, "axes.loss has a value twice: a and b"),
        ({"loss": {"a/b": {"name": "ols"}}}, "axes.loss: the label 'a/b' may only have letters"),
        ({"model": ["hf_hub:timm/x"]}, "may only have .* give the value another one in a mapping"),
        ({"loss": {"a": {"smoothing": 0.1}}}, "axes.loss.a has no name"),
        ({"augment": {"a": "radiology"}}, "axes.augment.a must be a mapping"),
        ({"lr": [[0.1]]}, "axes.lr is a list, so"),
        ({"lr": [0.1], "optim.peak_lr": [0.2]}, "axes.lr and axes.optim.peak_lr both set optim.peak_lr"),
        ({"loss": LOSSES, "smoothing": {"a": {"loss": {"smoothing": 0.1}}}}, "both set loss.smoothing"),
        ({"data": ["x"], "data.root": ["a"]}, "axes.data and axes.data.root both set data.root"),
        ({"run_dir": ["a"]}, "axes.run_dir cannot set run_dir: the study does"),
        ({"a": ["x-y", "x"], "b": ["z", "y-z"]}, "one folder x-y-z for .*'x-y'.* and for .*'y-z'"),
        ({"a": ["x", "X"]}, "one folder X for"),
    ],
)
def test_wrong_axes_are_refused_by_name(axes, message):
    with pytest.raises(ValueError, match=message):
        _study(axes)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"seed": 3}, "overrides cannot set seed: the axis seed does"),
        ({"loss": {"momentum": 0.1}}, "overrides cannot set loss.momentum: the axis loss does"),
        ({"model": {"name": "vgg19"}}, "overrides cannot set model.name: the axis model does"),
        ({"run_dir": "x"}, "overrides cannot set run_dir: the study does"),
    ],
)
def test_what_is_varied_cannot_be_overridden_by_the_file_or_the_command(overrides, message):
    axes = {"loss": LOSSES, "model": ["vgg19"], "seed": [0]}
    with pytest.raises(ValueError, match=message):
        _study(axes, overrides=overrides)
    with pytest.raises(ValueError, match="overrides cannot set model: the axis model does"):
        plan_runs(_study(axes), CONFIG, ["--model", "{name: vgg19}"])
    _study({"loss.smoothing": [0.1]}, overrides={"loss": {"name": "label_smoothing"}, "seed": 3})  # not varied


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"configs": []}, "configs is empty"),
        ({"parallel": 0}, "parallel must be at least 1, got 0"),
        ({"command": ["no-such-launcher"]}, "command: there is no 'no-such-launcher'"),
    ],
)
def test_a_wrong_study_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        _study({"seed": [0]}, **changes)


def test_a_study_starts_the_interpreter_of_its_own_process():
    assert _study({"seed": [0]}).command == [sys.executable]


def test_rules_leave_out_what_does_not_belong_together():
    axes = {"freeze": {"all": {}, "none": {}, "part": {"optim": {"layer_decay": 0.5}}}, "lr": [0.01, 0.001, 0.0001]}
    rules = [
        {"when": {"freeze": ["all", "part"]}, "only": {"lr": [0.01, 0.001]}},
        {"when": {"freeze": "none"}, "only": {"lr": [0.001, 0.0001]}},
    ]
    axes["freeze"]["none"] = {"optim": {"layer_decay": 1.0}}
    cells = list_cells(_study(axes).list_axes(), rules)
    assert [(c.labels["freeze"], c.labels["lr"]) for c in cells] == [
        ("all", "0.01"), ("all", "0.001"), ("none", "0.001"), ("none", "0.0001"), ("part", "0.01"), ("part", "0.001")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"when": {"lr": 0.01}}, "a rule has `when` and `only`, got when"),
        ({"when": {"rate": 0.01}, "only": {"lr": 0.01}}, "no axis 'rate'; the study has lr"),
        ({"when": {"lr": 0.01}, "only": {"lr": 0.2}}, "lr has no value '0.2', only 0.01, 0.1"),
        ({"when": {}, "only": {"lr": []}}, "the rules leave no cell"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rule, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        _study({"lr": [0.01, 0.1]}, where=[rule])


def test_the_configuration_of_every_cell_is_that_of_its_command():
    axes = {
        "loss": LOSSES,
        "lr": [0.1, 0.3],
        "optim.weight_decay": [0.0, 0.001],
        "model": ["resnet18", "vgg19"],
        "mix": {"plain": {}, "mixed": {"data": {"mixup_alpha": 0.2}, "train": {"ema_decay": 0.9}}},
        "seed": [3, 4],
    }
    runs = plan_runs(_study(axes), CONFIG, ["--train.epochs=7"])
    assert len(runs) == 64
    for run in runs:
        assert run.config == parse_config(CONFIG, run.arguments)


def test_a_study_of_thousands_of_cells_reads_a_configuration_a_value_and_not_a_cell(monkeypatch):
    """Reading one takes 30 ms: 5,000 would take minutes."""
    read = []
    monkeypatch.setattr("ols.studies.grid.parse_config", lambda *args: read.append(args) or parse_config(*args))
    axes = {"seed": list(range(25)), "lr": [0.01 * n for n in range(1, 11)], "model.name": ["resnet18", "vgg19"]}
    axes |= {"data.erase_prob": [0.1 * n for n in range(10)]}
    assert len(plan_runs(_study(axes), CONFIG)) == 5000
    assert len(read) == 25 + 10 + 2 + 10
