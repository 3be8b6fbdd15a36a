"""A kind of head on the features of every fold: its setting chosen on validation, the fold's test images measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ols.data.sources.protocol import ImageSource, Split
from ols.evaluation.folds import OutOfFold
from ols.evaluation.predictions import Predictions
from ols.metrics.measures import find_measure
from ols.representations.probe_heads import ProbeHead, Problem
from ols.tasks import build_task_for
from ols.tasks.task import Task


@dataclass(frozen=True)
class Probed:
    """What a kind of head is worth.

    Args:
        chosen: Test predictions of the setting that validation chose in each fold.
        val: Its validation predictions in each fold.
        settings: Those settings, one a fold.
        test: Measure that chooses, on test, of each fold and setting `[F, S]`.
    """

    chosen: OutOfFold
    val: list[Predictions]
    settings: list[float]
    test: np.ndarray

    @property
    def mean_of_all(self) -> float:
        """Mean over all folds and settings, however they did."""
        return float(self.test.mean())

    @property
    def sd_of_all(self) -> float:
        """Standard deviation over them, with n - 1."""
        return float(self.test.std(ddof=1))

    @property
    def chosen_on_test(self) -> float:
        """What the mean over folds would seem to be, had the test images chosen the setting."""
        higher = find_measure(self.chosen.measure).higher_is_better
        return float((self.test.max(axis=1) if higher else self.test.min(axis=1)).mean())


def probe_folds(
    head: ProbeHead,
    features: Tensor,
    source: ImageSource,
    pools: Sequence[Mapping[Split, np.ndarray]],
    task_name: str,
    *,
    positive: str | None = None,
    select_by: str | None = None,
) -> Probed:
    """Fit a kind of head on the training images of each fold.

    Args:
        head: Kind and settings.
        features: Of each view of each image `[V, N, D]`; the first is what is validated and tested.
        source: The whole data set.
        pools: Indices of each split, of every fold.
        task_name: What is predicted, a name of `ols.tasks.TASKS`.
        positive: Name of the positive class of a binary task.
        select_by: Measure that chooses; by default the task's own.

    Raises:
        ValueError: The measure is undefined on the validation images of a fold, whatever the setting.
    """
    targets = torch.from_numpy(source.targets)
    folds, vals, tasks, settings, tests = [], [], [], [], []
    for number, pool in enumerate(pools):
        task = build_task_for(task_name, source, pool["train"], positive=positive)
        num_classes = len(source.classes) if task.kind == "class" else None
        problem = Problem(features[0], targets, num_classes, torch.from_numpy(pool["train"]), features[1:])
        outputs = head.outputs(problem, head.settings)
        if task.kind == "regression":  # which answers in standard deviations of the training targets
            outputs = (outputs - task.state["mean"]) / task.state["std"]
        val, test = (
            np.array([task.value(one[pool[split]], targets[pool[split]], select_by) for one in outputs])
            for split in ("val", "test")
        )
        measure = task.selecting(select_by)
        if np.isnan(val).all():
            raise ValueError(f"{measure} is undefined on the validation images of fold {number}")
        best = int(np.nanargmax(val if find_measure(measure).higher_is_better else -val))
        settings.append(float(head.settings[best]))
        tests.append(test)
        tasks.append(task)
        folds.append(_predictions(outputs[best], source, pool["test"], task))
        vals.append(_predictions(outputs[best], source, pool["val"], task))
    return Probed(OutOfFold(folds, tasks, select_by), vals, settings, np.array(tests))


def _predictions(outputs: Tensor, source: ImageSource, pool: np.ndarray, task: Task) -> Predictions:
    return Predictions(
        logits=outputs[pool],
        targets=torch.from_numpy(source.targets[pool]),
        indices=torch.from_numpy(pool),
        sample_ids=[source.sample_id(index) for index in pool.tolist()],
        patients=[source.sample_group(index) for index in pool.tolist()],
        classes=task.classes,
        groups=task.groups,
        task=task.name,
    )
