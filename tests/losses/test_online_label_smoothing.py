"""Online label smoothing: the fifteen points of its specification, and the mistakes of public implementations."""

import copy
import io
import itertools
import math
import pickle
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data import Mixup
from torch.utils._python_dispatch import TorchDispatchMode

from ols.losses import HardLabels, LabelSmoothing, OnlineLabelSmoothing
from ols.losses.online_label_smoothing import PRESETS


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def predictions(batch=64, num_classes=5, dtype=torch.float32):
    """Return logits of a model that is right on about half of the samples, and their labels."""
    labels = torch.randint(0, num_classes, (batch,))
    return torch.randn(batch, num_classes, dtype=dtype) + 1.5 * F.one_hot(labels, num_classes), labels


def collected_by_hand(logits, labels, num_classes, ignore_index=-100):
    """One sample at a time, in float64, as the paper's equation 5 reads."""
    sums, counts = torch.zeros(num_classes, num_classes, dtype=torch.float64), [0] * num_classes
    for row, label in zip(logits.double(), labels.tolist(), strict=True):
        if label != ignore_index and int(row.argmax()) == label:
            sums[label] += torch.distributions.Categorical(logits=row).probs
            counts[label] += 1
    return sums, counts


def soft_labels_by_hand(logits, labels, previous, ignore_index=-100):
    sums, counts = collected_by_hand(logits, labels, len(previous), ignore_index)
    rows = [sums[k] / counts[k] if counts[k] else previous[k].double() for k in range(len(previous))]
    return torch.stack(rows)


def random_distributions(num_classes):
    return torch.distributions.Dirichlet(torch.ones(num_classes)).sample((num_classes,))


def learnt(loss, *batches):
    for logits, labels in batches:
        loss(logits, labels)
    loss.end_epoch()
    return loss.soft_labels


# Loss


def test_the_loss_is_the_mixture_of_hard_and_soft_cross_entropy():
    logits, labels = predictions()
    soft = random_distributions(5)
    got = OnlineLabelSmoothing(5, hard_weight=0.3, initial=soft)(logits, labels)
    prediction, one_hot = torch.distributions.Categorical(logits=logits), torch.eye(5)[labels]
    target = torch.distributions.Categorical(probs=0.3 * one_hot + 0.7 * soft[labels])
    cross_entropy = torch.distributions.kl_divergence(target, prediction) + target.entropy()
    torch.testing.assert_close(got, cross_entropy.mean())


def test_hard_weight_one_is_hard_labels_with_weights_and_ignored_labels():
    logits, labels = predictions()
    labels[::5] = -100
    for reduction in ("none", "mean", "sum"):
        options = {"weight": torch.rand(5) + 0.5, "reduction": reduction}
        ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        got, expected = (
            OnlineLabelSmoothing(5, hard_weight=1.0, **options)(ours, labels),
            HardLabels(5, **options)(theirs, labels),
        )
        torch.testing.assert_close(got, expected)
        torch.autograd.backward([got.sum(), expected.sum()])
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("hard_weight", [0.0, 0.5])
def test_uniform_soft_labels_without_class_weights_are_label_smoothing(hard_weight):
    logits, labels = predictions()
    labels[::5] = -100
    for target in (labels, torch.rand(64, 5).softmax(1)):
        ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        got = OnlineLabelSmoothing(5, hard_weight=hard_weight)(ours, target)
        expected = F.cross_entropy(theirs, target, label_smoothing=1 - hard_weight)
        torch.testing.assert_close(got, expected)
        torch.autograd.backward([got, expected])
        torch.testing.assert_close(ours.grad, theirs.grad)
    smoothed = OnlineLabelSmoothing(5, hard_weight=0.0, initial="smoothed", smoothing=0.2)
    torch.testing.assert_close(smoothed(logits, labels), LabelSmoothing(5, smoothing=0.2)(logits, labels))


def test_loss_scale_multiplies_the_training_loss_alone():
    logits, labels = predictions()
    plain, doubled = OnlineLabelSmoothing(5), OnlineLabelSmoothing(5, loss_scale=2.0)
    for target in (labels, torch.rand(64, 5).softmax(1)):
        torch.testing.assert_close(doubled(logits, target), 2 * plain(logits, target))
    assert torch.equal(doubled.eval()(logits, labels), plain.eval()(logits, labels))
    zeros, zeros_doubled = (OnlineLabelSmoothing(5, initial="zeros", loss_scale=scale) for scale in (1.0, 2.0))
    torch.testing.assert_close(zeros_doubled(logits, labels), 2 * zeros(logits, labels))


def test_class_weights_multiply_whole_samples_and_do_not_leak_into_other_classes_soft_labels():
    weight = torch.tensor([100.0, 1, 1, 1, 1])
    # A model at the optimum of each sample's own target, 0.5 e_y + 0.5 / 5, has nothing left to learn.
    optimum = 0.5 * torch.eye(5) + 0.1
    logits = optimum.log().requires_grad_()
    loss = OnlineLabelSmoothing(5, weight=weight)
    loss(logits, torch.arange(5)).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(5, 5), atol=1e-7, rtol=0)
    loss.end_epoch()
    torch.testing.assert_close(loss.soft_labels, optimum)


