"""Linear heads on frozen features: closed-form ridge, and many cells of a grid trained at once by gradient descent.

Everything takes features `[N, D]` and masks `[M, N]` of training rows, so that folds and shares of the data are masks;
features are standardised by the training rows of each mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Cell(NamedTuple):
    """A linear head to be trained.

    Args:
        lr: Learning rate.
        weight_decay: Of the weights, not of the biases; as in `torch.optim.SGD`.
        mask: Which of the masks holds its training rows.
        seed: Of its initial weights, uniform within 1 / sqrt(D) as torch's; biases start at 0.
    """

    lr: float
    weight_decay: float = 0.0
    mask: int = 0
    seed: int = 0


@dataclass(frozen=True)
class LinearHeads:
    """Linear heads on features as they are: what standardised them is folded in.

    Args:
        weight: `[C, K, D]`, one of each cell.
        bias: `[C, K]`.
    """

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return `[C, N, K]` of features `[N, D]`, all cells in one product."""
        cells, outputs, size = self.weight.shape
        together = features @ self.weight.reshape(cells * outputs, size).T
        return together.view(len(features), cells, outputs).transpose(0, 1) + self.bias[:, None]


def train_cells(
    features: Tensor,
    targets: Tensor,
    masks: Tensor,
    cells: Sequence[Cell],
    *,
    num_classes: int,
    steps: int = 200,
    momentum: float = 0.9,
) -> LinearHeads:
    """Train linear heads by cross entropy and full-batch gradient descent with momentum, all together.

    Each ends where `torch.optim.SGD` would have brought it alone. Cells of one mask share their features, and where
    these are fewer than two rows a feature, gradient descent takes place in the span of the rows: the weights are
    `s W_0 + X^T A`, the logits `s X W_0 + X X^T A`, so that a step costs one product with the matrix `X X^T` of all
    pairs of rows, whatever D.

    Args:
        features: Of a frozen trunk, `[N, D]`.
        targets: Class indices, int64 `[N]`.
        masks: Training rows, boolean `[M, N]`.
        cells: What to train.
        num_classes: Classes K.
        steps: Steps of gradient descent.
        momentum: As in `torch.optim.SGD`, in [0, 1).

    Raises:
        ValueError: Shapes or values do not fit, or a mask has no rows; the message names it.
    """
    _check(features, targets, masks)
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < num_classes:
        raise ValueError(f"targets must lie in [0, {num_classes}), got {int(targets.min())} to {int(targets.max())}")
    for number, cell in enumerate(cells):
        if not 0 <= cell.mask < len(masks):
            raise ValueError(f"cell {number} names mask {cell.mask} of {len(masks)}")
        if not (cell.lr > 0 and cell.weight_decay >= 0):
            raise ValueError(f"cell {number} has lr {cell.lr} and weight_decay {cell.weight_decay}: below 0")
    weight = features.new_empty(len(cells), num_classes, features.shape[1])
    bias = features.new_empty(len(cells), num_classes)
    for number in sorted({cell.mask for cell in cells}):
        own = [index for index, cell in enumerate(cells) if cell.mask == number]
        x, mean, scale = _standardised(features[masks[number]])
        one_hot = torch.nn.functional.one_hot(targets[masks[number]], num_classes).to(x.dtype)
        trained, offset = _descend(x, one_hot, [cells[index] for index in own], steps, momentum)
        weight[own] = (trained / scale[:, None, None]).permute(2, 1, 0)
        bias[own] = offset.T - (weight[own] @ mean)
    return LinearHeads(weight, bias)


