"""Label Smoothing++, progressive self-distillation, and the warm start of online label smoothing."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from ols.losses import LabelSmoothing, LabelSmoothingPlusPlus, OnlineLabelSmoothing, ProgressiveSelfKD
from ols.losses.ols_fixed_point import ols_fixed_point


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def twice(tensor):
    """Two ranks with the same sums."""
    return 2 * tensor


def logits_of(*rows):
    return torch.tensor(rows, dtype=torch.float64).log().requires_grad_()


def test_label_smoothing_pp_begins_as_label_smoothing_over_the_other_classes():
    logits, labels = torch.randn(6, 5, dtype=torch.float64), torch.arange(6) % 5
    got = LabelSmoothingPlusPlus(5, smoothing=0.2)(logits, labels)
    torch.testing.assert_close(got, LabelSmoothing(5, smoothing=0.2 * 5 / 4)(logits, labels))


def test_the_relations_of_label_smoothing_pp_by_pencil():
    """Samples count right or wrong: others of class 0 have .2 + .3 and .1 + .6, class 2 none."""
    loss = LabelSmoothingPlusPlus(3, smoothing=0.4).double()
    loss(logits_of([0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.25, 0.5, 0.25]), torch.tensor([0, 0, 1]))
    diagnostics = loss.end_epoch()
    expected = torch.tensor([[0, 5 / 12, 7 / 12], [0.5, 0, 0.5], [0.5, 0.5, 0]], dtype=torch.float64)
    torch.testing.assert_close(loss.relations, expected)
    entropy = -(5 / 12 * math.log(5 / 12) + 7 / 12 * math.log(7 / 12)) + 2 * math.log(2)
    assert diagnostics["relations/mean_entropy"] == pytest.approx(entropy / 3)
    logits = torch.randn(1, 3, dtype=torch.float64)
    target = torch.tensor([[0.6, 0.4 * 5 / 12, 0.4 * 7 / 12]], dtype=torch.float64)
    torch.testing.assert_close(loss(logits, torch.tensor([0])), F.cross_entropy(logits, target))


def test_the_reverse_cross_entropy_has_no_gradient_left_at_the_relations_and_is_higher_elsewhere():
    logits, labels = torch.randn(40, 4, dtype=torch.float64, requires_grad=True), torch.arange(40) % 4
    loss = LabelSmoothingPlusPlus(4).double()
    loss(logits, labels)
    loss.end_epoch()

    def reverse_cross_entropy(free):
        target = 0.9 * F.one_hot(labels, 4) + 0.1 * free.softmax(1)[labels]
        return -(logits.detach().softmax(1) * target.log()).sum()

    learnt = loss.relations.log().requires_grad_()
    (grad,) = torch.autograd.grad(reverse_cross_entropy(learnt), learnt)
    torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-9)
    for _ in range(5):
        assert reverse_cross_entropy(learnt + 0.1 * torch.randn(4, 4)) > reverse_cross_entropy(learnt) + 1e-4


@pytest.mark.parametrize("kind", [LabelSmoothingPlusPlus, ProgressiveSelfKD])
def test_what_is_not_finite_or_ignored_or_frozen_or_evaluated_is_not_remembered(kind):
    extra = {"num_samples": 4, "epochs": 3} if kind is ProgressiveSelfKD else {}
    loss, index = kind(3, **extra), ([torch.arange(4)] if extra else [])
    logits = torch.randn(4, 3, requires_grad=True)
    with loss.frozen():
        loss(logits, torch.tensor([0, 1, 2, 0]), *index)
    with torch.no_grad():
        loss(logits, torch.tensor([0, 1, 2, 0]), *index)
    loss.eval()(logits, torch.tensor([0, 1, 2, 0]), *index)
    broken = logits.detach().clone()
    broken[1] = torch.nan
    loss.train()(broken.requires_grad_(), torch.tensor([-100, 1, -100, -100]), *index)
    assert not any(sums.any() for sums in loss.collected().values())


def test_a_sample_learns_from_its_own_past_prediction_by_a_share_that_grows():
    loss = ProgressiveSelfKD(2, num_samples=3, epochs=4, final_distill_weight=0.8, memory="float32").double()
    first = logits_of([0.75, 0.25], [0.5, 0.5])
    labels = torch.tensor([0, 1])
    torch.testing.assert_close(loss(first, labels, torch.tensor([2, 0])), F.cross_entropy(first, labels))
    diagnostics = loss.end_epoch()
    assert diagnostics == {"past/distill_weight": pytest.approx(0.4), "past/known_fraction": pytest.approx(2 / 3)}
    second = logits_of([0.6, 0.4], [0.1, 0.9])
    got = ProgressiveSelfKD.forward(loss, second, labels, torch.tensor([2, 1]))  # sample 1 has no past
    past = 0.6 * torch.tensor([1.0, 0.0]) + 0.4 * torch.tensor([0.75, 0.25])
    expected = -(past[0] * math.log(0.6) + past[1] * math.log(0.4) + math.log(0.9)) / 2
    torch.testing.assert_close(got, expected.double())
    loss.end_epoch()
    expected = torch.tensor([[0.5, 0.5], [0.1, 0.9], [0.6, 0.4]], dtype=torch.float64)
    torch.testing.assert_close(loss.past_probs, expected)
    for _ in range(5):
        loss.end_epoch()
    assert loss.distill_weight.item() == pytest.approx(0.8)


def test_progressive_self_distillation_trains_as_a_loop_over_a_table_of_all_predictions():
    """As the authors' training goes: each batch's soft targets are made from the table, then its rows are replaced."""
    count, classes, epochs = 48, 5, 6
    images, labels = torch.randn(count, 4, dtype=torch.float64), torch.randint(classes, (count,))
    ours = torch.nn.Linear(4, classes, dtype=torch.float64)
    theirs = copy.deepcopy(ours)
    optimizers = [torch.optim.SGD(model.parameters(), 0.5, momentum=0.9) for model in (ours, theirs)]
    loss = ProgressiveSelfKD(classes, num_samples=count, epochs=epochs, memory="float32").double()
    hard = F.one_hot(labels, classes).double()
    table = hard.clone()
    for epoch in range(epochs):
        share = 0.8 * (epoch + 1) / epochs
        for batch in torch.randperm(count).split(16):
            logits = theirs(images[batch])
            expected = F.cross_entropy(logits, torch.lerp(hard[batch], table[batch], share))
            table[batch] = logits.softmax(1).detach()
            got = loss(ours(images[batch]), labels[batch], batch)
            torch.testing.assert_close(got, expected)
            for optimizer, value in zip(optimizers, (got, expected), strict=True):
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
        loss.end_epoch()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(loss.past_probs, table)


@pytest.mark.parametrize("kind", [LabelSmoothingPlusPlus, ProgressiveSelfKD])
def test_what_was_remembered_survives_a_checkpoint_inside_an_epoch_and_ranks_that_add_up(kind):
    extra = {"num_samples": 6, "epochs": 3, "memory": "float32"} if kind is ProgressiveSelfKD else {}
    loss, index = kind(3, **extra), ([torch.arange(6)] if extra else [])
    labels = torch.arange(6) % 3
    loss(torch.randn(6, 3, requires_grad=True), labels, *index)
    loss.end_epoch()
    loss(torch.randn(6, 3, requires_grad=True), labels, *index)
    resumed = kind(3, **extra)
    resumed.load_state_dict(copy.deepcopy(loss.state_dict()))
    loss.end_epoch()
    resumed.end_epoch(reduce=twice)
    for key, value in loss.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value)
    logits = torch.randn(6, 3)
    assert torch.equal(loss(logits, labels, *index), resumed(logits, labels, *index))


def test_half_the_memory_costs_three_digits():
    logits, labels, index = torch.randn(50, 20, requires_grad=True), torch.arange(50) % 20, torch.arange(50)
    found = []
    for memory in ("float16", "float32"):
        loss = ProgressiveSelfKD(20, num_samples=50, epochs=1, memory=memory)
        loss(logits, labels, index)
        loss.end_epoch()
        found.append(loss(logits, labels, index))
        assert loss.past_probs.dtype == getattr(torch, memory)
    torch.testing.assert_close(*found, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("options", "index", "message"),
    [
        ({"num_samples": 9, "epochs": 1}, None, r"index must hold whole numbers of shape \(2,\), got None"),
        (
            {"num_samples": 9, "epochs": 1},
            torch.zeros(3, dtype=torch.int64),
            r"of shape \(2,\), got torch.int64 \(3,\)",
        ),
        ({"num_samples": 9, "epochs": 1}, torch.zeros(2), r"of shape \(2,\), got torch.float32 \(2,\)"),
        ({"epochs": 1}, torch.arange(2), "num_samples must be given to ProgressiveSelfKD for training, got None"),
        ({"num_samples": 9}, torch.arange(2), "epochs must be given to ProgressiveSelfKD for training, got None"),
    ],
)
def test_progressive_self_distillation_says_what_it_lacks(options, index, message):
    with pytest.raises(ValueError, match=message):
        ProgressiveSelfKD(3, **options)(torch.randn(2, 3), torch.tensor([0, 1]), index)


def test_a_class_keeps_its_first_row_until_it_was_right_often_enough_over_the_epochs():
    """Of class 0 one is right in each epoch, of class 1 none in the first two."""
    options = {"initial": "smoothed", "smoothing": 0.2, "unseen": "uniform", "min_correct": 2}
    loss = OnlineLabelSmoothing(2, **options).double()
    smoothed = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    loss(logits_of([0.8, 0.2], [0.7, 0.3]), torch.tensor([0, 1]))
    loss.end_epoch()
    torch.testing.assert_close(loss.soft_labels, smoothed)
    assert loss.total_correct.tolist() == [1, 0]
    loss(logits_of([0.6, 0.4]), torch.tensor([0]))
    loss.end_epoch()
    smoothed[0] = torch.tensor([0.6, 0.4])
    torch.testing.assert_close(loss.soft_labels, smoothed)
    loss(logits_of([0.2, 0.8], [0.4, 0.6]), torch.tensor([1, 1]))
    loss.end_epoch()
    expected = torch.tensor([[0.5, 0.5], [0.3, 0.7]], dtype=torch.float64)  # class 0, unseen, has begun
    torch.testing.assert_close(loss.soft_labels, expected)


def test_the_warm_start_counts_over_ranks_and_resumes():
    loss = OnlineLabelSmoothing(2, initial="hard", min_correct=2)
    loss(logits_of([0.8, 0.2]).float(), torch.tensor([0]))
    resumed = OnlineLabelSmoothing(2, initial="hard", min_correct=2)
    resumed.load_state_dict(copy.deepcopy(loss.state_dict()))
    loss.end_epoch()
    assert torch.equal(loss.soft_labels, torch.eye(2))
    resumed.end_epoch(reduce=twice)
    torch.testing.assert_close(resumed.soft_labels, torch.tensor([[0.8, 0.2], [0.0, 1.0]]))
    again = OnlineLabelSmoothing(2, initial="hard", min_correct=2)
    again.load_state_dict(copy.deepcopy(resumed.state_dict()))
    assert again.total_correct.tolist() == [2, 0]


@pytest.mark.parametrize("min_correct", [0, 1])
def test_no_warm_start_and_one_correct_prediction_are_what_was_before_to_the_bit(min_correct):
    plain, warm = OnlineLabelSmoothing(4), OnlineLabelSmoothing(4, min_correct=min_correct)
    for _ in range(3):
        logits, labels = torch.randn(9, 4, requires_grad=True), torch.randint(0, 4, (9,))
        assert torch.equal(plain(logits, labels), warm(logits, labels))
        assert plain.end_epoch() == warm.end_epoch()
        assert torch.equal(plain.soft_labels, warm.soft_labels)


@pytest.mark.parametrize("initial", ["hard", "smoothed"])
def test_a_warm_start_ends_at_the_same_fixed_point(initial):
    """A perfect fit of rare and frequent classes, of which the rare one begins last."""
    confusion = torch.tensor([[0.75, 0.15, 0.1], [0.05, 0.7, 0.25], [0.2, 0.05, 0.75]], dtype=torch.float64)
    counts = (confusion * torch.tensor([[20], [40], [80]])).round().long()
    latent, labels = (
        part.repeat_interleave(counts.flatten()) for part in torch.cartesian_prod(*[torch.arange(3)] * 2).T
    )
    loss = OnlineLabelSmoothing(3, initial=initial, min_correct=60).double()
    begun = []
    for _ in range(50):
        fit = 0.5 * confusion + 0.5 * confusion @ loss.soft_labels
        loss(fit[latent].log().requires_grad_(), labels)
        loss.end_epoch()
        begun.append((loss.total_correct >= 60).tolist())
    assert begun[0] == [False, False, True]
    assert begun[-1] == [True, True, True]
    torch.testing.assert_close(loss.soft_labels, ols_fixed_point(confusion))
