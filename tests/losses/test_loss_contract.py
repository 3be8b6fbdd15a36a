"""What every loss of `ols.losses` shares: the contract of `nn.CrossEntropyLoss`."""

import copy
import inspect
import itertools
import json
import math
import numbers
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from torch._subclasses.fake_tensor import FakeTensorMode

from ols.losses import LOSSES, HardLabels, LabelSmoothing, OnlineLabelSmoothing, build_loss

INDEX_ONLY = {"focal", "flsd53", "progressive_self_kd", "zipf_label_smoothing", "label_relaxation"}
# Losses that put mass on every class, whatever the target.
SPREADING = {"label_smoothing", "virtual_teacher_kd", "self_teacher_kd", "ols", "label_smoothing_pp"}


STATES = {
    "ols": {"soft_labels", "prob_sums", "correct_counts"},
    "label_smoothing_pp": {"relations", "prob_sums"},
    "progressive_self_kd": {"past_probs", "epochs_ended", "prob_sums", "seen_counts"},
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def build(name, num_classes, **options):
    """Build as a recipe does, which knows how many samples and epochs there are."""
    if getattr(LOSSES.get(name), "needs_index", False):
        options = {"num_samples": 64, "epochs": 4} | options
    return build_loss(name, num_classes, **options)


def call(loss, logits, target):
    """Call as a trainer does; the teacher is some other prediction."""
    if loss.needs_index:
        shape = logits.shape[:1] + logits.shape[2:] if logits.ndim > 1 else ()
        return loss(logits, target, torch.arange(math.prod(shape)).view(shape))
    if loss.needs_teacher:
        return loss(logits, target, logits.detach().flip(0) * 0.5)
    return loss(logits, target)


def some_probs(shape, dtype=torch.float32):
    dim = min(1, len(shape) - 1)
    return torch.randn(shape, dtype=dtype).softmax(dim)


def assert_same_bits(ours, theirs):
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert torch.equal(ours.nan_to_num(nan=-7.0), theirs.nan_to_num(nan=-7.0))


def test_hard_and_smoothed_labels_equal_torch_to_the_bit_over_the_full_grid():
    shapes = [(5,), (7, 5), (0, 5), (3, 5, 4), (2, 5, 3, 2), (2, 5, 0)]
    dtypes = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    weights = [None, torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0])]
    grid = itertools.product(
        shapes, dtypes, weights, [-100, 1, 255], ["none", "mean", "sum"], ["index", "probs"], [0, 0.1]
    )
    cases = 0
    for shape, dtype, weight, ignore_index, reduction, kind, smoothing in grid:
        if kind == "probs" and ignore_index >= 0:
            continue
        logits = torch.randn(shape).mul_(4).to(dtype)
        wide = logits.double() if dtype == torch.float64 else logits.float()
        if kind == "index":
            target = torch.randint(0, 5, shape[:1] + shape[2:] if len(shape) > 1 else ())
            if target.numel() > 1:
                target.flatten()[0] = ignore_index
        else:
            target = some_probs(shape, wide.dtype)
        options = {"weight": weight, "ignore_index": ignore_index, "reduction": reduction}
        loss = LabelSmoothing(5, smoothing=smoothing, **options) if smoothing else HardLabels(5, **options)
        ours_in, theirs_in = logits.clone().requires_grad_(), wide.clone().requires_grad_()
        ours = loss(ours_in, target)
        torch_options = options | {"weight": None if weight is None else weight.to(wide.dtype)}
        theirs = F.cross_entropy(theirs_in, target, label_smoothing=smoothing, **torch_options)
        assert_same_bits(ours, theirs)
        torch.autograd.backward([ours.sum(), theirs.sum()])
        assert_same_bits(ours_in.grad, theirs_in.grad.to(dtype))
        cases += 1
    assert cases == len(shapes) * len(dtypes) * 2 * 3 * 2 * (3 + 1)


