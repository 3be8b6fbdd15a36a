import math

import pytest

from ols.metrics.measures import MEASURES, Measure, find_measure


def test_a_number_is_better_on_the_side_that_the_arrow_points_to():
    higher, lower = Measure("accuracy", True), Measure("error", False)
    assert higher.arrow == "↑"
    assert lower.arrow == "↓"
    assert higher.is_better(0.2, than=0.1)
    assert not higher.is_better(0.1, than=0.1)
    assert lower.is_better(0.1, than=0.2)
    assert not lower.is_better(0.2, than=0.1)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_any_number_is_better_than_nan_and_nan_is_better_than_nothing(higher_is_better):
    measure = Measure("m", higher_is_better)
    assert measure.is_better(-5.0, than=math.nan)
    assert measure.is_better(5.0, than=math.nan)
    assert not measure.is_better(math.nan, than=0.0)
    assert not measure.is_better(math.nan, than=math.nan)


def test_what_has_no_better_side_cannot_choose():
    with pytest.raises(ValueError, match="mean confidence"):
        MEASURES["mean_confidence"].is_better(0.1, than=0.2)


def test_a_fraction_is_printed_in_percent_and_what_is_undefined_by_its_absence():
    assert MEASURES["top1"].text(0.12344) == "12.34%"
    assert MEASURES["ece"].text(0.12344) == "0.1234"
    assert MEASURES["ece"].text(0.12344, digits=3) == "0.123"
    assert MEASURES["auc"].text(math.nan) == MEASURES["auc"].text(None) == "n/a"


def test_what_a_temperature_changes_has_a_scaled_twin_and_nothing_else_has():
    names = [name for name in MEASURES if not name.endswith("_scaled")]
    assert len(names) >= 30
    for name in names:
        assert (f"{name}_scaled" in MEASURES) == (MEASURES[name].scaled is False)
    assert MEASURES["nll_scaled"].label == "NLL, scaled"
    assert MEASURES["nll_scaled"].scaled is True
    assert {"top1_scaled", "auc_scaled", "knn_accuracy_scaled"} & MEASURES.keys() == set()


def test_an_unknown_measure_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown measure 'top3'; known: top1, top5, "):
        find_measure("top3")
