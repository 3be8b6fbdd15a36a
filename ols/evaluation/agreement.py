"""How far two models are right and wrong on the same images, beyond what their accuracies make likely."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ols.evaluation.predictions import Predictions
from ols.metrics.resampling import bootstrap_interval, resample
from ols.metrics.selective import is_correct


class Agreement(NamedTuple):
    """How far two models agree in being right.

    Args:
        observed: Share of images on which both are right or both are wrong.
        chance: The same of independent errors, from the accuracies a and b of both: a b + (1 - a)(1 - b).
        kappa: (observed - chance) / (1 - chance): 0 for independent errors, 1 for the same ones.
        low: Lower end of the 95 % interval of kappa.
        high: Upper end.
        observed_low: Lower end of the 95 % interval of the observed share.
        observed_high: Upper end.
        images: Images that both were asked about.
        patients: Patients that these are of, as many as there are images where none are known.
    """

    observed: float
    chance: float
    kappa: float
    low: float
    high: float
    observed_low: float
    observed_high: float
    images: int
    patients: int


def agreement(
    first: ArrayLike, second: ArrayLike, *, patients: ArrayLike | None = None, resamples: int = 2000, seed: int = 0
) -> Agreement:
    """Compare which images two models are right on (Cohen 1960; the interval draws patients anew).

    Two good models agree on most images whatever they have learned: the chance level takes both accuracies, not one.

    Args:
        first: Whether a model is right on each image, bool `[N]`.
        second: Whether the other is `[N]`.
        patients: Patient of each image `[N]`; by default each image is one of its own.
        resamples: Number of resamples.
        seed: Of the draws.

    Returns:
        kappa and its interval are NaN where chance is 1: both are always right, or always wrong.

    Raises:
        ValueError: Shapes differ, or there is no image.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(f"expected two [N] of the same images, got {list(first.shape)} and {list(second.shape)}")

    def both(counts: NDArray) -> NDArray:
        """Return the observed share, the chance level and kappa of resamples, `[R, 3]`."""
        of = counts.sum(axis=-1)
        a, b, same = counts @ first / of, counts @ second / of, counts @ (first == second) / of
        chance = a * b + (1 - a) * (1 - b)
        with np.errstate(invalid="ignore", divide="ignore"):
            kappa = np.where(chance < 1, (same - chance) / (1 - chance), np.nan)
        return np.stack([same, chance, kappa], axis=-1)

    found = both(np.ones(len(first)))
    resampled = resample(both, len(first), resamples=resamples, seed=seed, clusters=patients)
    observed_low, observed_high = np.clip(bootstrap_interval(found[0], resampled[:, 0]), 0, 1)
    low = high = np.asarray(np.nan)
    if np.isfinite(found[2]):
        low, high = np.clip(bootstrap_interval(found[2], resampled[np.isfinite(resampled[:, 2]), 2]), -1, 1)
    observed, chance, kappa = map(float, found)
    return Agreement(
        *(observed, chance, kappa, float(low), float(high), float(observed_low), float(observed_high)),
        images=len(first),
        patients=len(first) if patients is None else len(np.unique(np.asarray(patients))),
    )


def agreement_of_predictions(first: Predictions, second: Predictions, *, resamples: int = 2000) -> Agreement:
    """Compare which images two models are right on, from what was saved of them; intervals draw patients anew.

    Args:
        first: Of one model, of a task with classes.
        second: Of the other, on the same images in whatever order.
        resamples: Number of resamples.

    Raises:
        ValueError: See `right_on_same_images`.
    """
    return agreement(*right_on_same_images(first, second), patients=first.patients, resamples=resamples)


def right_on_same_images(first: Predictions, second: Predictions) -> tuple[NDArray, NDArray]:
    """Return whether each of two models is right on each image, bool `[N]` and `[N]`, in the order of the first.

    Args:
        first: Of one model, of a task with classes.
        second: Of the other, on the same images in whatever order.

    Raises:
        ValueError: A task has no classes to be right on, or the images or their classes are not the same; the message
            names the first.
    """
    right = []
    for predictions in (first, second):
        if predictions.logits.ndim != 2 or predictions.targets.dtype != torch.int64:
            raise ValueError(f"a {predictions.task} task has no class to be right on")
        answers = zip(is_correct(predictions.logits, predictions.targets).tolist(), _labels(predictions), strict=True)
        right.append(dict(zip(predictions.sample_ids, answers, strict=True)))
    ours, theirs = right
    if other := sorted(ours.keys() ^ theirs.keys()):
        raise ValueError(f"predictions are of other images: {len(other)} are in one of both, such as {other[0]}")
    for name, (_, label) in ours.items():
        if theirs[name][1] != label:
            raise ValueError(f"{name} is {label!r} in one of both, {theirs[name][1]!r} in the other")
    return np.array([ours[name][0] for name in ours]), np.array([theirs[name][0] for name in ours])


def _labels(predictions: Predictions) -> list[str]:
    return [predictions.classes[target] for target in predictions.targets.tolist()]