@pytest.mark.parametrize("name", LOSSES)
def test_eval_is_plain_cross_entropy(name):
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0])
    cases = 0
    for reduction, kind in itertools.product(["none", "mean", "sum"], ["index", "probs"]):
        loss = build(name, 4, weight=weight, reduction=reduction).eval()
        logits = torch.randn(6, 4, 3).half()
        target = torch.randint(0, 4, (6, 3)) if kind == "index" else some_probs((6, 4, 3))
        expected = F.cross_entropy(logits.float(), target, weight=weight, reduction=reduction)
        assert_same_bits(loss(logits, target), expected)
        cases += 1
    assert cases == 6


def test_the_bit_for_bit_losses_have_torchs_two_means_for_class_weights():
    logits, weight, labels = torch.randn(4, 3), torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 1, 2, 2])
    summed = HardLabels(3, weight=weight, reduction="sum")(logits, labels)
    by_index = HardLabels(3, weight=weight)(logits, labels)
    by_probs = HardLabels(3, weight=weight)(logits, F.one_hot(labels, 3).float())
    torch.testing.assert_close(by_index, summed / 11)
    torch.testing.assert_close(by_probs, summed / 4)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(LOSSES)),
    num_classes=st.integers(1, 4),
    batch=st.integers(0, 4),
    spatial=st.lists(st.integers(0, 3), max_size=2),
    weighted=st.booleans(),
    ignored=st.sampled_from(["none", "some", "all"]),
    kind=st.sampled_from(["index", "probs"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_none_sums_to_sum_and_has_torchs_shape(name, num_classes, batch, spatial, weighted, ignored, kind, dtype):
    if kind == "probs" and name in INDEX_ONLY:
        kind = "index"
    shape = (batch, num_classes, *spatial)
    logits = torch.randn(shape).to(dtype)
    if kind == "index":
        target = torch.randint(0, num_classes, (batch, *spatial))
        if ignored == "all":
            target.fill_(-100)
        elif ignored == "some":
            target.masked_fill_(torch.rand(target.shape) < 0.3, -100)
    else:
        target = some_probs(shape)
    weight = torch.rand(num_classes) + 0.1 if weighted else None
    none, total, mean = (
        call(build(name, num_classes, weight=weight, reduction=reduction), logits, target)
        for reduction in ("none", "sum", "mean")
    )
    assert none.shape == F.cross_entropy(logits.float(), target, reduction="none").shape
    assert none.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(none.sum(), total, rtol=1e-4, atol=1e-5)
    plain = F.cross_entropy(logits.float(), target, weight)
    assert mean.isnan() == plain.isnan(), "the mean over nothing is torch's nan"
    if kind == "index" and not plain.isnan():
        weights = F.cross_entropy(torch.zeros_like(logits.float()), target, weight, reduction="none")
        count = weights.sum() / torch.tensor(float(num_classes)).log() if num_classes > 1 else None
        if count is not None:
            torch.testing.assert_close(mean, total / count.to(total.dtype), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_one_hot_probabilities_are_class_indices(name):
    if name in INDEX_ONLY:
        with pytest.raises(ValueError, match="target must hold class indices"):
            build(name, 4)(torch.randn(3, 4), some_probs((3, 4)))
        return
    logits, labels = torch.randn(6, 4, 3), torch.randint(0, 4, (6, 3))
    one_hot = F.one_hot(labels, 4).movedim(-1, 1).float()
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0])
    for options in ({}, {"weight": weight, "reduction": "sum"}):
        by_index = call(build(name, 4, **options), logits, labels)
        by_probs = call(build(name, 4, **options), logits, one_hot)
        if name == "label_smoothing" and options:
            continue  # torch's own smoothing weighs the two kinds of target alike only without smoothing
        torch.testing.assert_close(by_index, by_probs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in INDEX_ONLY])
