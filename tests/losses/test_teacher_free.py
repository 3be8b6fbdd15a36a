"""Teacher-free knowledge distillation against torch.distributions and the authors' released formula."""

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence

from ols.losses import HardLabels, SelfTeacherKD, VirtualTeacherKD


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def virtual_teacher(labels, num_classes, correct_prob):
    probs = torch.full((len(labels), num_classes), (1 - correct_prob) / (num_classes - 1), dtype=torch.float64)
    probs[torch.arange(len(labels)), labels] = correct_prob
    return probs


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("correct_prob", [0.9, 0.99])
def test_the_papers_form_tempers_both_sides(temperature, correct_prob):
    logits, labels = torch.randn(8, 6, dtype=torch.float64), torch.randint(0, 6, (8,))
    teacher = Categorical(logits=virtual_teacher(labels, 6, correct_prob).log() / temperature)
    student = Categorical(logits=logits / temperature)
    hard = -Categorical(logits=logits).log_prob(labels)
    expected = 0.7 * hard + 0.3 * temperature**2 * kl_divergence(teacher, student)
    options = {"distill_weight": 0.3, "temperature": temperature, "correct_prob": correct_prob}
    got = VirtualTeacherKD(6, reduction="none", **options)(logits, labels)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(VirtualTeacherKD(6, **options)(logits, labels), expected.mean())


def released_loss(logits, labels, alpha, temperature, multiplier, correct_prob=0.99):
    """What the authors' repository computes: KLDivLoss over all elements, a softmax of probabilities."""
    teacher = (virtual_teacher(labels, logits.shape[1], correct_prob) / temperature).softmax(1)
    divergence = torch.nn.KLDivLoss(reduction="none")(logits.log_softmax(1), teacher).mean() * multiplier
    return (1 - alpha) * torch.nn.CrossEntropyLoss()(logits, labels) + alpha * divergence


@pytest.mark.parametrize(
    ("alpha", "temperature", "multiplier"), [(0.1, 20.0, 100.0), (0.95, 40.0, 1.0), (0.5, 1.0, 7.0)]
)
def test_the_release_form_is_the_authors_code_and_a_scaled_label_smoothing(alpha, temperature, multiplier):
    logits = torch.randn(9, 165, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 165, (9,))
    options = {"distill_weight": alpha, "temperature": temperature, "multiplier": multiplier}
    loss = VirtualTeacherKD(165, form="release", **options)
    got, expected = loss(logits, labels), released_loss(logits, labels, alpha, temperature, multiplier)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    (grad,) = torch.autograd.grad(got, logits)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, logits)[0])
    smoothed = F.cross_entropy(logits, labels, label_smoothing=loss.effective_smoothing)
    torch.testing.assert_close(grad, torch.autograd.grad(loss.effective_scale * smoothed, logits)[0], rtol=1e-6, atol=0)
    other_logits = torch.randn(9, 165, dtype=torch.float64)
    other = F.cross_entropy(other_logits, labels, label_smoothing=loss.effective_smoothing)
    constants = got - loss.effective_scale * smoothed, loss(other_logits, labels) - loss.effective_scale * other
    torch.testing.assert_close(*constants, rtol=1e-6, atol=1e-6)


def test_the_release_form_reports_what_it_is_at_the_published_settings():
    loss = VirtualTeacherKD(165, form="release", distill_weight=0.1, temperature=20.0, multiplier=100.0)
    assert loss.effective_scale == pytest.approx(0.9606, abs=5e-5)
    assert loss.effective_smoothing == pytest.approx(0.0631, abs=5e-5)
    assert "effective_scale=0.9606, effective_smoothing=0.06307" in repr(loss)


def test_a_small_multiplier_makes_a_loss_many_times_smaller_than_its_baseline():
    loss = VirtualTeacherKD(165, form="release", distill_weight=0.95, temperature=40.0, multiplier=1.0)
    assert 1 / loss.effective_scale == pytest.approx(17.9, abs=0.1)


def test_the_papers_form_is_not_label_smoothing_and_reports_none():
    loss = VirtualTeacherKD(165)
    assert loss.effective_scale is None
    assert loss.effective_smoothing is None


