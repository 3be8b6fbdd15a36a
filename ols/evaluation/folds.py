"""What the folds of one training say together: every image is predicted by models that had not seen it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ols.evaluation.evaluate import Evaluation, measure
from ols.evaluation.predictions import Predictions
from ols.metrics.resampling import PairedDifference, Statistic, resample
from ols.tasks.task import Task

RESAMPLES = 2000


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of several folds, each on its own test images, or all on one test set that is fixed.

    Where the test is fixed, every image is there once a fold, and what is said is the mean over folds of what each
    fold's own model does: what one training gives. It is neither the measure of their mean output, which is that of an
    ensemble, nor that of all their outputs in one, where an image would be ranked against itself. The rows of a patient
    are drawn together in all folds, so that k folds of an image do not pass for k images.

    Args:
        folds: Predictions of each fold.
        tasks: Task of each, which says what its outputs mean.
        select_by: Measure that is compared, one of those that may choose an epoch; by default the task's own.

    Raises:
        ValueError: There is no fold, or an image was predicted in two of them, but not in all.
    """

    folds: Sequence[Predictions]
    tasks: Sequence[Task]
    select_by: str | None = None

    def __post_init__(self):
        if not self.folds:
            raise ValueError("expected the predictions of a fold, got none")
        if self.has_fixed_test:
            return
        if (count := len(self.sample_ids)) > (distinct := len(set(self.sample_ids))):
            raise ValueError(f"{count - distinct} images were predicted in two folds")

    @cached_property
    def has_fixed_test(self) -> bool:
        """Whether there are several folds, and all test the same images."""
        first, *others = (sorted(fold.sample_ids) for fold in self.folds)
        return bool(others) and all(other == first for other in others)

    @property
    def measure(self) -> str:
        """Name of the measure that is compared."""
        return self.tasks[0].selecting(self.select_by)

    @property
    def sample_ids(self) -> list[str]:
        """Name of each image, fold after fold, `[N]`; of a fixed test as often as there are folds."""
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
        """Measure all folds together; of a fixed test the metrics are the mean over folds, and tables of all rows."""
        pooled = measure(self.pooled(), self.tasks[0])
        if not self.has_fixed_test:
            return pooled
        each = [measure(fold, task).metrics for fold, task in zip(self.folds, self.tasks, strict=True)]
        return replace(pooled, metrics={name: float(np.mean([one[name] for one in each])) for name in each[0]})

    def by_fold(self) -> list[float]:
        """Return the measure in each fold; NaN where it is undefined."""
        pairs = zip(self.tasks, self.folds, strict=True)
        return [task.value(fold.logits, fold.targets, self.measure) for task, fold in pairs]

    def statistic(self, *, within_folds: bool = False) -> Statistic:
        """Return the measure, from how often each image counts.

        Args:
            within_folds: The mean over folds of what it is in each, which an order of images across models has no part
                in: scores of two folds' models need not be of one scale, and then an AUC of all together is too low.
                Of a fixed test it is that in any case.
        """
        if not within_folds and not self.has_fixed_test:
            return self.tasks[0].of_draws(self.outputs, self.targets, self.measure)
        pairs = zip(self.tasks, self.folds, strict=True)
        parts = [task.of_draws(fold.logits, fold.targets, self.measure) for task, fold in pairs]
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
    """Compare two trainings on the same folds by their measure: patients are drawn anew.

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
    return PairedDifference.of_draws(estimate, drawn)