def _descend(x: Tensor, one_hot: Tensor, cells: Sequence[Cell], steps: int, momentum: float) -> tuple[Tensor, Tensor]:
    """Return weights `[D, K, C]` and biases `[K, C]` after gradient descent on rows `x` `[n, D]`.

    Cells come last: over two or three classes as the last dimension, torch's softmax takes 25 times as long.
    """
    (rows, size), outputs = x.shape, one_hot.shape[1]
    lr, decay = (x.new_tensor([getattr(cell, name) for cell in cells]) for name in ("lr", "weight_decay"))  # [C]
    start = _initial_weights(x, cells, outputs)  # [D, K, C]
    in_span = rows < 2 * size
    # In the span of the rows W = s W_0 + X^T A, and A is what descends; else W itself is, from zero added to W_0.
    product, places = (x @ x.T, rows) if in_span else (x, size)
    moved = x.new_zeros(places, outputs, len(cells)) if in_span else start.clone()
    velocity = torch.zeros_like(moved)
    logits_of_start = (x @ start.view(size, -1)).view(rows, outputs, len(cells)) if in_span else None
    kept, kept_velocity = torch.ones_like(lr), torch.zeros_like(lr)
    bias = x.new_zeros(outputs, len(cells))
    bias_velocity = torch.zeros_like(bias)
    for _ in range(steps):
        logits = (product @ moved.view(places, -1)).view(rows, outputs, len(cells)).add_(bias)
        if logits_of_start is not None:
            logits.addcmul_(logits_of_start, kept)
        gradient = logits.softmax(1).sub_(one_hot[:, :, None]).div_(rows)  # of the logits
        bias_velocity.mul_(momentum).add_(gradient.sum(0))
        if not in_span:
            gradient = (x.T @ gradient.view(rows, -1)).view_as(moved)
        velocity.mul_(momentum).add_(gradient).addcmul_(moved, decay)
        moved.addcmul_(velocity, lr, value=-1)
        kept_velocity.mul_(momentum).addcmul_(kept, decay)
        kept.addcmul_(kept_velocity, lr, value=-1)
        bias.addcmul_(bias_velocity, lr, value=-1)
    if in_span:
        moved = start * kept + (x.T @ moved.view(rows, -1)).view_as(start)
    return moved, bias


def _initial_weights(x: Tensor, cells: Sequence[Cell], outputs: int) -> Tensor:
    drawn = {}
    for seed in {cell.seed for cell in cells}:
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(x.shape[1], outputs, generator=generator, dtype=torch.float64)
        drawn[seed] = ((2 * uniform - 1) / x.shape[1] ** 0.5).to(x)
    return torch.stack([drawn[cell.seed] for cell in cells], 2)


def ridge(features: Tensor, targets: Tensor, masks: Tensor, penalties: Sequence[float]) -> LinearHeads:
    """Fit ridge regressions in closed form: one decomposition of each mask's rows for all penalties.

    The objective is scikit-learn's: squared errors summed over rows plus `penalty` times the squared weights of
    standardised features; the intercept is not penalised.

    Args:
        features: Of a frozen trunk, `[N, D]`.
        targets: Numbers `[N]`, or `[N, K]`; one-hot rows make a classifier of it.
        masks: Training rows, boolean `[M, N]`.
        penalties: P positive penalties.

    Returns:
        `M * P` heads, the penalties of the first mask first.

    Raises:
        ValueError: Shapes or values do not fit, or a mask has no rows.
    """
    _check(features, targets, masks)
    if not all(penalty > 0 for penalty in penalties):
        raise ValueError(f"penalties must be positive, got {list(penalties)}")
    targets = (targets if targets.ndim == 2 else targets[:, None]).to(features.dtype)
    weights, biases = [], []
    for mask in masks:
        x, mean, scale = _standardised(features[mask])
        y = targets[mask]
        left, singular, right = torch.linalg.svd(x, full_matrices=False)
        inside = left.T @ (y - y.mean(0))
        for penalty in penalties:
            shrunk = right.T @ (inside * (singular / (singular**2 + penalty))[:, None])  # [D, K]
            weights.append((shrunk / scale[:, None]).T)
            biases.append(y.mean(0) - weights[-1] @ mean)
    return LinearHeads(torch.stack(weights), torch.stack(biases))


def _standardised(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows of mean 0 and deviation 1 in each feature, with mean and deviation; constant features become 0."""
    mean = rows.mean(0)
    centred = rows - mean
    scale = centred.square().mean(0).sqrt()
    scale = torch.where(scale > 10 * torch.finfo(rows.dtype).eps * mean.abs(), scale, torch.ones_like(scale))
    return centred / scale, mean, scale


def _check(features: Tensor, targets: Tensor, masks: Tensor) -> None:
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"features must be floating-point [N, D], got {features.dtype} {list(features.shape)}")
    if len(targets) != len(features):
        raise ValueError(f"{len(targets)} targets for {len(features)} rows of features")
    if masks.dtype != torch.bool or masks.ndim != 2 or masks.shape[1] != len(features):
        raise ValueError(f"masks must be boolean [M, {len(features)}], got {masks.dtype} {list(masks.shape)}")
    for name, values in (("features", features), ("targets", targets)):
        if not values.isfinite().all():
            row = int((~values.isfinite()).reshape(len(values), -1).any(1).nonzero()[0])
            raise ValueError(f"{name} of row {row} are not finite")
    empty = (~masks.any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"mask {empty[0]} has no rows")
