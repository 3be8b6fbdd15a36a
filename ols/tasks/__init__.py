"""What is predicted: by name, the tasks that a configuration can ask for."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ols.tasks.binary import Binary
from ols.tasks.classification import Classification
from ols.tasks.multilabel import Multilabel
from ols.tasks.regression import Regression
from ols.tasks.segmentation import Segmentation
from ols.tasks.task import Targets, Task

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Classification, Binary, Multilabel, Regression, Segmentation)
}


def find_task(name: str) -> type[Task]:
    """Return the class of a task.

    Raises:
        ValueError: There is no such task; the message has the known ones.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(TASKS)}")
    return TASKS[name]


def build_task(name: str, classes: Sequence[str], groups: Sequence[str], **state: Any) -> Task:
    """Build a task for the classes of a data set.

    Args:
        name: A key of `TASKS`.
        classes: Label of each class, see `Targets`.
        groups: Modality and anatomy of each class.
        state: What `Task.state` returned of the task that a model was trained for.

    Raises:
        ValueError: There is no such task, or it cannot be done with these classes.
    """
    return find_task(name)(classes, groups, **state)


def build_task_for(name: str, source: Targets, pool: np.ndarray, **options: Any) -> Task:
    """Build a task for the data that a model is to be trained on.

    Args:
        name: A key of `TASKS`.
        source: Training split.
        pool: Indices that are trained on, int64 `[N]`.
        options: What a user chose of the task's state; None is not chosen.

    Raises:
        ValueError: There is no such task, it takes other targets, or it cannot be done with these.
    """
    return find_task(name).from_source(
        source, pool, **{key: value for key, value in options.items() if value is not None}
    )
