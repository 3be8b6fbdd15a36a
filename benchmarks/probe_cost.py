"""What 1,000 linear heads on frozen features cost, beside one alone and beside scikit-learn's loop.

    python benchmarks/probe_cost.py --threads 2

Cells are 8 learning rates x 5 weight decays x 5 folds x 5 nested shares of the training rows. `one alone` is
`torch.nn.Linear` with `torch.optim.SGD` on the same full batches of one fold's training rows, for as many steps. The
variants run interleaved; the table gives medians.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from ols.representations.probes import Cell, train_cells

FOLDS, SHARES = 5, (0.05, 0.1, 0.25, 0.5, 1.0)
RATES = tuple(float(rate) for rate in np.geomspace(1e-4, 0.3, 8))
DECAYS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)


def grid(images: int) -> tuple[Tensor, list[Cell]]:
    """Return masks `[25, N]` of folds and shares, and 1,000 cells on them."""
    order, masks = torch.randperm(images), []
    fold = torch.arange(images) % FOLDS
    for number in range(FOLDS):
        rows = order[fold != number]
        for share in SHARES:
            mask = torch.zeros(images, dtype=torch.bool)
            mask[rows[: round(share * len(rows))]] = True
            masks.append(mask)
    cells = [Cell(lr, decay, mask) for mask in range(len(masks)) for lr in RATES for decay in DECAYS]
    return torch.stack(masks), cells


def train_alone(features: Tensor, targets: Tensor, steps: int, num_classes: int) -> None:
    """Train one head as one would by hand."""
    layer = torch.nn.Linear(features.shape[1], num_classes)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(layer(features), targets).backward()
        optimizer.step()


def fit_by_scikit_learn(features: Tensor, targets: Tensor, masks: Tensor, count: int) -> None:
    """Fit some regressions one after another, over the masks and five penalties."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what has not converged
        for number in range(count):
            mask = masks[number % len(masks)]
            LogisticRegression(C=10.0 ** (number % 5 - 3)).fit(features[mask].numpy(), targets[mask].numpy())


def main() -> None:
    """Time the variants and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sklearn_fits", type=int, default=10, help="fits that are timed; the table extrapolates")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    targets = torch.randint(options.classes, (options.images,))
    features = torch.randn(options.images, options.features)
    features[:, 0] += targets
    masks, cells = grid(options.images)
    full = features[masks[len(SHARES) - 1]], targets[masks[len(SHARES) - 1]]
    classes, steps = options.classes, options.steps
    variants: dict[str, Callable[[], object]] = {
        "one alone, torch": lambda: train_alone(*full, steps, classes),
        "one alone, here": lambda: train_cells(
            features, targets, masks, [Cell(0.01, 1e-4, len(SHARES) - 1)], num_classes=classes, steps=steps
        ),
        f"{len(cells):,} together": lambda: train_cells(
            features, targets, masks, cells, num_classes=classes, steps=steps
        ),
        "scikit-learn": lambda: fit_by_scikit_learn(features, targets, masks, options.sklearn_fits),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name, variant in variants.items():
            started = time.perf_counter()
            variant()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    medians["scikit-learn"] *= len(cells) / options.sklearn_fits
    print(
        f"{options.images} images, {options.features} features, {classes} classes, {steps} steps, "
        f"{options.threads} threads, medians of {options.rounds}"
    )
    for name, median in medians.items():
        shown = f"{name}, {len(cells):,} fits, extrapolated" if name == "scikit-learn" else name
        print(f"{shown:45s} {median:9.3f} s {median / medians['one alone, torch']:9.1f} x")


if __name__ == "__main__":
    main()