def test_mixed_targets_are_linear(name):
    logits = torch.randn(8, 5, dtype=torch.float64)
    first, second = (F.one_hot(torch.randint(0, 5, (8,)), 5).double() for _ in range(2))

    def loss_of(target):
        return call(build(name, 5).double(), logits, target)

    mixed = loss_of(0.3 * first + 0.7 * second)
    torch.testing.assert_close(mixed, 0.3 * loss_of(first) + 0.7 * loss_of(second))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_logits_are_computed_in_float32_under_autocast_too(name, dtype):
    logits, labels = torch.randn(16, 5).to(dtype), torch.randint(0, 5, (16,))
    expected = call(build(name, 5), logits.float(), labels)
    narrow = logits.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = call(build(name, 5), narrow, labels)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    got.backward()
    assert narrow.grad.dtype == dtype
    if name not in INDEX_ONLY:
        target = some_probs((16, 5))
        expected = call(build(name, 5), logits.float(), target)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = call(build(name, 5), logits, target)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_masked_class_without_target_mass_costs_nothing(name):
    logits = torch.randn(6, 5).mul_(0.1)
    logits[:, 3] = -torch.inf
    labels = torch.tensor([0, 1, 2, 4, 0, 1])
    logits.requires_grad_()
    kinds = [labels] if name in INDEX_ONLY else [labels, F.one_hot(labels, 5).float()]
    for target in kinds:
        for weight in (None, torch.rand(5) + 0.5):
            evaluated = build(name, 5, weight=weight).eval()(logits, target)
            assert evaluated.isfinite()
            options = {"hard_weight": 1.0} if name == "ols" else {}
            if name == "ols" or name not in SPREADING:
                loss = call(build(name, 5, weight=weight, **options), logits, target)
                assert loss.isfinite()
                (grad,) = torch.autograd.grad(loss, logits)
                assert grad.isfinite().all()
                if name != "max_sup":
                    assert grad[:, 3].eq(0).all()


@pytest.mark.parametrize("name", ["label_smoothing", "virtual_teacher_kd", "ols"])
def test_a_masked_class_with_target_mass_is_inf(name):
    logits = torch.randn(6, 5)
    logits[:, 3] = -torch.inf
    assert build(name, 5)(logits, torch.tensor([0, 1, 2, 4, 0, 1])).isposinf()