def test_weighted_means_divide_by_label_weights_or_by_the_number_of_samples():
    logits, labels = predictions()
    weight = torch.rand(5) + 0.5
    losses = OnlineLabelSmoothing(5, reduction="none")(logits, labels)
    by_index = OnlineLabelSmoothing(5, weight=weight)(logits, labels)
    torch.testing.assert_close(by_index, (losses * weight[labels]).sum() / weight[labels].sum())
    target = torch.rand(64, 5).softmax(1)
    losses = OnlineLabelSmoothing(5, reduction="none")(logits, target)
    by_probs = OnlineLabelSmoothing(5, weight=weight)(logits, target)
    torch.testing.assert_close(by_probs, (losses * (target @ weight)).sum() / 64)


def test_a_common_offset_of_the_logits_changes_nothing_visible():
    logits, labels = predictions()
    logits = (logits * 64).round() / 64  # so that adding 4096 loses nothing
    loss = OnlineLabelSmoothing(5)
    torch.testing.assert_close(loss(logits + 4096, labels), loss(logits, labels), rtol=1e-6, atol=1e-6)


def test_a_second_derivative_raises_instead_of_being_wrong():
    logits, labels = predictions()
    logits.requires_grad_()
    for loss, target in (
        (OnlineLabelSmoothing(5), labels),
        (OnlineLabelSmoothing(5, initial="zeros"), labels),
        (OnlineLabelSmoothing(5), torch.rand(64, 5).softmax(1)),
    ):
        with pytest.raises(RuntimeError, match="differentiated only once"):
            torch.autograd.grad(loss(logits, target), logits, create_graph=True)
        value = loss(logits, target)
        first = torch.autograd.grad(value, logits, retain_graph=True)[0]
        assert torch.equal(first, torch.autograd.grad(value, logits)[0]), "a retained graph can be walked again"


def test_probability_targets_that_require_grad_are_refused():
    with pytest.raises(ValueError, match="target must not require grad"):
        OnlineLabelSmoothing(3)(torch.randn(2, 3), torch.rand(2, 3).requires_grad_())


# Collection


def test_the_next_soft_labels_are_the_mean_prediction_of_each_class_where_it_is_right():
    loss = OnlineLabelSmoothing(5)
    for _ in range(3):
        previous, batches = loss.soft_labels.clone(), [predictions() for _ in range(3)]
        expected = soft_labels_by_hand(torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches]), previous)
        torch.testing.assert_close(learnt(loss, *batches), expected.float())
        torch.testing.assert_close(loss.soft_labels.sum(1), torch.ones(5))


def test_every_correct_sample_of_a_class_in_a_batch_is_collected_not_one():
    logits = torch.tensor([[3.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]])
    loss = OnlineLabelSmoothing(3)
    loss(logits, torch.tensor([0, 0, 0]))
    assert loss.correct_counts.tolist() == [3, 0, 0]
    torch.testing.assert_close(loss.prob_sums[0], logits.softmax(1).sum(0))


def test_rows_are_looked_up_by_the_true_class_not_the_predicted_one():
    soft = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]])
    logits = torch.tensor([[0.0, 5.0, 0.0]])
    got = OnlineLabelSmoothing(3, hard_weight=0.0, initial=soft)(logits, torch.tensor([0]))
    torch.testing.assert_close(got, -(soft[0] * logits.log_softmax(1)[0]).sum())


def test_wrong_predictions_are_not_collected():
    loss = OnlineLabelSmoothing(3)
    loss(torch.eye(3) * 4, torch.tensor([1, 2, 0]))
    assert not loss.prob_sums.any()
    assert not loss.correct_counts.any()


def test_a_tie_for_the_largest_logit_counts_as_correct_so_that_classes_are_treated_alike():
    loss = OnlineLabelSmoothing(3)
    loss(torch.zeros(3, 3), torch.arange(3))
    assert loss.correct_counts.tolist() == [1, 1, 1]


def test_nothing_is_collected_in_eval_without_gradients_or_frozen():
    logits, labels = predictions()
    loss = OnlineLabelSmoothing(5)
    with torch.no_grad():
        without_grad = loss(logits, labels)
    with torch.inference_mode():
        loss(logits, labels)
    with loss.frozen():
        with loss.frozen():
            pass
        frozen = loss(logits, labels)
        loss(logits, F.one_hot(labels, 5).float())
    loss.eval()(logits, labels)
    assert not loss.correct_counts.any()
    assert torch.equal(loss.train()(logits, labels), frozen)
    assert torch.equal(without_grad, frozen)
    assert loss.correct_counts.any()


