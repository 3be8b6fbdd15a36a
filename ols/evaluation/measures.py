"""Measures that a model is compared in, as functions of how often each image counts, and where their intervals end."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ols.metrics.arguments import usable_rows
from ols.metrics.measures import find_measure
from ols.metrics.resampling import Statistic, mean_of_counts
from ols.metrics.weighted import weighted_measures
from ols.tasks.binary import Binary
from ols.tasks.classification import Classification
from ols.tasks.multilabel import Multilabel
from ols.tasks.task import Task


def measures_of(task: Task, outputs: Tensor, targets: Tensor, name: str) -> dict[str, Statistic]:
    """Return a measure that may choose an epoch, and of answers ECE, Brier score and AURC, of images that count.

    An image has one answer, its class, or one for each label that is known. Where an output is no number only the first
    measure is returned.
    """
    found: dict[str, Statistic] = {name: task.of_draws(outputs, targets, name)}
    image: Any = slice(None)  # of each answer
    if isinstance(task, Multilabel):
        image, label = torch.nonzero(~targets.isnan(), as_tuple=True)
        score, targets = outputs[image, label], targets[image, label].long()
        outputs = torch.stack([torch.zeros_like(score), score], dim=1)
    elif not isinstance(task, Classification):
        return found
    if not usable_rows(outputs).all():
        return found
    brier = (outputs.double().softmax(1) - F.one_hot(targets, outputs.shape[1])).square().sum(1).numpy()
    counted = weighted_measures(outputs, targets, ["ece", "aurc"])
    two = isinstance(task, (Binary, Multilabel))
    of_answers: dict[str, Statistic] = {
        "ece": counted["ece"],
        "brier_positive" if two else "brier": mean_of_counts(brier / 2 if two else brier),
        "aurc": counted["aurc"],
    }
    return found | {of: _of_images(part, image) for of, part in of_answers.items()}


def _of_images(part: Statistic, image: Any) -> Statistic:
    return lambda counts: part(counts[:, image])


def possible_interval(name: str, low: float, high: float) -> tuple[float, float]:
    """Return an interval without values that the measure cannot have; NaN where no draw differs from another."""
    if low == high:
        return math.nan, math.nan
    least = -math.inf if name == "r2" else 0.0
    most = 1.0 if find_measure(name).higher_is_better or name in ("aurc", "brier_positive") else math.inf
    return max(low, least), min(high, most)