@pytest.mark.parametrize("name", LOSSES)
def test_nan_logits_of_a_sample_that_counts_are_not_hidden(name):
    logits, labels = torch.randn(6, 5), torch.randint(0, 5, (6,))
    logits[2, 1] = torch.nan
    loss = call(build(name, 5, reduction="none"), logits, labels)
    assert loss[2].isnan()


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_samples_count_for_nothing_whatever_their_logits(name):
    logits, labels, weight = torch.randn(8, 5), torch.randint(0, 5, (8,)), torch.rand(5) + 0.5
    for ignore_index in (-100, 2, 255):
        labels[[1, 5]] = ignore_index
        kept = (labels != ignore_index).nonzero().flatten()
        full = logits.clone()
        full[1] = torch.nan
        teacher = torch.randn(8, 5)
        for reduction in ("mean", "sum"):
            loss = build(name, 5, weight=weight, ignore_index=ignore_index, reduction=reduction)
            beside = {"teacher": loss.needs_teacher, "index": loss.needs_index}
            extra = [{"teacher": teacher, "index": torch.arange(8)}[kind] for kind, needed in beside.items() if needed]
            kept_extra = [value[kept] for value in extra]
            got = loss(full, labels, *extra)
            torch.testing.assert_close(got, loss(logits[kept], labels[kept], *kept_extra), rtol=1e-5, atol=1e-5)
        labels = torch.randint(3, 5, (8,))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_right_in_float64(name):
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    labels, weight = torch.tensor([0, 1, -100, 3, 2, 2]), torch.rand(4, dtype=torch.float64) + 0.5
    teacher = [torch.randn(6, 4, dtype=torch.float64)] if LOSSES[name].needs_teacher else []
    teacher += [torch.arange(6)] if LOSSES[name].needs_index else []
    targets = [labels] if name in INDEX_ONLY else [labels, some_probs((6, 4), torch.float64)]
    cases = 0
    for target, reduction in itertools.product(targets, ["none", "mean", "sum"]):
        loss = build(name, 4, weight=weight, reduction=reduction)
        with loss.frozen():
            assert torch.autograd.gradcheck(lambda z, loss=loss, t=target: loss(z, t, *teacher), logits)
        cases += 1
    assert cases == 3 * len(targets)


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_reads_a_value_back_or_has_a_shape_that_depends_on_data(name):
    cases = 0
    for weighted, ignore_index, kind, training in itertools.product(
        [0, 1], [-100, 1], ["index", "probs"], [True, False]
    ):
        if kind == "probs" and (name in INDEX_ONLY or ignore_index >= 0):
            continue
        options = {"weight": torch.rand(4)} if weighted else {}
        loss = build(name, 4, ignore_index=ignore_index, **options).train(training)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = copy.copy(loss)
            fake._buffers = {k: b if b is None else mode.from_tensor(b) for k, b in loss._buffers.items()}
            logits = torch.randn(6, 4, 2, requires_grad=True)
            target = torch.randint(0, 4, (6, 2)) if kind == "index" else torch.rand(6, 4, 2)
            call(fake, logits, target).backward()
            assert logits.grad.shape == (6, 4, 2)
        cases += 1
    assert cases == (8 if name in INDEX_ONLY else 12)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_compiles_whole_and_means_the_same(name, backend):
    torch._dynamo.reset()
    plain, weight = torch.randn(8, 5), torch.rand(5) + 0.5
    plain_loss, loss = (build(name, 5, weight=weight) for _ in range(2))
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    targets = [torch.randint(0, 5, (8,))] + ([] if name in INDEX_ONLY else [some_probs((8, 5))])
    for target in targets:
        ours, theirs = plain.clone().requires_grad_(), plain.clone().requires_grad_()
        got, expected = call(compiled, ours, target), call(plain_loss, theirs, target)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        got.backward()
        expected.backward()
        torch.testing.assert_close(ours.grad, theirs.grad)
    for key, value in plain_loss.state_dict().items():
        torch.testing.assert_close(loss.state_dict()[key], value)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_compiles_whole_with_inductor(name):
    test_every_loss_compiles_whole_and_means_the_same(name, "inductor")


@pytest.mark.parametrize("name", LOSSES)
def test_a_static_loss_has_nothing_to_save_and_nothing_to_end(name):
    loss = build(name, 5, weight=torch.rand(5))
    if name in STATES:
        assert set(loss.state_dict()) == STATES[name]
        return
    assert loss.state_dict() == {}
    assert loss.end_epoch() == {}
    assert loss.sum_over_ranks() is None
    with loss.frozen():
        call(loss, torch.randn(3, 5), torch.tensor([0, 1, 2]))


def test_only_self_training_needs_a_teacher():
    assert {name for name, kind in LOSSES.items() if kind.needs_teacher} == {"self_teacher_kd"}


@pytest.mark.parametrize("name", LOSSES)
def test_a_move_to_a_narrower_dtype_keeps_the_precision_of_the_state(name):
    options = {"memory": "float32"} if name == "progressive_self_kd" else {}
    loss = build(name, 5, weight=torch.rand(5), **options)
    for move in (lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.to(torch.float16)):
        moved = move(copy.deepcopy(loss))
        assert {b.dtype for b in moved.buffers()} <= {torch.float32, torch.int64}
        assert torch.equal(moved.weight, loss.weight)
    wide = copy.deepcopy(loss).double()
    assert {b.dtype for b in wide.buffers()} <= {torch.float64, torch.int64}
    assert wide.half().weight.dtype == torch.float64
    logits, labels = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    for some_loss, dtype in itertools.product((loss, wide), (torch.float32, torch.float64)):
        assert call(some_loss, logits.to(dtype), labels).dtype == dtype


@pytest.mark.parametrize("name", LOSSES)
def test_torchs_own_error_for_a_label_out_of_range(name):
    for label in (5, -1):
        labels = torch.tensor([0, 1, label])
        for loss in (build(name, 5), build(name, 5, weight=torch.ones(5)), build(name, 5).eval()):
            with pytest.raises(IndexError, match=f"Target {label} is out of bounds"):
                call(loss, torch.randn(3, 5), labels)


