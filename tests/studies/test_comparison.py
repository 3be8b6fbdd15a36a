import math
from dataclasses import replace

import numpy as np
import pytest

from ols.studies.comparison import compare_runs, describe, summarise
from ols.studies.evaluated_runs import IMAGE_MEASURES, load_runs


def _of(runs, losses, seeds=range(6)):
    return [run for run in runs if run.label in losses and run.seed in seeds]


def test_a_difference_that_is_there_is_found_in_its_direction(runs_of_six_seeds):
    runs = _of(runs_of_six_seeds, ("hard", "ols"))
    found = {c.measure: c for c in compare_runs(runs)}
    assert list(found) == list(IMAGE_MEASURES)
    top1 = found["top1"]
    mean = {loss: np.mean([run.measures["top1"] for run in _of(runs, [loss])]) for loss in ("hard", "ols")}
    assert top1.difference == pytest.approx(mean["ols"] - mean["hard"])
    assert top1.low < top1.difference < top1.high < -0.05
    assert top1.p_images < 0.05
    assert top1.p_seeds == 0.03125
    assert found["nll"].low > 0
    assert found["aurc"].low > 0


def test_the_same_predictions_under_another_name_differ_in_nothing(runs_of_six_seeds):
    comparisons = compare_runs(_of(runs_of_six_seeds, ("hard", "max_sup")))
    assert len(comparisons) == len(IMAGE_MEASURES)
    for c in comparisons:
        assert (c.difference, c.low, c.high, c.p_images, c.p_seeds) == (0, 0, 0, 1, 1), c.measure


def test_p_values_are_adjusted_over_the_values_of_a_measure(runs_of_six_seeds):
    one = compare_runs(_of(runs_of_six_seeds, ("hard", "ols")))
    two = {(c.measure, c.label): c for c in compare_runs(runs_of_six_seeds)}
    assert one[0].p_seeds == 0.03125
    assert two["top1", "ols"].p_seeds == 0.0625
    assert two["top1", "ols"].p_images == pytest.approx(2 * one[0].p_images)
    assert two["top1", "max_sup"].p_seeds == 1


def test_only_seeds_that_both_have_are_paired(runs_of_six_seeds):
    runs = _of(runs_of_six_seeds, ["hard"], (0, 1, 2)) + _of(runs_of_six_seeds, ["ols"], (1, 2, 3))
    (top1,) = (c for c in compare_runs(runs) if c.measure == "top1")
    value = {(run.label, run.seed): run.measures["top1"] for run in runs}
    assert top1.seeds == 2
    assert top1.difference == pytest.approx(sum(value["ols", s] - value["hard", s] for s in (1, 2)) / 2)
    with pytest.raises(ValueError, match=r"ols shares no seed with hard \(test_resnet\)"):
        compare_runs([run for run in runs if (run.label, run.seed) in {("hard", 0), ("ols", 3)}])


def test_the_reference_is_hard_or_what_is_asked_for(runs_of_six_seeds):
    runs = [run for loss in ("ols", "hard", "max_sup") for run in _of(runs_of_six_seeds, [loss], [0])]
    assert {c.reference for c in compare_runs(runs)} == {"hard"}
    assert {c.label for c in compare_runs(runs, "ols")} == {"hard", "max_sup"}
    assert {c.reference for c in compare_runs([runs[0], runs[2]])} == {"ols"}
    with pytest.raises(ValueError, match="no loss 'old' among these runs: ols, hard, max_sup"):
        compare_runs(runs, "old")


def test_one_seed_works_and_says_nothing_of_seeds(runs_of_six_seeds):
    runs = _of(runs_of_six_seeds, ("hard", "ols"), [0])
    assert math.isnan(summarise(runs)[0].deviation["top1"])
    assert all(math.isnan(c.p_seeds) for c in compare_runs(runs))


def test_values_are_compared_within_each_setting_and_paired_over_it(runs_of_six_seeds):
    strong = [replace(run, setting={"model": "resnet34"}) for run in _of(runs_of_six_seeds, ("hard", "ols"), (0, 1))]
    weak = [
        replace(run, setting={"model": "resnet18"}, measures=run.measures | {"top1": run.measures["top1"] - 0.1})
        for run in _of(runs_of_six_seeds, ("hard", "ols"), (0, 1))
    ]
    comparisons = [c for c in compare_runs([*strong, *weak]) if c.measure == "top1"]
    assert [(c.setting["model"], c.label, c.reference, c.seeds) for c in comparisons] == [
        ("resnet34", "ols", "hard", 2),
        ("resnet18", "ols", "hard", 2),
    ]
    assert comparisons[0].difference == pytest.approx(comparisons[1].difference)
    assert [(s.setting["model"], s.label, s.seeds) for s in summarise([*strong, *weak])] == [
        (model, loss, 2) for model in ("resnet34", "resnet18") for loss in ("hard", "ols")
    ]
    with pytest.raises(ValueError, match="no runs of resnet18 with the reference hard"):
        compare_runs([*strong, *(run for run in weak if run.label == "ols")])


def test_models_are_compared_along_their_axis_within_each_loss(write_run):
    dirs = [
        write_run(loss, 0, f"--model.name={model}", name=f"{loss}-{model}", strength=strength)
        for loss in ("hard", "ols")
        for model, strength in (("resnet18", 1.0), ("resnet34", 1.5))
    ]
    runs = load_runs(dirs, along=["model"], resamples=10)
    found = [(c.axis, c.setting, c.label, c.reference) for c in compare_runs(runs) if c.measure == "top1"]
    assert found == [("model", {"loss": loss}, "resnet34", "resnet18") for loss in ("hard", "ols")]
    assert all(c.difference > 0 for c in compare_runs(runs) if c.measure == "top1")
    assert describe({"model": "resnet18", "optim.peak_lr": "0.1", "data": ""}) == "resnet18, optim.peak_lr 0.1"
