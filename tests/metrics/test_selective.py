import itertools

import numpy as np
import pytest
import torch
from metrics.cases import drawn_case
from sklearn.metrics import roc_auc_score

from ols.metrics.selective import (
    is_correct,
    maximum_probability,
    normalized_maximum_logit,
    risk_coverage,
    selective_metrics,
)


def test_the_curve_and_its_area_by_pencil():
    """Right, wrong, right, right in order of confidence: risks 0, 1/2, 1/3, 1/4; the best order: 0, 0, 0, 1/4."""
    score, correct = torch.tensor([0.6, 0.9, 0.8, 0.7]), torch.tensor([True, True, False, True])
    curve = risk_coverage(score, correct)
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert curve.risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4])
    found = selective_metrics(score, correct)
    assert found["aurc"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert found["e_aurc"] == pytest.approx((1 / 2 + 1 / 3) / 4)
    assert found["failure_auroc"] == pytest.approx(1 / 3)
    assert (found["coverage_at_risk_1"], found["coverage_at_risk_5"]) == (0.25, 0.25)


def test_equal_scores_count_as_the_mean_over_their_orders():
    correct = torch.tensor([True, False, True, False, False])
    tied = torch.tensor([0.9, 0.5, 0.5, 0.5, 0.1])
    areas = []
    for order in itertools.permutations([0.4, 0.5, 0.6]):
        score = tied.clone()
        score[1:4] = torch.tensor(order)
        areas.append(selective_metrics(score, correct)["aurc"])
    assert len(set(areas)) > 1
    found = selective_metrics(tied, correct)
    assert found["aurc"] == pytest.approx(np.mean(areas), abs=1e-12)
    shuffle = torch.tensor([3, 0, 4, 2, 1])
    assert selective_metrics(tied[shuffle], correct[shuffle]) == found
    assert risk_coverage(tied, correct).coverage.tolist() == [0.2, 0.8, 1.0]  # no threshold accepts 2 or 3 samples


def test_failures_are_ranked_as_by_scikit_learn():
    logits, target = drawn_case(2000)
    correct = is_correct(logits, target)
    for score in (
        maximum_probability(logits),
        normalized_maximum_logit(logits),
        maximum_probability(logits).round(decimals=1),
    ):
        found = selective_metrics(score, correct)
        assert found["failure_auroc"] == pytest.approx(roc_auc_score(correct, score), abs=1e-12)
        assert 0 <= found["e_aurc"] <= found["aurc"]


def test_coverage_at_risk_is_what_the_best_threshold_accepts():
    logits, target = drawn_case(5000, temperature=0.3)
    score, correct = maximum_probability(logits), is_correct(logits, target)
    found = selective_metrics(score, correct)
    for risk, name in ((0.01, "coverage_at_risk_1"), (0.05, "coverage_at_risk_5")):
        accepted = [(score >= threshold) for threshold in score.unique()]
        allowed = [float(a.double().mean()) for a in accepted if (~correct[a]).double().mean() <= risk]
        assert 0.05 < found[name] < 1
        assert found[name] == pytest.approx(max(allowed))


def test_perfect_and_hopeless_models():
    perfect = selective_metrics(torch.rand(10), torch.ones(10, dtype=torch.bool))
    assert (perfect["aurc"], perfect["e_aurc"], perfect["coverage_at_risk_1"]) == (0, 0, 1)
    assert np.isnan(perfect["failure_auroc"])
    hopeless = selective_metrics(torch.rand(10), torch.zeros(10, dtype=torch.bool))
    assert (hopeless["aurc"], hopeless["e_aurc"], hopeless["coverage_at_risk_5"]) == (1, 0, 0)


def test_the_normalised_score_by_pencil_and_without_unit():
    """(3, 4, -7) has the 2-norm sqrt(74), and mean 0; moved by 5 and times 1e30 it scores the same."""
    logits = torch.tensor([[3.0, 4.0, -7.0]], dtype=torch.float64)
    assert float(normalized_maximum_logit(logits)) == pytest.approx(4 / 74**0.5)
    assert float(normalized_maximum_logit(logits + 5)) == pytest.approx(4 / 74**0.5)
    assert float(normalized_maximum_logit(logits * 1e200)) == pytest.approx(4 / 74**0.5)
    assert float(normalized_maximum_logit(logits, p=1)) == pytest.approx(4 / 14)
    assert float(normalized_maximum_logit(torch.ones(1, 3))) == 0


def test_rows_that_are_not_finite_are_errors_and_are_accepted_last():
    logits = torch.tensor([[3.0, 0.0], [torch.nan, 1.0], [torch.inf, 0.0], [0.5, 0.0]])
    correct = is_correct(logits, torch.zeros(4, dtype=torch.long))
    assert correct.tolist() == [True, False, False, True]
    for score in (maximum_probability(logits), normalized_maximum_logit(logits)):
        assert score[1:3].tolist() == [-torch.inf, -torch.inf]
        assert selective_metrics(score, correct)["e_aurc"] == 0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="2 scores are NaN"):
        risk_coverage(torch.tensor([torch.nan, 1, torch.nan]), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"expected score and correct \[N\], got \[3\] and \[2\]"):
        selective_metrics(torch.ones(3), torch.ones(2))
    with pytest.raises(ValueError, match="p must be positive, got 0"):
        normalized_maximum_logit(torch.ones(1, 2), p=0)


def test_a_masked_class_counts_as_absent():
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.9]])
    masked = torch.cat([logits, torch.full((2, 1), -torch.inf)], dim=1)
    torch.testing.assert_close(normalized_maximum_logit(masked), normalized_maximum_logit(logits))
    torch.testing.assert_close(maximum_probability(masked), maximum_probability(logits))
    assert is_correct(masked, torch.tensor([0, 2])).all()
    assert maximum_probability(torch.full((1, 2), -torch.inf)).item() == -torch.inf