BAD_CALLS = [
    (torch.randn(3, 4), torch.tensor([0, 1, 2]), "logits must have 5 classes in dimension 1, got \\(3, 4\\)"),
    (torch.randn(4), torch.tensor(0), "logits must have 5 classes in dimension 0, got \\(4,\\)"),
    (torch.tensor(1.0), torch.tensor(0), "logits must have 5 classes"),
    (torch.randn(3, 5), torch.tensor([0, 1]), "target class indices must have shape \\(3,\\), got \\(2,\\)"),
    (torch.randn(3, 5, 2), torch.tensor([0, 1, 2]), "target class indices must have shape \\(3, 2\\), got \\(3,\\)"),
    (
        torch.randn(3, 5),
        torch.rand(3, 4),
        "target probabilities must be of the logits' shape \\(3, 5\\), got \\(3, 4\\)",
    ),
    (torch.ones(3, 5, dtype=torch.int64), torch.tensor([0, 1, 2]), "logits must be floating point, got torch.int64"),
    (
        torch.randn(3, 5),
        torch.ones(3, dtype=torch.complex64),
        "target must hold class indices or .*, got torch.complex64",
    ),
    (
        torch.randn(3, 5),
        torch.eye(5, dtype=torch.int64)[:3],
        "target class indices must have shape \\(3,\\), got \\(3, 5\\)",
    ),
]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("logits", "target", "message"), BAD_CALLS)
def test_a_bad_call_names_the_argument(name, logits, target, message):
    for training in (True, False):
        loss = build(name, 5).train(training)
        with pytest.raises(ValueError, match=message):
            loss(logits, target)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in INDEX_ONLY])
def test_an_ignored_class_and_probability_targets_exclude_each_other_as_in_torch(name):
    with pytest.raises(ValueError, match="ignore_index must be negative with target probabilities, got 1"):
        build(name, 5, ignore_index=1)(torch.randn(3, 5), some_probs((3, 5)))


INTEGERS = ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"]


@pytest.mark.parametrize("name", LOSSES)
def test_labels_of_every_integer_type_mean_the_same_in_training_and_in_evaluation(name):
    """Flat labels and maps, with ignored ones as a mask holds them, in every reduction."""
    cases = 0
    for kind, spatial, training, reduction in itertools.product(
        INTEGERS, [(), (3, 2)], [True, False], ["none", "mean", "sum"]
    ):
        num_classes = 2 if kind == "bool" else 5
        logits, labels = torch.randn(6, num_classes, *spatial), torch.randint(0, num_classes, (6, *spatial))
        ignore_index = -100 if kind == "bool" else 100
        if kind != "bool":
            labels[::3] = ignore_index
        found, expected = (
            build(name, num_classes, ignore_index=ignore_index, reduction=reduction).train(training) for _ in range(2)
        )
        narrow = labels.to(getattr(torch, kind))
        assert torch.equal(narrow.long(), labels)
        ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        got, wanted = call(found, ours, narrow), call(expected, theirs, labels)
        assert_same_bits(got, wanted)
        torch.autograd.backward([got.sum(), wanted.sum()])
        assert torch.equal(ours.grad, theirs.grad)
        assert all(map(torch.equal, found.collected().values(), expected.collected().values()))
        if not training:
            assert_same_bits(got, F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction=reduction))
        cases += 1
    assert cases == 9 * 2 * 2 * 3


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in INDEX_ONLY])
def test_probabilities_of_every_floating_type_are_taken(name):
    """One-hot rows, which no type rounds; a trainer in low precision mixes labels in the type of its images."""
    one_hot = F.one_hot(torch.randint(0, 5, (6,)), 5)
    cases = 0
    for kind, logits_kind, training in itertools.product(
        [torch.float16, torch.bfloat16, torch.float32, torch.float64], [torch.float32, torch.float64], [True, False]
    ):
        logits = torch.randn(6, 5, dtype=logits_kind)
        loss = build(name, 5).train(training)
        assert_same_bits(call(loss, logits, one_hot.to(kind)), call(loss, logits, one_hot.to(logits_kind)))
        cases += 1
    assert cases == 16