def test_an_exception_inside_frozen_leaves_collection_on():
    loss = OnlineLabelSmoothing(5)
    with pytest.raises(KeyError), loss.frozen():
        raise KeyError
    loss(*predictions())
    assert loss.correct_counts.any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_poisoned_sample_does_not_poison_its_class(bad):
    logits, labels = predictions()
    clean = learnt(OnlineLabelSmoothing(5), (logits, labels)).clone()
    poison = torch.zeros(4, 5)
    poison[0] = bad
    poison[1, 0] = bad
    poison[2, 3] = bad
    poison[3, :4] = bad
    both = torch.cat([logits, poison]), torch.cat([labels, torch.tensor([0, 0, 3, 2])])
    if bad == -torch.inf:
        both = torch.cat([logits, poison[:1]]), torch.cat([labels, torch.tensor([0])])
    assert torch.equal(learnt(OnlineLabelSmoothing(5), both), clean)
    one_hot = F.one_hot(both[1], 5).float()
    torch.testing.assert_close(learnt(OnlineLabelSmoothing(5), (both[0], one_hot)), clean)


def test_a_masked_class_takes_part_in_the_collection_with_probability_zero():
    logits = torch.tensor([[2.0, 1.0, -torch.inf]])
    loss = OnlineLabelSmoothing(3, initial="hard")
    assert loss(logits, torch.tensor([0])).isfinite()
    assert learnt(loss, (logits, torch.tensor([0])))[0, 2] == 0
    assert loss(logits, torch.tensor([0])).isfinite()


def test_ignored_labels_neither_count_nor_collect():
    logits, labels = predictions()
    for ignore_index in (-100, 2, 255):
        masked = labels.clone()
        masked[::3] = ignore_index
        loss = OnlineLabelSmoothing(5, ignore_index=ignore_index)
        kept = masked != ignore_index
        torch.testing.assert_close(loss(logits, masked), OnlineLabelSmoothing(5)(logits[kept], masked[kept]))
        sums, counts = collected_by_hand(logits, masked, 5, ignore_index)
        torch.testing.assert_close(loss.prob_sums, sums.float())
        assert loss.correct_counts.tolist() == counts


def test_spatial_targets_collect_at_every_position():
    logits, labels = predictions(24)
    flat, spatial = OnlineLabelSmoothing(5, reduction="none"), OnlineLabelSmoothing(5, reduction="none")
    image, label_map = logits.view(2, 3, 4, 5).permute(0, 3, 1, 2), labels.view(2, 3, 4)
    torch.testing.assert_close(spatial(image, label_map), flat(logits, labels).view(2, 3, 4))
    torch.testing.assert_close(spatial.prob_sums, flat.prob_sums)
    one_hot = F.one_hot(label_map, 5).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(spatial(image, one_hot), flat(logits, labels).view(2, 3, 4))
    torch.testing.assert_close(spatial.prob_sums, 2 * spatial.prob_sums - flat.prob_sums)


