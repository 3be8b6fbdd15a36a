"""What is predicted: by name, the tasks that a configuration can ask for."""

from collections.abc import Sequence

from ols.tasks.binary import Binary
from ols.tasks.classification import Classification
from ols.tasks.task import Task

TASKS: dict[str, type[Task]] = {task.name: task for task in (Classification, Binary)}


def find_task(name: str) -> type[Task]:
    """Return the class of a task.

    Raises:
        ValueError: There is no such task; the message has the known ones.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; known: {', '.join(TASKS)}")
    return TASKS[name]


def build_task(name: str, classes: Sequence[str], groups: Sequence[str]) -> Task:
    """Build a task for the classes of a data set.

    Args:
        name: A key of `TASKS`.
        classes: Label of each class.
        groups: Modality and anatomy of each class.

    Raises:
        ValueError: There is no such task, or it cannot be done with these classes.
    """
    return find_task(name)(classes, groups)