# Of each loss, each hyper-parameter that is a number, with a value that NumPy's short floats hold exactly.
NUMBERS = {
    "hard": {},
    "label_smoothing": {"smoothing": 0.25},
    "virtual_teacher_kd": {"distill_weight": 0.25, "temperature": 4, "correct_prob": 0.75, "multiplier": 2},
    "self_teacher_kd": {"distill_weight": 0.25, "temperature": 4},
    "ols": {
        "hard_weight": 0.25,
        "smoothing": 0.25,
        "momentum": 0.5,
        "prior_count": 8,
        "loss_scale": 2,
        "freeze_above": 0.75,
    },
    "max_sup": {"penalty_weight": 0.25},
    "margin_label_smoothing": {"margin": 8, "penalty_weight": 0.25},
    "focal": {"gamma": 2},
    "flsd53": {},
    "confidence_penalty": {"entropy_weight": 0.25},
    "label_smoothing_pp": {"smoothing": 0.25},
    "progressive_self_kd": {"final_distill_weight": 0.25},
    "zipf_label_smoothing": {"zipf_weight": 0.25, "power": 2},
    "label_relaxation": {"relaxation": 0.25},
    "logit_norm": {"temperature": 0.5},
}
OTHERS_NUMBERS = {
    "np.float16": np.float16,
    "np.float32": np.float32,
    "np.float64": np.float64,
    "np.longdouble": np.longdouble,
    "an array of one": np.asarray,
    "a tensor of one": torch.tensor,
}


def test_the_numbers_of_every_loss_are_tried():
    """Whatever else a constructor takes is a choice of words, or a tensor."""
    words = {"initial", "unseen", "form", "reduction", "memory"}
    shared = {"num_classes", "ignore_index", "weight", "num_samples", "epochs", "min_correct"}  # whole, or tensors
    found = {name: set(inspect.signature(kind).parameters) - shared - words for name, kind in LOSSES.items()}
    assert found == {name: set(options) for name, options in NUMBERS.items()}
    assert sum(map(len, found.values())) == 24


@pytest.mark.parametrize("kind", OTHERS_NUMBERS)
@pytest.mark.parametrize("name", LOSSES)
def test_numpys_numbers_become_pythons(name, kind):
    extra = {"form": "release"} if name == "virtual_teacher_kd" else {}
    expected = build(name, 4, ignore_index=3, **NUMBERS[name], **extra)
    given = {option: OTHERS_NUMBERS[kind](value) for option, value in NUMBERS[name].items()}
    for whole in (np.int64, np.uint8, np.array, torch.tensor):
        found = copy.deepcopy(build(name, whole(4), ignore_index=whole(3), **given, **extra))
        assert repr(found) == repr(expected)
        for attribute, value in vars(expected).items():
            if isinstance(value, int | float | str):
                assert type(vars(found)[attribute]) is type(value)
                assert vars(found)[attribute] == value
        logits, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 1])
        assert_same_bits(call(found, logits, labels), call(expected, logits, labels))
        json.dumps([value for value in vars(found).values() if isinstance(value, numbers.Number | np.generic)])


@pytest.mark.parametrize("name", LOSSES)
def test_a_number_that_is_none_is_refused_by_its_name(name):
    cases = 0
    for option in NUMBERS[name]:
        extra = {"form": "release"} if option == "multiplier" else {}
        for wrong in (np.float32("nan"), np.float64(-3), np.array([0.5, 0.5]), np.complex64(1), "0.5", torch.ones(2)):
            with pytest.raises(ValueError, match=f"^{option} must lie in "):
                build(name, 4, **{option: wrong}, **extra)
            cases += 1
    for wrong in (np.float64(4), np.float32(2.5), np.bool_(True), True, np.array([4]), torch.tensor(4.0), "4", 0):
        with pytest.raises(ValueError, match=r"^num_classes must be a whole number of at least 1, got "):
            build(name, wrong)
        if wrong != 0:
            with pytest.raises(ValueError, match=r"^ignore_index must be a whole number, got "):
                build(name, 4, ignore_index=wrong)
        cases += 1
    assert cases == 6 * len(NUMBERS[name]) + 8


