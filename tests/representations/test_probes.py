import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from ols.representations.probes import Cell, ridge, train_cells


def _problem(rows, size, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, size, generator=generator, dtype=torch.float64) * 3 + 1
    targets = (features[:, 0] > 1).long() + (features[:, 1] > 3).long()
    masks = torch.rand(4, rows, generator=generator) < torch.tensor([[0.2], [0.5], [0.8], [1.1]])
    return features, targets.clamp(max=classes - 1), masks


def _grid():
    return [
        Cell(lr=lr, weight_decay=decay, mask=mask, seed=seed)
        for lr in (0.01, 0.3)
        for decay in (0.0, 0.05)
        for mask in range(4)
        for seed in (0, 7)
    ]


def _by_torch(features, targets, mask, cell, steps, classes=3):
    """Train one head by autograd and torch's optimizer, on features that scikit-learn standardised."""
    scaler = StandardScaler().fit(features[mask].numpy())
    x = torch.from_numpy(scaler.transform(features.numpy()))
    layer = torch.nn.Linear(features.shape[1], classes, dtype=torch.float64)
    generator = torch.Generator().manual_seed(cell.seed)
    uniform = torch.rand(features.shape[1], classes, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(((2 * uniform - 1) / features.shape[1] ** 0.5).T)
        layer.bias.zero_()
    groups = [{"params": [layer.weight], "weight_decay": cell.weight_decay}, {"params": [layer.bias]}]
    optimizer = torch.optim.SGD(groups, lr=cell.lr, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(layer(x[mask]), targets[mask]).backward()
        optimizer.step()
    return layer(x).detach()


@pytest.mark.parametrize(("rows", "size"), [(40, 60), (300, 12)], ids=["fewer rows than features", "more rows"])
def test_a_cell_trained_with_all_others_is_the_cell_that_torch_trains_alone(rows, size):
    features, targets, masks = _problem(rows, size)
    cells = _grid()
    together = train_cells(features, targets, masks, cells, num_classes=3, steps=60).logits(features)
    assert len(cells) == 32
    for cell, logits in zip(cells, together, strict=True):
        expected = _by_torch(features, targets, masks[cell.mask], cell, 60)
        assert torch.allclose(logits, expected, rtol=0, atol=1e-6 * expected.abs().max().clamp(min=1)), cell


def test_the_order_and_company_of_cells_change_nothing():
    features, targets, masks = _problem(40, 60)
    cells = _grid()
    together = train_cells(features, targets, masks, cells, num_classes=3, steps=30)
    backwards = train_cells(features, targets, masks, cells[::-1], num_classes=3, steps=30)
    alone = train_cells(features, targets, masks, cells[5:6], num_classes=3, steps=30)
    assert torch.allclose(together.weight, backwards.weight.flip(0), atol=1e-10)
    assert torch.allclose(together.weight[5], alone.weight[0], atol=1e-10)
    assert torch.allclose(together.bias[5], alone.bias[0], atol=1e-10)


def test_rows_outside_the_mask_have_no_part_in_training():
    features, targets, masks = _problem(40, 60)
    cells = [Cell(lr=0.1, mask=1)]
    before = train_cells(features, targets, masks, cells, num_classes=3)
    features[~masks[1]], targets[~masks[1]] = 1e3, 0
    assert torch.equal(train_cells(features, targets, masks, cells, num_classes=3).weight, before.weight)


@pytest.mark.parametrize("size", [8, 60])
def test_ridge_is_scikit_learns(size):
    features, targets, masks = _problem(50, size)
    numbers = torch.stack([features[:, 0] * 2 + 1, targets.double()], 1)
    penalties = [0.01, 1.0, 100.0]
    predicted = ridge(features, numbers, masks, penalties).logits(features)
    assert len(predicted) == 12
    for number, logits in enumerate(predicted):
        mask = masks[number // 3].numpy()
        scaler = StandardScaler().fit(features[mask].numpy())
        model = Ridge(alpha=penalties[number % 3], solver="svd")
        model.fit(scaler.transform(features[mask].numpy()), numbers[mask].numpy())
        np.testing.assert_allclose(logits, model.predict(scaler.transform(features.numpy())), atol=1e-8)


def test_a_feature_that_does_not_vary_among_the_training_rows_has_no_say():
    features, targets, masks = _problem(40, 60)
    features[:, 3] = 0.1
    masks[:, 0] = False
    features[0, 3] = 50.0
    heads = train_cells(features, targets, masks, [Cell(lr=0.1, weight_decay=0.5)], num_classes=3, steps=2000)
    assert heads.weight.isfinite().all()
    assert heads.weight[0, :, 3].abs().max() < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": torch.zeros(1, 40, dtype=torch.bool)}, "mask 0 has no rows"),
        ({"masks": torch.ones(1, 40)}, "masks must be boolean"),
        ({"targets": torch.full((40,), 3)}, r"targets must lie in \[0, 3\), got 3 to 3"),
        ({"targets": torch.zeros(39, dtype=torch.int64)}, "39 targets for 40 rows"),
        ({"cells": [Cell(lr=0.1), Cell(lr=0.1, mask=9)]}, "cell 1 names mask 9 of 4"),
        ({"cells": [Cell(lr=-0.1)]}, "cell 0 has lr -0.1"),
        ({"momentum": 1.0}, "momentum must lie in"),
        ({"features": torch.full((40, 2), torch.nan)}, "features of row 0 are not finite"),
        ({"features": torch.ones(40, 2, dtype=torch.int64)}, "features must be floating-point"),
    ],
)
def test_input_that_makes_no_sense_is_refused_by_name(change, message):
    features, targets, masks = _problem(40, 60)
    arguments = {"features": features, "targets": targets, "masks": masks, "cells": [Cell(lr=0.1)]} | change
    with pytest.raises(ValueError, match=message):
        train_cells(**arguments, num_classes=3)
