"""Heads on frozen features, each with one setting that validation chooses: ridge, logistic regression, neighbours.

All take features `[N, D]` and targets as the task has them, train on some rows and answer for all, once for each
setting. Outputs order samples, and sort classes, as the task's own outputs do; they are no calibrated probabilities.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from torch import Tensor

from ols.representations.probes import Cell, ridge, train_cells


class Problem(NamedTuple):
    """What is to be learned from features.

    Args:
        features: `[N, D]`, of one view of each image.
        targets: Class indices int64 `[N]`, labels `[N, L]` with NaN for unknown, or numbers `[N]`.
        num_classes: K of class indices; None for labels and numbers.
        train: Rows that are trained on, int64.
        more: Features of further views of each image `[V, N, D]`, which are trained on as well.
    """

    features: Tensor
    targets: Tensor
    num_classes: int | None
    train: Tensor
    more: Tensor

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return features and targets of the training rows, all views together."""
        views = [self.features[self.train], *(view[self.train] for view in self.more)]
        return torch.cat(views), self.targets[self.train].repeat(len(views), *[1] * (self.targets.ndim - 1))


class ProbeHead(NamedTuple):
    """A kind of head.

    Args:
        settings: Values of the one thing that validation chooses, named in `chooses`.
        chooses: Its name.
        outputs: From a problem and settings to outputs `[S, N, ...]`.
    """

    settings: Sequence[float]
    chooses: str
    outputs: Callable[[Problem, Sequence[float]], Tensor]


def ridge_outputs(problem: Problem, penalties: Sequence[float]) -> Tensor:
    """Return outputs of ridge regressions in closed form, of classes on one-hot targets, `[S, N, K]` or `[S, N, 1]`."""
    if problem.targets.ndim == 2:
        return _by_label(problem, lambda own: ridge_outputs(own, penalties))
    x, y = problem.rows()
    wanted = y if problem.num_classes is None else torch.nn.functional.one_hot(y, problem.num_classes)
    fitted = ridge(x.double(), wanted.double(), torch.ones(1, len(x), dtype=torch.bool), penalties)
    return fitted.logits(problem.features.double())


def logistic_outputs(problem: Problem, strengths: Sequence[float]) -> Tensor:
    """Return logits of scikit-learn's logistic regressions on standardised features, `[S, N, K]`.

    Args:
        problem: Of classes or labels.
        strengths: scikit-learn's C.
    """
    if problem.targets.ndim == 2:
        return _by_label(problem, lambda own: logistic_outputs(own, strengths))
    x, y = problem.rows()
    mean, scale = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    found = []
    for strength in strengths:
        model = LogisticRegression(C=strength, max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one that has not converged is a cell of the grid like any other
            model.fit(((x - mean) / scale).numpy(), y.numpy())
        scores = torch.from_numpy(model.decision_function(((problem.features - mean) / scale).numpy()))
        scores = torch.stack([-scores / 2, scores / 2], 1) if scores.ndim == 1 else scores
        found.append(_for_all_classes(scores, model.classes_, problem.num_classes or 2))
    return torch.stack(found)


def neighbour_outputs(problem: Problem, counts: Sequence[float]) -> Tensor:
    """Return log shares of the nearest neighbours by cosine, `[S, N, K]`, or their mean number `[S, N, 1]`.

    Args:
        problem: Of any kind.
        counts: Numbers of neighbours, cut off at the training rows.
    """
    if problem.targets.ndim == 2:
        return _by_label(problem, lambda own: neighbour_outputs(own, counts))
    x, y = problem.rows()
    kind = KNeighborsRegressor if problem.num_classes is None else KNeighborsClassifier
    found = []
    for count in counts:
        model = kind(min(int(count), len(x)), metric="cosine").fit(x.numpy(), y.numpy())
        if problem.num_classes is None:
            found.append(torch.from_numpy(model.predict(problem.features.numpy())[:, None]))
            continue
        shares = torch.from_numpy(model.predict_proba(problem.features.numpy()))
        smoothed = (shares + 1e-6).log()
        found.append(_for_all_classes(smoothed, model.classes_, problem.num_classes))
    return torch.stack(found)


def descent_outputs(problem: Problem, rates: Sequence[float]) -> Tensor:
    """Return logits of linear heads that gradient descent trains for 200 steps at once, `[S, N, K]`."""
    x, y = problem.rows()
    cells = [Cell(rate, 1e-4) for rate in rates]
    everything = torch.ones(1, len(x), dtype=torch.bool)
    return train_cells(x, y, everything, cells, num_classes=problem.num_classes or 2).logits(problem.features)


RIDGE = ProbeHead(tuple(np.geomspace(1e-1, 1e5, 13)), "penalty", ridge_outputs)
LOGISTIC = ProbeHead(tuple(np.geomspace(1e-5, 1e1, 7)), "C", logistic_outputs)
NEIGHBOURS = ProbeHead((1, 5, 10, 20, 50), "neighbours", neighbour_outputs)
DESCENT = ProbeHead(tuple(np.geomspace(1e-4, 1e-1, 7)), "learning rate", descent_outputs)

HEADS_OF: dict[str, dict[str, ProbeHead]] = {
    "class": {"ridge": RIDGE, "logistic": LOGISTIC, "knn": NEIGHBOURS, "descent": DESCENT},
    "multilabel": {"ridge": RIDGE, "logistic": LOGISTIC, "knn": NEIGHBOURS},
    "regression": {"ridge": RIDGE, "knn": NEIGHBOURS},
}
"""Heads by the kind of targets that they take, then by name."""


def _by_label(problem: Problem, outputs_of: Callable[[Problem], Tensor]) -> Tensor:
    """Return scores of each label `[S, N, L]`, trained where it is known; 0 where its training rows are all alike."""
    columns: list[Tensor | None] = []
    for targets in problem.targets.T:
        known = problem.train[~targets[problem.train].isnan()]
        if len(targets[known].unique()) < 2:
            columns.append(None)
            continue
        own = problem._replace(targets=targets.nan_to_num().long(), num_classes=2, train=known)
        scores = outputs_of(own)
        columns.append(scores[..., 1] - scores[..., 0])
    shape = next((column.shape for column in columns if column is not None), None)
    if shape is None:
        raise ValueError("no label has both a positive and a negative among the training rows")
    return torch.stack([torch.zeros(shape) if column is None else column.double() for column in columns], -1)


def _for_all_classes(scores: Tensor, classes: np.ndarray, num_classes: int) -> Tensor:
    """Return scores `[N, K]`, where classes that training lacks have the lowest."""
    whole = scores.new_full((len(scores), num_classes), float(scores.min()) - 1)
    whole[:, torch.from_numpy(np.asarray(classes)).long()] = scores
    return whole
