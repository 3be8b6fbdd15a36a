"""What the folds of one training say together: every image is predicted once, by the model that had not seen it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ols.evaluation.evaluate import Evaluation, measure
from ols.evaluation.predictions import Predictions
from ols.metrics.resampling import PairedDifference, Statistic, bootstrap_interval, bootstrap_p, resample
from ols.tasks.task import Task

RESAMPLES = 2000


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of several folds, each on its own test images.

    Args:
        folds: Predictions of each fold.
        tasks: Task of each, which says what its outputs mean.

    Raises:
        ValueError: There is no fold, or an image was predicted in two of them.
    """

    folds: Sequence[Predictions]
    tasks: Sequence[Task]

    def __post_init__(self):
        if not self.folds:
            raise ValueError("expected the predictions of a fold, got none")
        if (count := len(self.sample_ids)) > (distinct := len(set(self.sample_ids))):
            raise ValueError(f"{count - distinct} images were predicted in two folds")

    @property
    def sample_ids(self) -> list[str]:
        """Name of each image, fold after fold, `[N]`."""
        return [name for fold in self.folds for name in fold.sample_ids]

    @property
    def patients(self) -> list[str]:
        """What each image belongs to, `[N]`."""
        return [name for fold in self.folds for name in fold.patients]

    @property
    def targets(self) -> Tensor:
        """Target of each image `[N, ...]`."""
        return torch.cat([fold.targets for fold in self.folds])

    @property
    def outputs(self) -> Tensor:
        """Output for each image `[N, ...]`, as the first fold's task reads it."""
        first = self.tasks[0]
        return torch.cat(
            [task.in_units_of(first, fold.logits) for task, fold in zip(self.tasks, self.folds, strict=True)]
        )

    def pooled(self) -> Predictions:
        """Return all folds as one, in the units of the first."""
        return Predictions(
            logits=self.outputs,
            targets=self.targets,
            indices=torch.cat([fold.indices for fold in self.folds]),
            sample_ids=self.sample_ids,
            patients=self.patients,
            classes=self.folds[0].classes,
            groups=self.folds[0].groups,
            task=self.folds[0].task,
        )

    def evaluation(self) -> Evaluation:
        """Measure all folds together."""
        return measure(self.pooled(), self.tasks[0])

    def by_fold(self) -> list[float]:
        """Return the measure that selects by default in each fold; NaN where it is undefined."""
        return [
            float(task.of_draws(fold.logits, fold.targets)(np.ones((1, len(fold.targets))))[0])
            for task, fold in zip(self.tasks, self.folds, strict=True)
        ]

    def statistic(self, *, within_folds: bool = False) -> Statistic:
        """Return the measure that selects by default, from how often each image counts.

        Args:
            within_folds: The mean over folds of what it is in each, which an order of images across models has no part
                in: scores of two folds' models need not be of one scale, and then an AUC of all together is too low.
        """
        if not within_folds:
            return self.tasks[0].of_draws(self.outputs, self.targets)
        parts = [task.of_draws(fold.logits, fold.targets) for task, fold in zip(self.tasks, self.folds, strict=True)]
        ends = np.cumsum([len(fold.targets) for fold in self.folds])[:-1]

        def mean_of_folds(counts: NDArray) -> NDArray:
            each = np.split(counts, ends, axis=1)
            return np.mean([part(own) for part, own in zip(parts, each, strict=True)], axis=0)

        return mean_of_folds

    def interval(
        self, *, within_folds: bool = False, resamples: int = RESAMPLES, seed: int = 0
    ) -> tuple[float, float, float]:
        """Return that measure of all images, and its 95 % interval over patients drawn anew."""
        found = _resampled(self.statistic(within_folds=within_folds), self.patients, resamples, seed)
        return found.difference, found.low, found.high


def compare(
    first: OutOfFold, second: OutOfFold, *, within_folds: bool = False, resamples: int = RESAMPLES, seed: int = 0
) -> PairedDifference:
    """Compare two trainings on the same folds by the measure that selects by default: patients are drawn anew.

    Says what other patients would change, and nothing of other trainings: for that repeat with other seeds.

    Args:
        first: A training.
        second: Another, on the same images.
        within_folds: Compare means over folds, see `OutOfFold.statistic`.
        resamples: Number of draws.
        seed: Of the draws.

    Raises:
        ValueError: The images are not the same.
    """
    place = {name: index for index, name in enumerate(first.sample_ids)}
    if place.keys() != set(second.sample_ids):
        raise ValueError(f"the trainings predict other images: {len(place)} and {len(second.sample_ids)}")
    order = np.array([place[name] for name in second.sample_ids])
    one, other = (training.statistic(within_folds=within_folds) for training in (first, second))
    return _resampled(lambda counts: one(counts) - other(counts[:, order]), first.patients, resamples, seed)


def _resampled(statistic: Statistic, patients: Sequence[str], resamples: int, seed: int) -> PairedDifference:
    """Return a statistic of all images, its interval and the p of 0; a draw where it is undefined does not count."""
    estimate = float(statistic(np.ones((1, len(patients))))[0])
    drawn = resample(statistic, len(patients), resamples=resamples, seed=seed, clusters=np.array(patients))
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return PairedDifference(estimate, np.nan, np.nan, np.nan)
    low, high = bootstrap_interval(estimate, drawn)
    return PairedDifference(estimate, float(low), float(high), float(bootstrap_p(estimate, drawn)))