def test_mixed_targets_train_but_only_one_hot_rows_collect():
    logits, labels = predictions(4)
    target = F.one_hot(labels, 5).float()
    target[1] = 0.7 * target[1] + 0.3 * target[1].roll(1)
    target[3] = 0.0
    target[3, :2] = 1.0  # two ones are not one-hot
    by_index, by_probs = OnlineLabelSmoothing(5), OnlineLabelSmoothing(5)
    by_index(logits[[0, 2]], labels[[0, 2]])
    by_probs(logits, target)
    torch.testing.assert_close(by_probs.prob_sums, by_index.prob_sums)
    assert torch.equal(by_probs.correct_counts, by_index.correct_counts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_rows_that_timm_smoothed_but_did_not_mix_are_collected(smoothing, dtype):
    """As their labels are; those of two classes are not."""
    logits, labels = predictions(64, 6)
    mixup = Mixup(mixup_alpha=0.8, prob=0.0, num_classes=6, label_smoothing=smoothing)
    _, target = mixup(torch.zeros(64, 1, 2, 2), labels)
    by_index, by_probs = OnlineLabelSmoothing(6), OnlineLabelSmoothing(6)
    by_index(logits, labels)
    by_probs(logits, target.to(dtype))
    assert by_index.correct_counts.sum() > 10
    assert torch.equal(by_probs.correct_counts, by_index.correct_counts)
    torch.testing.assert_close(by_probs.prob_sums, by_index.prob_sums)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mode", ["batch", "elem", "pair"])
def test_of_rows_that_timm_mixed_those_of_one_class_are_collected_and_no_others(mode, smoothing):
    np.random.seed(0)
    labels = torch.randint(0, 4, (64,))
    mixup = Mixup(mixup_alpha=0.8, prob=1.0, mode=mode, num_classes=4, label_smoothing=smoothing)
    _, target = mixup(torch.rand(64, 1, 2, 2), labels)
    loss = OnlineLabelSmoothing(4)
    loss(10 * target, target)  # every row is predicted as its largest class
    of_one = labels == labels.flip(0)  # timm mixes each image with the one as far from the other end
    assert 0 < of_one.sum() < len(labels)
    assert torch.equal(loss.correct_counts, labels[of_one].bincount(minlength=4))


def test_rows_that_only_look_like_smoothed_labels_are_not_collected():
    rows = [
        [0.25, 0.25, 0.25, 0.25],  # no class
        [0.4, 0.4, 0.1, 0.1],  # two
        [0.7, 0.1, 0.1, 0.1000001],  # uneven
        [0.1, 0.3, 0.3, 0.3],  # three
        [2.0, 0.0, 0.0, 0.0],  # no distribution
        [torch.nan, 0.0, 0.0, 0.0],
    ]
    loss = OnlineLabelSmoothing(4)
    for row in rows:
        for label in range(4):
            loss(10 * F.one_hot(torch.tensor([label]), 4).float(), torch.tensor([row]))
    assert loss.correct_counts.sum() == 0
    two = OnlineLabelSmoothing(2)
    two(torch.tensor([[5.0, 0.0], [0.0, 5.0]]), torch.tensor([[0.95, 0.05], [0.0, 1.0]]))
    assert two.correct_counts.tolist() == [0, 1]
    one = OnlineLabelSmoothing(1)
    one(torch.zeros(3, 1), torch.ones(3, 1))
    assert one.correct_counts.tolist() == [3]


def test_an_epoch_of_mixed_rows_alone_ends_with_a_warning_that_says_which_are_collected():
    loss = OnlineLabelSmoothing(3)
    loss(torch.eye(3), torch.eye(3) * 0.6 + torch.eye(3).roll(1, 0) * 0.4)
    with pytest.warns(UserWarning, match="no correct prediction .* of probability targets only one-hot rows"):
        loss.end_epoch()


def test_the_soft_part_of_a_mixed_target_is_the_mixture_of_rows():
    soft, logits = random_distributions(5), torch.randn(3, 5)
    target = torch.rand(3, 5).softmax(1)
    got = OnlineLabelSmoothing(5, hard_weight=0.4, initial=soft, reduction="none")(logits, target)
    rows = torch.stack([sum(target[n, k] * soft[k] for k in range(5)) for n in range(3)])
    torch.testing.assert_close(got, F.cross_entropy(logits, 0.4 * target + 0.6 * rows, reduction="none"))


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 40), max_size=4), num_classes=st.integers(1, 6))
def test_splitting_an_epoch_into_batches_changes_nothing(cuts, num_classes):
    logits, labels = predictions(40, num_classes, torch.float64)
    whole, split = OnlineLabelSmoothing(num_classes).double(), OnlineLabelSmoothing(num_classes).double()
    whole(logits, labels)
    bounds = [0, *sorted(cuts), 40]
    for start, stop in itertools.pairwise(bounds):
        split(logits[start:stop], labels[start:stop])
    torch.testing.assert_close(split.prob_sums, whole.prob_sums)
    assert torch.equal(split.correct_counts, whole.correct_counts)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(5)))
def test_permuting_the_classes_permutes_the_matrix(order):
    order = torch.tensor(order)
    logits, labels = predictions(dtype=torch.float64)
    plain, permuted = OnlineLabelSmoothing(5).double(), OnlineLabelSmoothing(5).double()
    for _ in range(2):
        first = plain(logits, labels)
        second = permuted(logits[:, order], order.argsort()[labels])
        torch.testing.assert_close(first, second)
        plain.end_epoch()
        permuted.end_epoch()
    torch.testing.assert_close(permuted.soft_labels, plain.soft_labels[order][:, order])


def test_gradient_accumulation_learns_the_soft_labels_of_one_large_batch():
    logits, labels = predictions()
    parameter, whole = torch.zeros(5, requires_grad=True), torch.zeros(5, requires_grad=True)
    accumulated, single = OnlineLabelSmoothing(5), OnlineLabelSmoothing(5)
    for part in range(4):
        rows = slice(16 * part, 16 * part + 16)
        (accumulated(logits[rows] + parameter, labels[rows]) / 4).backward()
    single(logits + whole, labels).backward()
    torch.testing.assert_close(parameter.grad, whole.grad)
    accumulated.end_epoch()
    single.end_epoch()
    torch.testing.assert_close(accumulated.soft_labels, single.soft_labels)


def test_a_frozen_second_forward_pass_as_in_sam_learns_the_soft_labels_of_the_first():
    model = torch.nn.Linear(3, 4)
    inputs, labels = torch.randn(16, 3), torch.randint(0, 4, (16,))
    loss, once = OnlineLabelSmoothing(4), OnlineLabelSmoothing(4)
    first = model(inputs)
    loss(first, labels).backward()
    once(first.detach(), labels)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(parameter.grad, alpha=0.5)
    with loss.frozen():
        loss(model(inputs), labels).backward()
    assert torch.equal(loss.prob_sums, once.prob_sums)


# Epoch end


