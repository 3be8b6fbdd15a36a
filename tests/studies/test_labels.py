from pathlib import Path

import pytest

from ols.studies.labels import axis_labels, check_comparable, say

OLS = {"loss.name": "ols", "loss.hard_weight": 0.5, "loss.momentum": 0.0, "optim.peak_lr": 0.1, "model.name": "vgg19"}


def test_losses_of_one_name_are_told_apart_by_what_differs():
    configs = [{"loss.name": "hard", "optim.peak_lr": 0.1}, OLS, OLS | {"loss.hard_weight": 0.3}]
    assert axis_labels(configs, ["loss"]) == ["hard", "ols hard_weight=0.5", "ols hard_weight=0.3"]
    configs[2] = OLS | {"optim.peak_lr": 0.2}
    assert axis_labels(configs, ["loss"]) == ["hard", "ols", "ols"]
    together = axis_labels(configs, ["loss", "optim"])
    assert together == ["hard", "ols optim.peak_lr=0.1", "ols optim.peak_lr=0.2"]


def test_a_key_is_called_by_its_value_and_a_section_without_a_name_by_what_differs():
    configs = [OLS, OLS | {"optim.peak_lr": 0.2, "data.augment": "radiology", "data.workers": 3}]
    assert axis_labels(configs, ["optim.peak_lr"]) == ["0.1", "0.2"]
    assert axis_labels(configs, ["data"]) == ["augment=None", "augment=radiology"]  # not of workers
    assert axis_labels(configs, ["model"]) == ["vgg19", "vgg19"]
    assert axis_labels(configs[:1], ["data"]) == [""]
    assert (say("model", "vgg19"), say("optim.peak_lr", "0.1")) == ("vgg19", "optim.peak_lr 0.1")


def test_runs_that_differ_in_more_than_the_axes_are_refused_by_name():
    configs = [OLS | {"seed": 0}, OLS | {"seed": 1, "optim.peak_lr": 0.3, "model.name": "resnet18", "data.root": "x"}]
    dirs = [Path("runs/a"), Path("runs/b")]
    with pytest.raises(ValueError, match="differ in more than loss and seed") as error:
        check_comparable(dirs, configs, allowed=["loss"])
    lines = str(error.value).splitlines()
    assert lines[1:-1] == ["  model.name: 'vgg19' (a), 'resnet18' (b)", "  optim.peak_lr: 0.1 (a), 0.3 (b)"]
    assert "'along' compares along it as well, 'within' compares within each of its values" in lines[-1]
    check_comparable(dirs, configs, allowed=["loss", "model", "optim.peak_lr"])
