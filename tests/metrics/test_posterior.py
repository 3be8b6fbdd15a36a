import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from torchmetrics.functional import spearman_corrcoef

from ols.metrics.posterior import posterior_calibration, soft_label_recovery


def test_two_images_by_hand():
    logits = torch.tensor([[0.9, 0.1], [0.4, 0.6]]).log()
    posterior = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    measured = posterior_calibration(logits, posterior)
    first = 0.8 * math.log(8 / 9) + 0.2 * math.log(2)
    second = 0.3 * math.log(3 / 4) + 0.7 * math.log(7 / 6)
    assert measured["posterior_kl"] == pytest.approx((first + second) / 2, abs=1e-6)
    assert measured["confidence_error"] == pytest.approx(0.1)  # |0.9 - 0.8| and |0.6 - 0.7|
    assert measured["confidence_bias"] == pytest.approx(0.0, abs=1e-7)  # which average out with their signs
    assert (measured["count"], measured["nonfinite"]) == (2, 0)


def test_a_wrong_prediction_is_compared_with_the_true_probability_of_what_was_predicted():
    measured = posterior_calibration(torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.25, 0.75]]))
    assert measured["confidence_bias"] == pytest.approx(0.65)


def test_the_truth_itself_has_no_error_and_impossible_labels_cost_nothing():
    posterior = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]], dtype=torch.float64)
    measured = posterior_calibration(posterior.log().clamp_min(-700), posterior)
    assert [measured[name] for name in ("posterior_kl", "confidence_error")] == pytest.approx([0, 0], abs=1e-15)


def test_random_predictions_agree_with_scipy():
    rng = np.random.default_rng(0)
    probs, posterior = rng.dirichlet(np.ones(7), 500), rng.dirichlet(np.full(7, 0.1), 500)
    measured = posterior_calibration(torch.from_numpy(np.log(probs)), torch.from_numpy(posterior))
    assert measured["posterior_kl"] == pytest.approx(entropy(posterior, probs, axis=1).mean())
    top = probs.argmax(1)
    true = posterior[np.arange(500), top]
    assert measured["confidence_error"] == pytest.approx(np.mean(np.abs(probs.max(1) - true)))


def test_a_confusion_with_latent_classes_is_the_posterior_it_stands_for():
    generator = torch.Generator().manual_seed(0)
    confusion = torch.rand(5, 5, generator=generator, dtype=torch.float64)
    confusion /= confusion.sum(1, keepdim=True)
    latent = torch.randint(5, (50,), generator=generator)
    logits = torch.randn(50, 5, generator=generator)
    assert posterior_calibration(logits, confusion, latent=latent) == posterior_calibration(logits, confusion[latent])


def test_rows_with_a_non_finite_logit_are_left_out_and_counted():
    logits = torch.tensor([[0.9, 0.1], [float("nan"), 0.0], [float("inf"), 0.0]])
    posterior = torch.tensor([[0.8, 0.2], [1.0, 0.0], [0.0, 1.0]])
    measured = posterior_calibration(logits, posterior)
    assert (measured["count"], measured["nonfinite"]) == (1, 2)
    assert measured["posterior_kl"] == posterior_calibration(logits[:1], posterior[:1])["posterior_kl"]


def test_a_masked_class_has_no_probability():
    measured = posterior_calibration(torch.tensor([[0.3, 0.3, -torch.inf]]), torch.tensor([[0.5, 0.5, 0.0]]))
    assert measured["count"] == 1
    assert measured["posterior_kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("posterior", "latent", "message"),
    [
        (torch.full((3, 2), 0.5), None, r"posterior must have shape \[4, 2\], got \[3, 2\]"),
        (torch.full((4, 2), 0.6), None, "posterior must hold distributions in its rows, got sum 1.2"),
        (torch.full((2, 2), 0.5), torch.tensor([0, 1, 2, 0]), "latent must hold 4 rows of posterior, below 2"),
        (torch.full((2, 2), 0.5), torch.tensor([0, 1]), "latent must hold 4 rows of posterior, below 2"),
    ],
)
def test_what_does_not_fit_the_logits_is_refused_by_name(posterior, latent, message):
    with pytest.raises(ValueError, match=message):
        posterior_calibration(torch.zeros(4, 2), posterior, latent=latent)


GROUPS = ["a", "a", "a", "b"]
KNOWN = torch.tensor(
    [[0.7, 0.2, 0.1, 0.0], [0.2, 0.7, 0.1, 0.0], [0.1, 0.2, 0.7, 0.0], [0.1, 0.1, 0.1, 0.7]], dtype=torch.float64
)