def test_a_class_without_a_correct_prediction_keeps_its_row_and_never_gets_zeros():
    logits, labels = predictions(num_classes=4)
    keep = labels != 3
    soft = random_distributions(4)
    kept = learnt(OnlineLabelSmoothing(4, initial=soft), (logits[keep], labels[keep]))
    assert torch.equal(kept[3], soft[3])
    uniform = learnt(OnlineLabelSmoothing(4, initial=soft, unseen="uniform"), (logits[keep], labels[keep]))
    assert torch.equal(uniform[3], torch.full((4,), 0.25))
    from_zeros = learnt(OnlineLabelSmoothing(4, initial="zeros"), (logits[keep], labels[keep]))
    torch.testing.assert_close(from_zeros.sum(1), torch.ones(4))


@pytest.mark.parametrize("unseen", ["keep", "uniform"])
def test_a_second_end_of_epoch_changes_nothing_and_warns(unseen):
    loss = OnlineLabelSmoothing(5, unseen=unseen)
    before = learnt(loss, predictions()).clone()
    with pytest.warns(UserWarning, match="no correct prediction"):
        loss.end_epoch()
    assert torch.equal(loss.soft_labels, before)


def test_a_held_reference_to_the_soft_labels_stays_current():
    loss = OnlineLabelSmoothing(5)
    soft, sums, counts = loss.soft_labels, loss.prob_sums, loss.correct_counts
    before = soft.clone()
    loss(*predictions())
    assert counts.any()
    assert sums.any()
    loss.end_epoch()
    assert not torch.equal(soft, before)
    assert soft.data_ptr() == loss.soft_labels.data_ptr()
    assert not sums.any()
    assert not counts.any()


@pytest.mark.parametrize("momentum", [0.0, 0.3])
def test_momentum_is_the_share_of_the_old_soft_labels(momentum):
    first, second = predictions(), predictions()
    loss = OnlineLabelSmoothing(5, momentum=momentum)
    old = learnt(loss, first).clone()
    new = learnt(OnlineLabelSmoothing(5), second)
    torch.testing.assert_close(learnt(loss, second), momentum * old + (1 - momentum) * new)


def test_momentum_in_float64_is_not_rounded_to_float32():
    first, second = predictions(dtype=torch.float64), predictions(dtype=torch.float64)
    loss = OnlineLabelSmoothing(5, momentum=0.3).double()
    old = learnt(loss, first).clone()
    new = learnt(OnlineLabelSmoothing(5).double(), second)
    torch.testing.assert_close(learnt(loss, second), 0.3 * old + 0.7 * new, rtol=1e-13, atol=1e-15)


def test_the_prior_counts_as_so_many_correct_predictions_of_the_smoothed_label():
    logits, labels = predictions(20, 4, torch.float64)
    loss = OnlineLabelSmoothing(4, prior_count=6, smoothing=0.2, unseen="uniform").double()
    loss(logits, labels)
    loss.end_epoch()
    for label in range(4):
        right = [row for row, of in zip(logits, labels, strict=True) if of == label == row.argmax()]
        smoothed = torch.full((4,), 0.05, dtype=torch.float64)
        smoothed[label] += 0.8
        by_hand = sum((row.softmax(0) for row in right), 6 * smoothed) / (len(right) + 6)
        torch.testing.assert_close(loss.soft_labels[label], by_hand if right else torch.full_like(by_hand, 0.25))


def test_a_negative_prior_is_refused():
    with pytest.raises(ValueError, match="prior_count must lie in"):
        OnlineLabelSmoothing(4, prior_count=-1)


def test_momentum_does_not_mix_rows_of_zeros_in():
    batch = predictions()
    fresh = learnt(OnlineLabelSmoothing(5), batch)
    learnt_from_zeros = learnt(OnlineLabelSmoothing(5, initial="zeros", momentum=0.5), batch)
    torch.testing.assert_close(learnt_from_zeros, fresh, rtol=1e-6, atol=1e-7)  # mixing zeros in would halve them


def test_a_row_is_frozen_once_its_maximum_has_reached_the_bound_while_its_class_is_seen():
    sure = torch.tensor([[9.0, 0, 0], [0, 9.0, 0], [0, 0, 1.0]])
    loss = OnlineLabelSmoothing(3, freeze_above=0.88, unseen="uniform")
    first = learnt(loss, (sure, torch.arange(3))).clone()
    assert first.amax(1).ge(0.88).tolist() == [True, True, False]
    second = learnt(loss, (sure[[0, 2]] / 2, torch.tensor([0, 2])))
    assert torch.equal(second[0], first[0])
    assert torch.equal(second[1], torch.full((3,), 1 / 3)), (
        "unseen, so reset although frozen, as the authors' code does"
    )
    assert not torch.equal(second[2], first[2])