def test_the_default_multiplier_undoes_the_division_by_the_number_of_classes():
    by_default, by_hand = (VirtualTeacherKD(7, form="release", multiplier=multiplier) for multiplier in (None, 7.0))
    assert by_default.effective_scale == pytest.approx(1.0)
    logits, labels = torch.randn(4, 7), torch.randint(0, 7, (4,))
    assert torch.equal(by_default(logits, labels), by_hand(logits, labels))


@pytest.mark.parametrize("form", ["paper", "release"])
def test_a_certain_teacher_at_temperature_one_is_hard_labels(form):
    logits, labels = torch.randn(8, 6), torch.randint(0, 6, (8,))
    if form == "paper":
        loss = VirtualTeacherKD(6, temperature=1.0, correct_prob=1.0)
        torch.testing.assert_close(loss(logits, labels), HardLabels(6)(logits, labels))
    loss = VirtualTeacherKD(6, form=form, distill_weight=0.0)
    torch.testing.assert_close(loss(logits, labels), HardLabels(6)(logits, labels))


def test_the_labels_weight_multiplies_the_whole_sample():
    logits, labels, weight = torch.randn(8, 6), torch.randint(0, 6, (8,)), torch.rand(6) + 0.5
    losses = VirtualTeacherKD(6, reduction="none")(logits, labels)
    expected = (losses * weight[labels]).sum() / weight[labels].sum()
    torch.testing.assert_close(VirtualTeacherKD(6, weight=weight)(logits, labels), expected)


@pytest.mark.parametrize("temperature", [1.0, 6.0, 20.0])
def test_self_training_distils_the_tempered_teacher(temperature):
    logits, teacher_logits = torch.randn(2, 8, 6, dtype=torch.float64)
    labels = torch.randint(0, 6, (8,))
    logits.requires_grad_()
    divergence = kl_divergence(
        Categorical(logits=teacher_logits / temperature), Categorical(logits=logits / temperature)
    )
    expected = 0.05 * F.cross_entropy(logits, labels) + 0.95 * temperature**2 * divergence.mean()
    got = SelfTeacherKD(6, distill_weight=0.95, temperature=temperature)(logits, labels, teacher_logits)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, logits)[0], torch.autograd.grad(expected, logits)[0])


def test_a_student_equal_to_its_teacher_pays_for_the_hard_label_alone():
    logits, labels = torch.randn(8, 6, dtype=torch.float64), torch.randint(0, 6, (8,))
    loss = SelfTeacherKD(6, distill_weight=0.4)
    torch.testing.assert_close(loss(logits, labels, logits), 0.6 * F.cross_entropy(logits, labels))


def test_no_gradient_reaches_the_teacher():
    teacher_logits = torch.randn(4, 3, requires_grad=True)
    logits = torch.randn(4, 3, requires_grad=True)
    SelfTeacherKD(3)(logits, torch.tensor([0, 1, 2, 0]), teacher_logits).backward()
    assert logits.grad.any()
    assert teacher_logits.grad is None


def test_spatial_self_training_is_the_flattened_one():
    logits, teacher_logits = torch.randn(2, 3, 4, 5)
    labels = torch.randint(0, 4, (3, 5))
    flat = [tensor.permute(0, 2, 1).reshape(-1, 4) for tensor in (logits, teacher_logits)]
    got = SelfTeacherKD(4, reduction="none")(logits, labels, teacher_logits)
    expected = SelfTeacherKD(4, reduction="none")(flat[0], labels.flatten(), flat[1])
    torch.testing.assert_close(got, expected.view(3, 5))


def test_a_class_masked_in_both_student_and_teacher_costs_nothing():
    logits, teacher_logits = torch.randn(2, 4, 3)
    logits[:, 2] = teacher_logits[:, 2] = -torch.inf
    logits.requires_grad_()
    loss = SelfTeacherKD(3)(logits, torch.tensor([0, 1, 1, 0]), teacher_logits)
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert grad.isfinite().all()


def test_the_teacher_is_required_in_training_and_ignored_in_eval():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    loss = SelfTeacherKD(3)
    with pytest.raises(ValueError, match=r"teacher_logits must be floating point of shape \(4, 3\), got None"):
        loss(logits, labels)
    with pytest.raises(ValueError, match=r"teacher_logits .* got torch.float32 \(4, 2\)"):
        loss(logits, labels, torch.randn(4, 2))
    assert torch.equal(loss.eval()(logits, labels), F.cross_entropy(logits, labels))
    assert torch.equal(loss(logits, labels, torch.randn(4, 3)), F.cross_entropy(logits, labels))
