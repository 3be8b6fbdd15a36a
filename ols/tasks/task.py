"""What a task is: all that tells one kind of prediction from another, in one place.

Training, evaluation, tables, reports and exports are handed a task and ask it; none of them knows what a class is. To
add one, write a subclass and enter it in `ols.tasks.TASKS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

from ols.losses.base import LabelLoss
from ols.metrics.measures import find_measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = Mapping[str, float | None]
"""Measures by name, with what belongs to them: `auc`, `auc_low` and `auc_high`; None and NaN are undefined."""


class TaskMetric(Protocol):
    """What measures a split in one pass, and merges processes: torchmetrics' `Metric` with tables."""

    @property
    def device(self) -> torch.device:
        """Where batches have to be."""

    def to(self, device: torch.device | str) -> object:
        """Move it."""

    def update(self, outputs: Tensor, targets: Tensor, /) -> None:
        """Add a batch."""

    def compute(self) -> dict[str, Tensor]:
        """Return scalars by name.

        Among them are `count`, the number of images measured, and `nonfinite`, of those that were not as their outputs
        are no numbers.
        """

    def tables(self) -> dict[str, Tensor]:
        """Return what is no scalar, by name, for `Task.draw`."""


class Task(ABC):
    """A kind of prediction, for the classes of a data set.

    A subclass says what it is in these attributes, all of which hold names of `ols.metrics.measures.MEASURES`. It is
    light to import, as the configuration needs it: metrics and figures are imported where they are built.

    Args:
        classes: Label of each class.
        groups: Modality and anatomy of each class.

    Raises:
        ValueError: The task cannot be done with these classes.
    """

    name: ClassVar[str]
    default_loss: ClassVar[str]  # name of a loss
    selects: ClassVar[tuple[str, ...]]  # measures that may choose an epoch; the first does so by default
    line: ClassVar[tuple[str, ...]]  # measures on the line that a run prints of an epoch
    table: ClassVar[tuple[str, ...]]  # columns of the table that a run prints at its end
    report: ClassVar[Mapping[str, tuple[str, ...]]]  # rows of a report's table, by the headings of its parts

    def __init__(self, classes: Sequence[str], groups: Sequence[str]):
        self.classes, self.groups = list(classes), list(groups)

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Numbers that a model returns for an image."""

    @property
    @abstractmethod
    def target_shape(self) -> tuple[int, ...]:
        """Shape of the target of an image; () for a class index."""

    @abstractmethod
    def describe(self) -> str:
        """Return what is predicted, in a few words."""

    @abstractmethod
    def check_loss(self, loss: LabelLoss) -> None:
        """Make sure that a loss fits.

        Raises:
            ValueError: It does not; the message names both.
        """

    @abstractmethod
    def build_metric(self, *, thorough: bool = False) -> TaskMetric:
        """Build what measures a split in one pass, merging processes.

        Args:
            thorough: Whether to measure also what costs more time than all else, for a report.
        """

    @abstractmethod
    def draw(self, tables: Mapping[str, Tensor], *, title: str) -> "dict[str, Figure]":
        """Draw what a metric's `tables` hold, figures by name."""

    def remarks(self, values: Values) -> list[str]:
        """Return sentences that a reader of these values needs, such as why one of them is undefined."""
        return []

    @classmethod
    def selecting(cls, name: str | None) -> str:
        """Return the measure that chooses an epoch: the one that is named, or by default the task's own.

        Raises:
            ValueError: The measure cannot choose; the message has those that can.
        """
        if name is None:
            return cls.selects[0]
        if name not in cls.selects:
            raise ValueError(f"{name} chooses no epoch of a {cls.name} task; known: {', '.join(cls.selects)}")
        return name

    def epoch_text(self, values: Values) -> str:
        """Return the measures of an epoch's line, such as `auc 0.912 (0.871-0.953)`."""
        return "  ".join(f"{name} {with_interval(name, values)}" for name in self.line)


def with_interval(name: str, values: Values) -> str:
    """Return a measure with three digits, and in brackets its 95 % interval and what perfection would show (`null`)."""
    measure, belongs = find_measure(name), []
    if f"{name}_low" in values:
        low, high = (measure.text(values[f"{name}_{end}"], digits=3) for end in ("low", "high"))
        belongs.append(f"{low}-{high}")
    if f"{name}_null" in values:
        belongs.append(f"null {measure.text(values[f'{name}_null'], digits=3)}")
    text = measure.text(values[name], digits=3)
    return f"{text} ({', '.join(belongs)})" if belongs else text