def test_diagnostics_have_the_values_of_a_matrix_known_by_hand():
    logits = torch.log(torch.tensor([[0.8, 0.2, 1e-30], [0.25, 0.5, 0.25]]))
    loss = OnlineLabelSmoothing(3, hard_weight=0.25)
    loss(logits, torch.tensor([0, 1]))
    diagnostics = loss.end_epoch()
    entropies = [-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)), 1.5 * math.log(2), math.log(3)]
    diagonal = (0.8 + 0.5 + 1 / 3) / 3
    assert diagnostics == pytest.approx(
        {
            "soft_labels/mean_diagonal": diagonal,
            "soft_labels/min_diagonal": 1 / 3,
            "soft_labels/mean_entropy": sum(entropies) / 3,
            "soft_labels/effective_smoothing": 0.75 * (1 - diagonal),
            "soft_labels/unseen_classes": 1,
        },
        rel=1e-5,
    )
    assert all(type(value) is float for value in diagnostics.values())


def test_where_the_model_fits_its_targets_the_smoothing_shrinks_by_the_share_of_the_soft_labels():
    loss = OnlineLabelSmoothing(4, hard_weight=0.6)
    history = []
    for _ in range(4):
        target = 0.6 * torch.eye(4) + 0.4 * loss.soft_labels
        loss(target.log(), torch.arange(4))
        history.append(loss.end_epoch()["soft_labels/effective_smoothing"])
    ratios = [later / earlier for earlier, later in itertools.pairwise(history)]
    assert ratios == pytest.approx([0.4] * 3, rel=1e-4)


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_predictions_are_collected_in_float32(dtype):
    logits, labels = predictions(batch=4000, num_classes=3)
    logits = logits.to(dtype)
    loss = OnlineLabelSmoothing(3).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for start in range(0, 4000, 100):
            loss(logits[start : start + 100], labels[start : start + 100])
    counts = loss.correct_counts
    assert counts.dtype == torch.int64
    torch.testing.assert_close(loss.prob_sums.sum(1), counts.float(), rtol=1e-5, atol=1e-3)
    loss.end_epoch()
    sums, _ = collected_by_hand(logits, labels, 3)
    # Ties of rounded logits are correct here and wrong to argmax, so the comparison leaves room for a few samples.
    torch.testing.assert_close(loss.soft_labels, (sums / sums.sum(1, keepdim=True)).float(), atol=5e-3, rtol=0)


def test_counters_pass_the_bounds_of_half_precision():
    loss = OnlineLabelSmoothing(2).half()
    logits, labels = torch.tensor([[1.0, 0.0]]).expand(3000, 2).half(), torch.zeros(3000, dtype=torch.int64)
    loss(logits, labels)
    loss(logits[:1], labels[:1])
    assert loss.correct_counts.tolist() == [3001, 0]


def test_float64_runs_keep_soft_labels_in_float64_and_nothing_lowers_them():
    logits, labels = predictions(dtype=torch.float64)
    loss = OnlineLabelSmoothing(5).double()
    expected = soft_labels_by_hand(logits, labels, loss.soft_labels)
    torch.testing.assert_close(learnt(loss, (logits, labels)), expected, rtol=1e-14, atol=1e-15)
    for move in (torch.nn.Module.half, torch.nn.Module.bfloat16, torch.nn.Module.float):
        assert move(loss).soft_labels.dtype == torch.float64
    assert loss(logits.float(), labels).dtype == torch.float32
    assert loss.prob_sums.dtype == torch.float64


# State


def test_state_survives_moves_copies_pickles_and_safetensors(tmp_path):
    loss = OnlineLabelSmoothing(5, weight=torch.rand(5), hard_weight=0.3)
    learnt(loss, predictions())
    loss(*predictions())
    state = loss.state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "soft_labels": (5, 5),
        "prob_sums": (5, 5),
        "correct_counts": (5,),
    }
    assert state["correct_counts"].dtype == torch.int64
    safetensors.torch.save_file(state, tmp_path / "loss.safetensors")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded = OnlineLabelSmoothing(5, weight=loss.weight, hard_weight=0.3)
    loaded.load_state_dict(safetensors.torch.load_file(tmp_path / "loss.safetensors"))
    reloaded = OnlineLabelSmoothing(5, weight=loss.weight, hard_weight=0.3)
    reloaded.load_state_dict(torch.load(buffer, weights_only=True))
    next_batch = predictions()
    copies = [
        loaded,
        reloaded,
        copy.deepcopy(loss),
        pickle.loads(pickle.dumps(loss)),
        copy.deepcopy(loss).half(),
        copy.deepcopy(loss).to("cpu"),
    ]
    expected_loss = loss(*next_batch)
    loss.end_epoch()
    for other in copies:
        assert torch.equal(other(*next_batch), expected_loss)
        other.end_epoch()
        assert torch.equal(other.soft_labels, loss.soft_labels)