def test_recovery_by_hand():
    learnt = torch.tensor(
        [
            [0.5, 0.3, 0.1, 0.1],  # ranks 3, 1.5, 1.5 against 3, 2, 1: r = sqrt(3) / 2
            [0.2, 0.6, 0.1, 0.1],  # the same
            [0.3, 0.2, 0.5, 0.0],  # ranks 3, 2, 1 against 2, 3, 1: r = 1 / 2
            [0.2, 0.1, 0.1, 0.6],  # its reference is constant off the diagonal: left out
        ],
        dtype=torch.float64,
    )
    score = soft_label_recovery(learnt, KNOWN, GROUPS)
    assert score["rank_correlation"] == pytest.approx((2 * math.sqrt(3) / 2 + 0.5) / 3)
    assert score["undefined_rows"] == 1
    assert score["rank_correlation_within"] == pytest.approx((1 + 1 - 1) / 3)  # two others of group a
    assert score["undefined_rows_within"] == 1  # the only class of group b
    assert score["off_diagonal"] == pytest.approx((0.5 + 0.4 + 0.5 + 0.4) / 4)
    assert score["reference_off_diagonal"] == pytest.approx(0.3)
    assert score["within_group_share"] == pytest.approx((0.4 + 0.3 + 0.5) / 1.8)
    assert score["reference_within_group_share"] == pytest.approx(0.9 / 1.2)
    assert score["mean_absolute_difference"] == pytest.approx((0.4 + 0.2 + 0.4 + 0.2) / 16)
    assert score["zero_rows"] == 0


def test_rank_correlations_with_ties_and_divergence_agree_with_other_libraries():
    rng = np.random.default_rng(0)
    k = 12
    learnt, known = (np.round(rng.dirichlet(np.ones(k), k), 1) + 0.01 for _ in range(2))  # rounding makes ties
    learnt, known = (matrix / matrix.sum(1, keepdims=True) for matrix in (learnt, known))
    score = soft_label_recovery(torch.from_numpy(learnt), torch.from_numpy(known), ["a"] * k)
    off_diagonal = ~torch.eye(k, dtype=torch.bool)
    columns = [torch.from_numpy(matrix)[off_diagonal].view(k, k - 1).T for matrix in (learnt, known)]
    assert score["rank_correlation"] == pytest.approx(spearman_corrcoef(*columns).mean().item())
    assert score["rank_correlation_within"] == score["rank_correlation"]
    assert score["kl"] == pytest.approx(entropy(known, learnt, axis=1).mean())


def test_a_matrix_recovers_itself():
    score = soft_label_recovery(KNOWN, KNOWN, GROUPS)
    assert [score[name] for name in ("rank_correlation", "mean_absolute_difference", "kl")] == [1, 0, 0]
    assert score["within_group_share"] == score["reference_within_group_share"]


def test_hard_labels_have_no_ranks_and_an_infinite_divergence():
    score = soft_label_recovery(torch.eye(4), KNOWN, GROUPS)
    assert math.isnan(score["rank_correlation"])
    assert score["undefined_rows"] == 4
    assert score["off_diagonal"] == 0
    assert math.isnan(score["within_group_share"])
    assert score["kl"] == math.inf


def test_rows_of_zeros_are_left_out_and_counted():
    learnt = KNOWN.clone()
    learnt[2] = 0
    score = soft_label_recovery(learnt, KNOWN, GROUPS)
    assert score["zero_rows"] == 1
    assert score["rank_correlation"] == 1
    assert score["mean_absolute_difference"] == 0


@pytest.mark.parametrize(
    ("soft_labels", "reference", "message"),
    [
        (torch.eye(3), torch.eye(4), r"soft_labels must have shape \[4, 4\], as groups has, got \[3, 3\]"),
        (torch.eye(4), torch.eye(5), r"reference must have shape \[4, 4\]"),
        (torch.eye(4) * 2, torch.eye(4), "soft_labels must hold distributions in its rows, got sum 2"),
        (torch.eye(4), torch.zeros(4, 4), "reference must hold distributions in its rows, got sum 0"),
        (torch.zeros(4, 4), torch.eye(4), "soft_labels must not be all zero"),
    ],
)
def test_matrices_that_do_not_fit_are_refused_by_name(soft_labels, reference, message):
    with pytest.raises(ValueError, match=message):
        soft_label_recovery(soft_labels, reference, GROUPS)
