"""The losses that people compare with, each against an independent form of its paper's formula."""

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical
from torchvision.ops import sigmoid_focal_loss

from ols.losses import FLSD53, ConfidencePenalty, FocalLoss, HardLabels, LabelSmoothing, MarginLabelSmoothing, MaxSup


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def batch(batch_size=12, num_classes=6, scale=4.0):
    return scale * torch.randn(batch_size, num_classes, dtype=torch.float64), torch.randint(
        0, num_classes, (batch_size,)
    )


def test_max_sup_is_label_smoothing_where_the_prediction_is_right():
    logits, _ = batch()
    got = MaxSup(6, penalty_weight=0.1, reduction="none")(logits, logits.argmax(1))
    torch.testing.assert_close(got, LabelSmoothing(6, smoothing=0.1, reduction="none")(logits, logits.argmax(1)))


def test_max_sup_penalises_the_largest_logit_of_a_wrong_prediction_too():
    logits = torch.tensor([[3.0, 0.0, 0.0]])
    penalty = MaxSup(3)(logits, torch.tensor([1])) - HardLabels(3)(logits, torch.tensor([1]))
    torch.testing.assert_close(penalty, torch.tensor(0.1 * (3 - 1)))


def test_max_sup_adds_its_penalty_sample_by_sample():
    logits, labels = batch()
    weight = torch.rand(6, dtype=torch.float64) + 0.5
    losses = MaxSup(6, reduction="none")(logits, labels)
    expected = (losses * weight[labels]).sum() / weight[labels].sum()
    torch.testing.assert_close(MaxSup(6, weight=weight)(logits, labels), expected)


def test_margin_label_smoothing_averages_the_excess_over_classes():
    logits = torch.tensor([[14.0, 3.0, 1.0, 14.0]])
    loss = MarginLabelSmoothing(4, margin=10.0, penalty_weight=0.1)
    penalty = loss(logits, torch.tensor([0])) - HardLabels(4)(logits, torch.tensor([0]))
    torch.testing.assert_close(penalty, torch.tensor(0.1 * (1 + 3) / 4))


def test_margin_label_smoothing_at_margin_zero_is_max_sup():
    logits, labels = batch()
    options = {"penalty_weight": 0.3, "reduction": "none"}
    torch.testing.assert_close(
        MarginLabelSmoothing(6, margin=0.0, **options)(logits, labels), MaxSup(6, **options)(logits, labels)
    )


def test_margin_label_smoothing_leaves_ignored_labels_out_of_the_penalty():
    logits = torch.tensor([[0.0, 1.0], [50.0, 0.0]])
    loss = MarginLabelSmoothing(2)(logits, torch.tensor([1, -100]))
    torch.testing.assert_close(loss, F.cross_entropy(logits[:1], torch.tensor([1])))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.0])
def test_the_focal_loss_of_two_classes_is_torchvisions_binary_one(gamma):
    logits, labels = batch(num_classes=2)
    difference = logits[:, 1] - logits[:, 0]
    expected = sigmoid_focal_loss(difference, labels.double(), alpha=-1, gamma=gamma)
    torch.testing.assert_close(FocalLoss(2, gamma=gamma, reduction="none")(logits, labels), expected)


def test_the_focal_loss_by_pencil():
    logits = torch.tensor([[0.25, 0.75]]).log()
    loss = FocalLoss(2, gamma=2.0)(logits, torch.tensor([0]))
    torch.testing.assert_close(loss, torch.tensor(0.5625 * 1.3862944))


def test_the_focal_loss_without_focus_is_cross_entropy():
    logits, labels = batch()
    torch.testing.assert_close(FocalLoss(6, gamma=0.0)(logits, labels), F.cross_entropy(logits, labels))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_focal_loss_has_finite_gradients_at_certainty(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    FocalLoss(2, gamma=gamma)(logits, torch.tensor([0, 0])).backward()
    assert logits.grad.isfinite().all()


def test_flsd53_takes_exponent_5_below_a_probability_of_a_fifth_and_3_elsewhere():
    probs = torch.tensor([[0.1, 0.9], [0.19, 0.81], [0.2001, 0.7999], [0.6, 0.4]], dtype=torch.float64)
    got = FLSD53(2, reduction="none")(probs.log(), torch.zeros(4, dtype=torch.int64))
    sure, unsure = (FocalLoss(2, gamma=gamma, reduction="none") for gamma in (3.0, 5.0))
    labels = torch.zeros(2, dtype=torch.int64)
    torch.testing.assert_close(got[:2], unsure(probs[:2].log(), labels))
    torch.testing.assert_close(got[2:], sure(probs[2:].log(), labels))


def test_focal_losses_refuse_probability_targets_in_training_alone():
    logits, target = torch.randn(3, 4), torch.rand(3, 4).softmax(1)
    for loss in (FocalLoss(4), FLSD53(4)):
        with pytest.raises(ValueError, match=f"target must hold class indices for {type(loss).__name__}"):
            loss(logits, target)
        assert torch.equal(loss.eval()(logits, target), F.cross_entropy(logits, target))


def test_the_confidence_penalty_rewards_entropy_summed_over_classes():
    logits, labels = batch()
    prediction = Categorical(logits=logits)
    expected = -prediction.log_prob(labels) - 0.1 * prediction.entropy()
    torch.testing.assert_close(ConfidencePenalty(6, reduction="none")(logits, labels), expected)


def test_the_confidence_penalty_is_the_kl_to_uniform_up_to_a_constant():
    logits, labels = batch()
    uniform = Categorical(logits=torch.zeros(12, 6, dtype=torch.float64))
    divergence = torch.distributions.kl_divergence(Categorical(logits=logits), uniform)
    got = ConfidencePenalty(6, entropy_weight=0.3, reduction="none")(logits, labels)
    hard = HardLabels(6, reduction="none")(logits, labels)
    log_classes = torch.log(torch.tensor(6.0, dtype=torch.float64))
    torch.testing.assert_close(got, hard + 0.3 * (divergence - log_classes))


@pytest.mark.parametrize("kind", [MaxSup, MarginLabelSmoothing, ConfidencePenalty])
def test_a_masked_class_has_no_part_in_the_penalty(kind):
    logits, labels = batch(num_classes=3)
    masked = F.pad(logits, (0, 1), value=-torch.inf).requires_grad_()
    got = kind(4)(masked, labels)
    torch.testing.assert_close(got, kind(3)(logits, labels))
    got.backward()
    assert masked.grad.isfinite().all()
    assert not masked.grad[:, 3].any()