def test_state_inside_a_parent_module_has_the_same_three_keys_and_strict_loading_notices():
    parent = torch.nn.ModuleDict({"head": torch.nn.Linear(2, 3), "loss": OnlineLabelSmoothing(3)})
    state = parent.state_dict()
    assert {key for key in state if key.startswith("loss.")} == {
        "loss.soft_labels",
        "loss.prob_sums",
        "loss.correct_counts",
    }
    assert parent.load_state_dict(state).missing_keys == []
    del state["loss.prob_sums"]
    with pytest.raises(RuntimeError, match=r"Missing key.*loss.prob_sums"):
        parent.load_state_dict(state)
    state["loss.extra"] = torch.zeros(1)
    keys = parent.load_state_dict(state, strict=False)
    assert keys.missing_keys == ["loss.prob_sums"]
    with pytest.raises(RuntimeError, match=r"Unexpected key.*loss.extra"):
        parent.load_state_dict(state)


def test_a_state_saved_before_the_end_of_an_epoch_resumes_to_the_same_soft_labels():
    first, second = predictions(), predictions()
    loss = OnlineLabelSmoothing(5)
    loss(*first)
    resumed = OnlineLabelSmoothing(5)
    resumed.load_state_dict(copy.deepcopy(loss.state_dict()))
    assert torch.equal(learnt(resumed, second), learnt(loss, second))


def test_a_resume_at_an_epoch_boundary_does_not_erase_the_soft_labels():
    loss = OnlineLabelSmoothing(5)
    learnt(loss, predictions())
    resumed = OnlineLabelSmoothing(5)
    resumed.load_state_dict(loss.state_dict())
    with pytest.warns(UserWarning, match="no correct prediction"):
        resumed.end_epoch()
    assert torch.equal(resumed.soft_labels, loss.soft_labels)


def test_a_state_for_another_number_of_classes_is_refused_before_anything_is_loaded():
    loss = OnlineLabelSmoothing(5)
    before = loss.soft_labels.clone()
    with pytest.raises(ValueError, match=r"soft_labels must have shape \(5, 5\), got \(4, 4\)"):
        loss.load_state_dict(OnlineLabelSmoothing(4).state_dict())
    state = OnlineLabelSmoothing(5, initial="hard").state_dict() | {"correct_counts": torch.zeros(4)}
    with pytest.raises(ValueError, match=r"correct_counts must have shape \(5,\), got \(4,\)"):
        loss.load_state_dict(state)
    assert torch.equal(loss.soft_labels, before)


def test_a_state_whose_rows_are_not_distributions_is_refused_but_rows_of_zeros_are_a_start():
    state = OnlineLabelSmoothing(3).state_dict()
    with pytest.raises(ValueError, match="soft_labels must hold distributions in its rows"):
        OnlineLabelSmoothing(3).load_state_dict(state | {"soft_labels": torch.full((3, 3), 0.4)})
    logits, labels = predictions(num_classes=3)
    zeros, loaded = OnlineLabelSmoothing(3, initial="zeros"), OnlineLabelSmoothing(3)
    loaded.load_state_dict(zeros.state_dict())
    assert torch.equal(loaded(logits, labels), zeros(logits, labels))


# Presets


def authors_epoch(logits, labels, soft, *, hard_share, soft_share, freeze_above=None):
    """One epoch of the authors' training scripts, as their loops go: losses of the batches, next matrix."""
    num_classes, losses = len(soft), []
    sums, counts = torch.zeros_like(soft), torch.zeros(num_classes)
    for batch, label in zip(logits.split(16), labels.split(16), strict=True):
        order = torch.argsort(batch.softmax(1), dim=1, descending=True)
        for k in range(len(batch)):
            if label[k] == order[k, 0]:
                sums[label[k]] += batch.softmax(1)[k]
                counts[label[k]] += 1
        rows = torch.stack([soft[y] for y in label])
        soft_loss = -(batch.log_softmax(1) * rows).sum() / len(batch)
        losses.append(hard_share * torch.nn.CrossEntropyLoss()(batch, label) + soft_share * soft_loss)
    after = soft.clone()
    for k in range(num_classes):
        if counts[k] < 0.5:
            after[k] = 1 / num_classes
        elif freeze_above is None or soft[k].max() < freeze_above:
            after[k] = sums[k] / counts[k]
    return torch.stack(losses), after


@pytest.mark.parametrize(
    ("name", "start", "shares"),
    [("official_cifar", 0.0, (0.5, 0.5, None)), ("official_finegrained", 1 / 6, (1.0, 1.0, 0.88))],
)
def test_the_official_presets_follow_the_authors_loops_step_for_step(name, start, shares):
    loss, soft = OnlineLabelSmoothing.preset(name, 6), torch.full((6, 6), start)
    hard_share, soft_share, freeze_above = shares
    frozen_rows = 0
    for epoch in range(5):
        logits, labels = predictions(64, 5)
        logits = F.pad(logits, (0, 1)) * (0.5 + 2 * epoch)  # class 5 is never seen, and predictions grow sure
        frozen_rows += int((soft.amax(1) >= 0.88).sum())
        losses = torch.stack([loss(z, y) for z, y in zip(logits.split(16), labels.split(16), strict=True)])
        loss.end_epoch()
        expected, soft = authors_epoch(
            logits, labels, soft, hard_share=hard_share, soft_share=soft_share, freeze_above=freeze_above
        )
        torch.testing.assert_close(losses, expected)
        torch.testing.assert_close(loss.soft_labels, soft)
    assert frozen_rows > 0


