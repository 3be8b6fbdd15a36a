"""Logit normalisation, relaxed and Zipf's labels, by pencil, SciPy and torch's distributions."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from scipy.stats import rankdata
from torch.distributions import Categorical, kl_divergence

from ols.losses import LabelRelaxation, LogitNorm, ZipfLabelSmoothing


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def batch(batch_size=8, num_classes=5, scale=3.0):
    logits = scale * torch.randn(batch_size, num_classes, dtype=torch.float64)
    return logits, torch.randint(0, num_classes, (batch_size,))


def test_logit_norm_by_pencil():
    """(3, 4) has length 5."""
    loss = LogitNorm(2, temperature=0.5)(torch.tensor([[3.0, 4.0]], dtype=torch.float64), torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(0.4)), abs=1e-6)


def test_logit_norm_does_not_fall_with_the_length_of_the_logits_nor_push_along_them():
    logits, labels = batch()
    logits.requires_grad_()
    loss = LogitNorm(5, temperature=0.3, reduction="none")
    torch.testing.assert_close(loss(7 * logits, labels), loss(logits, labels), rtol=0, atol=1e-5)
    (grad,) = torch.autograd.grad(loss(logits, labels).sum(), logits)
    assert (grad * logits).sum(1).abs().max() < 1e-6
    assert grad.norm(dim=1).min() > 1e-3


def test_the_least_logit_norm_is_what_its_docstring_says():
    logits = torch.tensor([4.0, -1.0, -1.0, -1.0, -1.0], dtype=torch.float64)
    distance = math.sqrt(5 / 4) / 0.4
    got = LogitNorm(5, temperature=0.4)(logits, torch.tensor(0))
    assert got.item() == pytest.approx(math.log1p(4 * math.exp(-distance)), rel=1e-5)
    others, labels = batch(100)
    assert LogitNorm(5, temperature=0.4, reduction="none")(others, labels).min() >= got - 1e-6


def test_logit_norm_has_a_finite_gradient_at_logits_of_0():
    logits = torch.zeros(2, 3, requires_grad=True)
    LogitNorm(3)(logits, torch.tensor([0, 1])).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", [LogitNorm, ZipfLabelSmoothing, LabelRelaxation])
def test_a_masked_class_is_as_if_it_were_not_there(kind):
    logits, labels = batch()
    masked = F.pad(logits, (0, 1), value=-torch.inf).requires_grad_()
    got = kind(6)(masked, labels)
    torch.testing.assert_close(got, kind(5)(logits, labels))
    got.backward()
    assert masked.grad.isfinite().all()
    assert not masked.grad[:, 5].any()


def test_label_relaxation_is_the_least_divergence_from_the_set():
    """SciPy looks for the nearest distribution that gives the label 0.7 at least."""
    logits, labels = batch(4, 3, scale=1.0)
    got = LabelRelaxation(3, relaxation=0.3, reduction="none")(logits, labels)
    for row, label, loss in zip(logits.softmax(1).numpy(), labels.tolist(), got.tolist(), strict=True):
        start = np.full(3, 0.1)
        start[label] = 0.8
        found = minimize(
            lambda q, row=row: (q * np.log(q / row)).sum(),
            start,
            bounds=[(1e-9, 1)] * 3,
            constraints=[
                {"type": "eq", "fun": lambda q: q.sum() - 1},
                {"type": "ineq", "fun": lambda q, label=label: q[label] - 0.7},
            ],
            options={"ftol": 1e-12},
        )
        assert loss == pytest.approx(found.fun, abs=1e-6)
    assert (got > 0.01).any()


def test_label_relaxation_asks_for_nothing_more_where_the_label_has_enough():
    logits = torch.tensor([[0.9, 0.1], [0.91, 0.09], [0.5, 0.5]], dtype=torch.float64).log().requires_grad_()
    got = LabelRelaxation(2, relaxation=0.1, reduction="none")(logits, torch.tensor([0, 0, 0]))
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    torch.testing.assert_close(got, torch.tensor([0, 0, expected], dtype=torch.float64), rtol=0, atol=1e-9)
    (grad,) = torch.autograd.grad(got.sum(), logits)
    torch.testing.assert_close(grad[2], torch.tensor([-0.4, 0.4], dtype=torch.float64))
    assert not grad[1].any()


def test_label_relaxation_by_nothing_is_cross_entropy():
    logits, labels = batch()
    torch.testing.assert_close(LabelRelaxation(5, relaxation=0)(logits, labels), F.cross_entropy(logits, labels))


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_zipfs_labels_are_a_power_of_scipys_rank_among_the_other_classes(power):
    logits, labels = batch()
    logits[0, :3] = 1.5  # a tie
    got = ZipfLabelSmoothing(5, zipf_weight=0.3, power=power, reduction="none")(logits, labels)
    for row, label, loss in zip(logits, labels.tolist(), got, strict=True):
        others = [k for k in range(5) if k != label]
        ranks = torch.from_numpy(rankdata(-row.numpy(), method="min"))[others]
        divergence = kl_divergence(Categorical(probs=ranks**-power), Categorical(logits=row[others]))
        torch.testing.assert_close(loss, F.cross_entropy(row, torch.tensor(label)) + 0.3 * divergence)


def test_zipfs_law_by_pencil():
    """The label is right, so the others have ranks 2 and 3: 3/5 and 2/5."""
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    logits[0, 1] += 1e-9
    got = ZipfLabelSmoothing(3, zipf_weight=1.0)(logits, torch.tensor([0])).item()
    assert got == pytest.approx(math.log(2) + 0.6 * math.log(0.6 / 0.5) + 0.4 * math.log(0.4 / 0.5), abs=1e-8)
