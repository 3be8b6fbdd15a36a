"""Heads on frozen features: against scikit-learn, and chosen on validation, whatever the test images say."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from ols.representations.probe_heads import (
    HEADS_OF,
    ProbeHead,
    Problem,
    logistic_outputs,
    neighbour_outputs,
    ridge_outputs,
)
from ols.representations.probing import probe_folds

N, D = 60, 5
RNG = np.random.default_rng(0)
FEATURES = torch.from_numpy(RNG.normal(size=(N, D))).float()
ILL = torch.from_numpy((FEATURES[:, 0].numpy() + 0.8 * RNG.normal(size=N) > 0).astype(np.int64))
TRAIN = torch.arange(40)
NONE = FEATURES[None][:0]


def test_ridge_of_classes_orders_as_scikit_learns_ridge_of_one_of_them():
    problem = Problem(FEATURES, ILL, 2, TRAIN, NONE)
    outputs = ridge_outputs(problem, [0.5, 20])
    scaled = StandardScaler().fit(FEATURES[:40]).transform(FEATURES)
    for found, penalty in zip(outputs, (0.5, 20), strict=True):
        expected = Ridge(alpha=penalty).fit(scaled[:40], ILL[:40].numpy()).predict(scaled)
        np.testing.assert_allclose(found[:, 1].numpy(), expected, atol=1e-5)


def test_numbers_are_predicted_in_their_units():
    ages = 50 + 10 * FEATURES[:, 1]
    outputs = ridge_outputs(Problem(FEATURES, ages, None, TRAIN, NONE), [1e-6])
    np.testing.assert_allclose(outputs[0, :, 0].numpy(), ages.numpy(), atol=1e-2)


def test_logistic_regression_is_scikit_learns_on_standardised_features():
    outputs = logistic_outputs(Problem(FEATURES, ILL, 2, TRAIN, NONE), [0.1])
    scaled = StandardScaler().fit(FEATURES[:40]).transform(FEATURES)
    model = LogisticRegression(C=0.1, max_iter=1000).fit(scaled[:40], ILL[:40].numpy())
    expected = model.predict_log_proba(scaled)
    np.testing.assert_allclose(outputs[0].log_softmax(1).numpy(), expected, atol=1e-3)


def test_neighbours_are_the_nearest_by_angle():
    features = torch.tensor([[1.0, 0.0], [5.0, 0.1], [0.0, 1.0], [0.1, 0.9], [9.0, 1.0]])
    targets = torch.tensor([0, 0, 1, 1, 1])
    problem = Problem(features, targets, 3, torch.arange(4), NONE)
    outputs = neighbour_outputs(problem, [1, 3, 50])
    assert outputs[0].argmax(1).tolist() == [0, 0, 1, 1, 0]
    assert outputs[2][4, :2].exp().tolist() == pytest.approx([0.5, 0.5], abs=1e-5)  # all four
    assert (outputs[..., 2] < outputs[..., :2].amin(-1)).all()  # a class that training lacks


def test_unknown_labels_are_not_trained_on_and_a_label_without_positives_says_nothing():
    labels = torch.stack([ILL.float(), ILL.float(), torch.zeros(N)], 1)
    labels[10:20, 1] = torch.nan
    outputs = ridge_outputs(Problem(FEATURES, labels, None, TRAIN, NONE), [1.0])
    known = torch.cat([torch.arange(10), torch.arange(20, 40)])
    alone = ridge_outputs(Problem(FEATURES, ILL, 2, known, NONE), [1.0])
    np.testing.assert_allclose(outputs[0, :, 1], (alone[0, :, 1] - alone[0, :, 0]).numpy(), atol=1e-9)
    assert outputs[0, :, 2].tolist() == [0.0] * N


def test_further_views_are_trained_on_and_not_answered_for():
    shifted = FEATURES + 3
    once = ridge_outputs(Problem(FEATURES, ILL, 2, TRAIN, shifted[None]), [1.0])
    by_hand = ridge_outputs(
        Problem(torch.cat([FEATURES, shifted]), ILL.repeat(2), 2, torch.cat([TRAIN, TRAIN + N]), NONE), [1.0]
    )
    assert once.shape == (1, N, 2)
    torch.testing.assert_close(once, by_hand[:, :N])


class _Source:
    classes, groups, targets = ["well", "ill"], ["", ""], ILL.numpy()

    def __len__(self):
        return N

    def sample_id(self, index):
        return f"{index}.png"

    def sample_group(self, index):
        return f"p{index // 2}"


def test_the_setting_is_chosen_on_validation_although_another_is_better_on_test():
    pool = {"train": np.arange(20), "val": np.arange(20, 40), "test": np.arange(40, 60)}
    good_on_val = torch.where(torch.arange(N) < 40, ILL, 1 - ILL).double()
    good_on_test = 1 - good_on_val

    def outputs(problem, settings):
        return torch.stack([torch.stack([-s, s], 1) for s in (good_on_val, good_on_test)])

    found = probe_folds(ProbeHead((1.0, 2.0), "setting", outputs), FEATURES[None], _Source(), [pool], "binary")
    assert found.settings == [1.0]
    assert found.chosen.by_fold() == [0.0]
    assert found.test.tolist() == [[0.0, 1.0]]
    assert (found.mean_of_all, found.chosen_on_test) == (0.5, 1.0)


@pytest.mark.parametrize("name", HEADS_OF["class"])
def test_every_head_learns_what_is_there_to_be_learned(name):
    pools = [
        {"train": np.arange(20, 60), "val": np.arange(10), "test": np.arange(10, 20)},
        {"train": np.arange(40), "val": np.arange(50, 60), "test": np.arange(40, 50)},
    ]
    found = probe_folds(HEADS_OF["class"][name], FEATURES[None], _Source(), pools, "binary")
    together = found.chosen.pooled()
    scores = (together.logits[:, 1] - together.logits[:, 0]).numpy()
    assert found.chosen.interval(resamples=50)[0] == pytest.approx(roc_auc_score(together.targets, scores), abs=1e-9)
    assert np.mean(found.chosen.by_fold()) > 0.6