def test_the_first_epoch_from_zeros_is_half_the_cross_entropy():
    logits, labels = predictions()
    labels[::4] = -100
    loss = OnlineLabelSmoothing.preset("official_cifar", 5)
    assert not loss.soft_labels.any()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    got, expected = loss(ours, labels), F.cross_entropy(theirs, labels) / 2
    torch.testing.assert_close(got, expected)
    torch.autograd.backward([got, expected])
    torch.testing.assert_close(ours.grad, theirs.grad)
    sums, counts = collected_by_hand(logits, labels, 5)
    torch.testing.assert_close(loss.prob_sums, sums.float())
    assert loss.correct_counts.tolist() == counts


def test_presets_are_constructor_arguments_and_an_unknown_one_is_refused():
    assert set(PRESETS) == {"paper", "robust", "official_cifar", "official_finegrained"}
    assert torch.equal(OnlineLabelSmoothing.preset("paper", 4).soft_labels, torch.full((4, 4), 0.25))
    with pytest.raises(
        ValueError, match="name must be one of paper, robust, official_cifar, official_finegrained, got 'x'"
    ):
        OnlineLabelSmoothing.preset("x", 4)


def test_the_starts_are_what_they_say():
    assert torch.equal(OnlineLabelSmoothing(4).soft_labels, torch.full((4, 4), 0.25))
    assert torch.equal(OnlineLabelSmoothing(4, initial="hard").soft_labels, torch.eye(4))
    smoothed = OnlineLabelSmoothing(4, initial="smoothed", smoothing=0.2).soft_labels
    torch.testing.assert_close(smoothed, torch.full((4, 4), 0.05) + 0.8 * torch.eye(4))
    given = random_distributions(4)
    loss = OnlineLabelSmoothing(4, initial=given)
    assert torch.equal(loss.soft_labels, given)
    assert loss.soft_labels.data_ptr() != given.data_ptr()


# Cost


class OperationCount(TorchDispatchMode):
    """Counts what runs on the device: neither views nor allocations."""

    free = (
        "view",
        "unsqueeze",
        "squeeze",
        "expand",
        "detach",
        "empty",
        "alias",
        "slice",
        "select.",
        "_unsafe_view",
        "t.",
    )

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__
        if not name.startswith(self.free) and not func.is_view:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_step_takes_at_most_30_device_operations(weighted, reduction):
    loss = OnlineLabelSmoothing(5, weight=torch.rand(5) if weighted else None, reduction=reduction)
    logits, labels = predictions()
    logits.requires_grad_()
    labels[::7] = -100
    with OperationCount() as count:
        value = loss(logits, labels)
        value.backward(torch.ones_like(value))
    operations = count.names[:]
    operations.remove("ones_like.default")  # the gradient that this test itself passes in
    assert 20 <= len(operations) <= 30, operations


def test_end_epoch_stays_silent_when_there_is_something_to_learn_from():
    loss = OnlineLabelSmoothing(5)
    loss(*predictions())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss.end_epoch()
    assert not loss.correct_counts.any()


def test_neither_the_end_of_an_epoch_nor_loading_allocates_a_third_matrix():
    num_classes = 1500
    matrix = 4 * num_classes**2

    def peak_of(action):
        with torch.profiler.profile(profile_memory=True) as profiled:
            action()
        held = peak = 0
        for event in profiled.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
        return peak

    loss = None

    def build():
        nonlocal loss
        loss = OnlineLabelSmoothing(num_classes)

    assert 2 * matrix < peak_of(build) < 2.1 * matrix  # the measure sees the two there are
    logits = torch.randn(32, num_classes)
    loss(logits.requires_grad_(), logits.argmax(1))
    assert peak_of(loss.end_epoch) < 0.2 * matrix  # 256 rows of 1500
    state = loss.state_dict()
    assert peak_of(lambda: loss.load_state_dict(state)) < 0.6 * matrix  # 256 rows in float64, and which are right


def test_the_entropy_and_the_check_of_many_rows_are_those_of_all_at_once():
    distributions = torch.rand(700, 700).softmax(1)
    loss = OnlineLabelSmoothing(700, initial=distributions)
    logits = torch.randn(4, 700, requires_grad=True)
    loss(logits, logits.argmax(1))
    entropy = loss.end_epoch()["soft_labels/mean_entropy"]
    expected = torch.distributions.Categorical(loss.soft_labels).entropy().mean().item()
    assert entropy == pytest.approx(expected, rel=1e-6)
    distributions[650, 0] += 1
    with pytest.raises(ValueError, match=r"initial must hold distributions in its rows, got sum 2 in row 650"):
        OnlineLabelSmoothing(700, initial=distributions)
