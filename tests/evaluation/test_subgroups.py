import numpy as np
import pytest
from sklearn.metrics import recall_score, roc_auc_score

from ols.evaluation.draws import BinaryOutputs
from ols.evaluation.subgroups import MEASURED, bands, markdown, subgroups


def _outputs(score, positive, patients=None):
    names = [str(i) for i in range(len(score))]
    return BinaryOutputs(score, positive, np.array(names) if patients is None else patients, names)


def _cohort(size=300, worse=0.0, seed=0):
    rng = np.random.default_rng(seed)
    positive, sex = rng.random(size) < 0.5, np.where(rng.random(size) < 0.5, "F", "M")
    score = rng.normal(size=size) + np.where(positive, 1.0, -1.0) * (1 - worse * (sex == "F"))
    return _outputs(score, positive), sex


def test_each_subgroup_is_measured_on_its_own_images():
    outputs, sex = _cohort()
    view = np.where(np.arange(300) % 3 == 0, "AP", "PA")
    view[:40] = ""
    rows, gaps = subgroups(outputs, {"sex": sex, "view": view}, resamples=200)
    assert [(row.attribute, row.value) for row in rows] == [
        ("sex", "F"), ("sex", "M"), ("view", ""), ("view", "AP"), ("view", "PA"),
    ]  # fmt: skip
    for row in rows:
        inside = {"sex": sex, "view": view}[row.attribute] == row.value
        positive, score = outputs.positive[inside], outputs.score[inside]
        assert (row.images, row.patients, row.positives) == (inside.sum(), inside.sum(), positive.sum())
        assert row.measures["auc"].value == pytest.approx(roc_auc_score(positive, score))
        assert row.measures["sensitivity"].value == pytest.approx(recall_score(positive, score > 0))
        assert row.measures["specificity"].value == pytest.approx(recall_score(~positive, score <= 0))
        assert row.measures["auc"].low < row.measures["auc"].value < row.measures["auc"].high <= 1
    by_name = {(gap.attribute, gap.measure): gap for gap in gaps}
    assert len(by_name) == 2 * len(MEASURED)
    values = {row.value: row.measures["auc"].value for row in rows if row.attribute == "view" and row.value}
    gap = by_name["view", "auc"]
    assert (gap.highest, gap.lowest) == (max(values, key=values.get), min(values, key=values.get))  # "" has no part
    assert gap.gap.value == pytest.approx(max(values.values()) - min(values.values()))


def test_a_gap_is_read_beside_what_chance_alone_shows():
    outputs, sex = _cohort(worse=1.0)
    gap = next(gap for gap in subgroups(outputs, {"sex": sex}, resamples=300)[1] if gap.measure == "auc")
    assert (gap.highest, gap.lowest) == ("M", "F")
    assert gap.gap.low > 0.2 > gap.chance > 0
    assert gap.p_value == pytest.approx(1 / 301)
    p_values = []
    for seed in range(8):
        outputs, sex = _cohort(size=120, seed=seed)
        gap = next(gap for gap in subgroups(outputs, {"sex": sex}, resamples=100)[1] if gap.measure == "auc")
        p_values.append(gap.p_value)
    assert min(p_values) > 0.01
    assert max(p_values) > 0.3


def test_a_subgroup_without_a_positive_has_no_sensitivity_and_no_part_in_its_gap():
    score = np.array([2.0, -1, 1, -2, -1, -2])
    positive = np.array([True, False, True, False, False, False])
    rows, gaps = subgroups(_outputs(score, positive), {"view": ["AP", "AP", "PA", "PA", "LL", "LL"]}, resamples=50)
    assert "| view | LL | 2 | 2 | 0 | - | 1.000 | - |" in markdown(rows, gaps)
    lateral = next(row for row in rows if row.value == "LL")
    assert np.isnan(lateral.measures["sensitivity"].value)
    assert np.isnan(lateral.measures["auc"].low)
    assert lateral.measures["specificity"].value == 1
    assert {gap.measure for gap in gaps if "LL" in (gap.highest, gap.lowest)} <= {"specificity", "ece"}


def test_ages_fall_into_bands_with_their_lower_end_inside():
    assert bands([12, 40, 59.9, 60, 99, np.nan], [40, 60]).tolist() == ["<40", "40-60", "40-60", ">=60", ">=60", ""]
    with pytest.raises(ValueError, match="ascend"):
        bands([1], [60, 40])


def test_an_attribute_needs_a_value_for_each_image():
    with pytest.raises(ValueError, match="sex has \\[2\\] values for 6 images"):
        subgroups(_outputs(np.zeros(6), np.arange(6) % 2 == 0), {"sex": ["F", "M"]})


def test_there_is_no_interval_from_few_patients_or_where_every_draw_is_the_same():
    rng = np.random.default_rng(0)
    positive, site = rng.random(200) < 0.5, np.where(np.arange(200) < 150, "north", "south")
    patients = np.arange(200).astype(str)
    patients[(site == "south") & positive] = [f"p{number % 4}" for number in range(sum(positive[150:]))]
    score = np.where(positive, 1.0, -1.0) + np.where(site == "north", 0, rng.normal(size=200))
    rows, gaps = subgroups(_outputs(score, positive, patients), {"site": site}, resamples=100)
    north, south = (row.measures for row in rows)
    assert all(north[measure].value == 1 for measure in ("sensitivity", "specificity", "auc"))
    assert all(np.isnan(north[measure].low) for measure in ("sensitivity", "specificity", "auc"))
    assert [measure for measure in MEASURED if np.isnan(south[measure].low)] == ["sensitivity", "auc"]  # of 4 patients
    of = {gap.measure: gap.gap for gap in gaps}
    assert of["auc"].value == pytest.approx(1 - south["auc"].value)
    assert np.isnan(of["auc"].low)
    assert of["specificity"].low < of["specificity"].value
