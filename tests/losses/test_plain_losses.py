"""Losses of labels that may be unknown, of numbers and of masks, against torch's."""

import math

import pytest
import torch
import torch.nn.functional as F

from ols.losses import PLAIN_LOSSES, build_loss

GENERATOR = torch.Generator().manual_seed(0)


def test_bce_is_that_of_torch_where_all_labels_are_known():
    outputs, target = torch.randn(5, 3, generator=GENERATOR), torch.randint(0, 2, (5, 3), generator=GENERATOR).float()
    for reduction in ("none", "mean", "sum"):
        found = build_loss("bce", 3, reduction=reduction)(outputs, target)
        torch.testing.assert_close(found, torch.nn.BCEWithLogitsLoss(reduction=reduction)(outputs, target))


def test_an_unknown_label_has_neither_cost_nor_gradient():
    outputs = torch.tensor([[0.0, 9.0], [2.0, -1.0]], requires_grad=True)
    target = torch.tensor([[1.0, math.nan], [math.nan, 0.0]])
    loss = build_loss("bce", 2)(outputs, target)
    assert float(loss.detach()) == pytest.approx((math.log(2) + math.log1p(math.exp(-1))) / 2)
    loss.backward()
    assert (outputs.grad == 0).tolist() == [[False, True], [True, False]]
    nothing = build_loss("bce", 2)(outputs, torch.full((2, 2), math.nan))
    assert float(nothing.detach()) == 0


def test_smoothed_labels_are_those_of_two_classes_in_training_and_hard_in_evaluation():
    logits, target = torch.tensor([[1.5]]), torch.tensor([[1.0]])
    loss = build_loss("bce", 1, smoothing=0.2)
    two = torch.tensor([[0.0, 1.5]])
    expected = F.cross_entropy(two, torch.tensor([1]), label_smoothing=0.2)
    torch.testing.assert_close(loss(logits, target), expected)
    torch.testing.assert_close(loss.eval()(logits, target), F.cross_entropy(two, torch.tensor([1])))


@pytest.mark.parametrize(
    ("name", "theirs"), [("mse", torch.nn.MSELoss), ("l1", torch.nn.L1Loss), ("huber", torch.nn.HuberLoss)]
)
def test_a_loss_of_numbers_is_that_of_torch_on_standardised_targets(name, theirs):
    outputs, ages = torch.randn(6, 1, generator=GENERATOR), torch.tensor([20.0, 35, 50, 65, 80, 95])
    for reduction in ("none", "mean", "sum"):
        found = build_loss(name, 1, mean=50.0, std=20.0, reduction=reduction)(outputs, ages)
        torch.testing.assert_close(found, theirs(reduction=reduction)(outputs[:, 0], (ages - 50) / 20))


def test_mean_and_standard_deviation_lie_in_the_state_dict_in_full_precision():
    loss = build_loss("mse", 1, mean=1 / 3, std=2 / 3).to(torch.bfloat16)
    assert {name: value.item() for name, value in loss.state_dict().items()} == {"mean": 1 / 3, "std": 2 / 3}


def test_dice_and_cross_entropy_by_pencil():
    # Two pixels of foreground of four, probability 1/2 everywhere: Dice (2 x 1 + 1) / (2 + 2 + 1)
    outputs, target = torch.zeros(1, 2, 2, 2), torch.tensor([[[1, 1], [0, 0]]])
    assert float(build_loss("dice_bce", 2, dice_weight=1.0)(outputs, target)) == pytest.approx(2 / 5)
    assert float(build_loss("dice_bce", 2, dice_weight=0.0)(outputs, target)) == pytest.approx(math.log(2))
    # One logit difference of log 3: p = 3/4 on the foreground, p = 1/4 for the first and 3/4 for the second background
    difference = torch.tensor([[[math.log(3), math.log(3)], [-math.log(3), math.log(3)]]])
    outputs = torch.stack([torch.zeros_like(difference), difference], dim=1)
    cost, miss = -math.log(0.75), -math.log(0.25)
    weighted = (5 * cost * 2 + cost + miss) / 12
    found = build_loss("dice_weighted_fn", 2, dice_weight=0.0, false_negative_weight=5.0)(outputs, target)
    assert float(found) == pytest.approx(weighted)


def test_two_logits_of_a_pixel_cost_what_binary_cross_entropy_costs_of_their_difference():
    outputs = torch.randn(3, 2, 4, 5, generator=GENERATOR)
    target = torch.randint(0, 2, (3, 4, 5), generator=GENERATOR)
    found = build_loss("dice_bce", 2, dice_weight=0.0)(outputs, target)
    expected = F.binary_cross_entropy_with_logits(outputs[:, 1] - outputs[:, 0], target.float())
    torch.testing.assert_close(found, expected)


def test_an_empty_mask_costs_nothing_where_nothing_is_predicted():
    outputs = torch.stack([torch.full((1, 3, 3), 40.0), torch.full((1, 3, 3), -40.0)], dim=1)
    assert float(build_loss("dice_bce", 2)(outputs, torch.zeros(1, 3, 3, dtype=torch.uint8))) == pytest.approx(0)


@pytest.mark.parametrize("name", PLAIN_LOSSES)
def test_what_does_not_fit_is_refused_by_its_shape(name):
    loss = build_loss(name, 1 if name in ("mse", "l1", "huber") else 2)
    with pytest.raises(ValueError, match=r"\(4, 7\)"):
        loss(torch.zeros(4, 7), torch.zeros(4))
    with pytest.raises(ValueError, match=r"did you mean|it must be one of"):
        build_loss(name, 2, reductoin="sum")
    with pytest.raises(ValueError, match="reduction must be"):
        build_loss(name, 2, reduction="all")