def test_an_array_of_soft_labels_is_refused_by_its_name():
    with pytest.raises(ValueError, match="initial must be 'uniform', 'smoothed', 'hard', 'zeros' or a tensor"):
        OnlineLabelSmoothing(3, initial=np.eye(3))


BAD_OPTIONS = [
    ("hard", {"num_classes": 0}, "num_classes must be a whole number of at least 1, got 0"),
    ("hard", {"num_classes": 2.5}, "num_classes must be a whole number of at least 1, got 2.5"),
    ("hard", {"weight": torch.ones(4)}, "weight must be a floating point tensor of shape \\(5,\\)"),
    ("hard", {"weight": [1.0] * 5}, "weight must be a floating point tensor"),
    ("hard", {"weight": torch.tensor([1.0, -1, 1, 1, 1])}, "weight must be finite and not negative"),
    ("hard", {"reduction": "median"}, "reduction must be 'none', 'mean' or 'sum', got 'median'"),
    ("hard", {"ignore_index": None}, "ignore_index must be a whole number, got None"),
    ("label_smoothing", {"smoothing": 1.2}, "smoothing must lie in \\[0, 1\\), got 1.2"),
    ("label_smoothing", {"smoothing": float("nan")}, "smoothing must lie in \\[0, 1\\), got nan"),
    ("label_smoothing", {"smoothing": "0.1"}, "smoothing must lie in \\[0, 1\\), got '0.1'"),
    ("virtual_teacher_kd", {"distill_weight": 1.1}, "distill_weight must lie in \\[0, 1\\]"),
    ("virtual_teacher_kd", {"temperature": 0.0}, "temperature must lie in \\(0, inf\\), got 0.0"),
    ("virtual_teacher_kd", {"correct_prob": 0.1}, "correct_prob must lie in \\[0.2, 1\\], got 0.1"),
    ("virtual_teacher_kd", {"form": "code"}, "form must be 'paper' or 'release', got 'code'"),
    ("virtual_teacher_kd", {"multiplier": 2.0}, "multiplier must be None with form='paper', got 2.0"),
    ("virtual_teacher_kd", {"multiplier": 0.0, "form": "release"}, "multiplier must lie in \\(0, inf\\), got 0.0"),
    ("self_teacher_kd", {"temperature": float("inf")}, "temperature must lie in \\(0, inf\\), got inf"),
    ("ols", {"hard_weight": -0.1}, "hard_weight must lie in \\[0, 1\\], got -0.1"),
    ("ols", {"initial": "ones"}, "initial must be 'uniform', 'smoothed', 'hard', 'zeros' or a tensor, got 'ones'"),
    ("ols", {"initial": torch.ones(5, 5)}, "initial must hold distributions in its rows, got .* in row 0"),
    ("ols", {"initial": torch.zeros(5, 5)}, "initial must hold distributions in its rows"),
    ("ols", {"initial": torch.full((5, 5), torch.nan)}, "initial must hold distributions in its rows"),
    ("ols", {"initial": torch.eye(4)}, "initial must be a floating point tensor of shape \\(5, 5\\), got .*\\(4, 4\\)"),
    ("ols", {"unseen": "drop"}, "unseen must be 'keep' or 'uniform', got 'drop'"),
    ("ols", {"momentum": 1.0}, "momentum must lie in \\[0, 1\\), got 1.0"),
    ("ols", {"loss_scale": 0.0}, "loss_scale must lie in \\(0, inf\\), got 0.0"),
    ("ols", {"freeze_above": 0.0}, "freeze_above must lie in \\(0, 1\\], got 0.0"),
    ("max_sup", {"penalty_weight": -1.0}, "penalty_weight must lie in \\[0, inf\\)"),
    ("margin_label_smoothing", {"margin": -1.0}, "margin must lie in \\[0, inf\\)"),
    ("focal", {"gamma": -1.0}, "gamma must lie in \\[0, inf\\)"),
    ("ols", {"min_correct": -1}, "min_correct must be a whole number of at least 0, got -1"),
    ("label_smoothing_pp", {"smoothing": 1.0}, "smoothing must lie in \\[0, 1\\), got 1.0"),
    ("progressive_self_kd", {"final_distill_weight": 1.1}, "final_distill_weight must lie in \\[0, 1\\], got 1.1"),
    ("progressive_self_kd", {"memory": "int8"}, "memory must be 'float16' or 'float32', got 'int8'"),
    ("progressive_self_kd", {"num_samples": 0}, "num_samples must be a whole number of at least 1, got 0"),
    ("progressive_self_kd", {"epochs": 2.5}, "epochs must be a whole number of at least 1, got 2.5"),
    ("zipf_label_smoothing", {"power": -1.0}, "power must lie in \\[0, inf\\)"),
    ("label_relaxation", {"relaxation": 1.0}, "relaxation must lie in \\[0, 1\\), got 1.0"),
    ("logit_norm", {"temperature": 0.0}, "temperature must lie in \\(0, inf\\), got 0.0"),
    ("confidence_penalty", {"entropy_weight": -1.0}, "entropy_weight must lie in \\[0, inf\\)"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD_OPTIONS)
def test_a_bad_option_names_the_argument(name, options, message):
    with pytest.raises(ValueError, match=message):
        LOSSES[name](**({"num_classes": 5} | options))


def test_build_loss_names_the_nearest_match():
    assert isinstance(build("ols", 3, hard_weight=0.2), OnlineLabelSmoothing)
    with pytest.raises(ValueError, match=r"unknown loss 'label_smothing'; did you mean 'label_smoothing'\?"):
        build("label_smothing", 3)
    with pytest.raises(ValueError, match=r"loss 'ols' has no option 'hard_wieght'; did you mean 'hard_weight'\?"):
        build("ols", 3, hard_wieght=0.2)
    with pytest.raises(ValueError, match="it must be one of hard, label_smoothing"):
        build("xyz", 3)


@pytest.mark.parametrize("name", LOSSES)
def test_the_constructor_is_a_schema_that_jsonargparse_reads_with_help_for_every_option(name):
    parser = ArgumentParser(exit_on_error=False)
    shared = {"num_classes", "weight", "ignore_index", "reduction"}
    parser.add_class_arguments(LOSSES[name], "loss", skip=shared)
    options = parser.parse_args([]).as_dict().get("loss", {})
    assert build(name, 4, **options).num_classes == 4
    undocumented = [action.dest for action in parser._actions if action.dest.startswith("loss.") and not action.help]
    assert undocumented == []


def test_losses_import_without_anything_but_torch():
    code = "import sys, torch; before = set(sys.modules); import ols.losses; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = {module.partition(".")[0] for module in loaded}
    assert ours - set(sys.stdlib_module_names) <= {"ols", "torch"}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_says_whether_it_trains_on_probabilities(name):
    loss = build(name, 5)
    assert loss.takes_probabilities == (name not in INDEX_ONLY)
    logits, target = torch.randn(3, 5), some_probs((3, 5))
    if loss.takes_probabilities:
        assert call(loss, logits, target).isfinite()
    else:
        with pytest.raises(ValueError, match="must hold class indices"):
            loss(logits, target)


@pytest.mark.parametrize("name", LOSSES)
def test_what_a_loss_has_learned_is_its_soft_labels_or_nothing(name):
    loss = build(name, num_classes=4)
    found = loss.artifacts()
    assert list(found) == {"ols": ["soft_labels"], "label_smoothing_pp": ["relations"]}.get(name, [])
    assert all(value is getattr(loss, key) for key, value in found.items())
