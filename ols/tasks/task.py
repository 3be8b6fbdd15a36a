"""What a task is: all that tells one kind of prediction from another, in one place.

Training, evaluation, tables, reports and exports are handed a task and ask it; none of them knows what a class is. To
add one, write a subclass and enter it in `ols.tasks.TASKS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ols.losses import Loss
from ols.metrics.measures import find_measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from ols.tasks.report.parts import Predicted, Report

Values = Mapping[str, float | None]
"""Measures by name, with what belongs to them: `auc`, `auc_low` and `auc_high`; None and NaN are undefined."""


TargetKind = Literal["class", "multilabel", "regression", "mask"]
"""What the targets of a data set are: class indices `[N]`, labels `[N, L]`, numbers `[N]`, or masks of their images."""


class Targets(Protocol):
    """What a task asks of a data set.

    One whose targets are no class indices has `kind`, too, a `TargetKind`.

    Attributes:
        classes: Label of each class; of labels, numbers or masks the names of the columns or of the foreground.
        groups: Modality and anatomy of each.
        targets: Of each sample.
    """

    classes: list[str]
    groups: list[str]
    targets: np.ndarray


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

    What a model needs beside its weights to be of use, such as which class is positive, is the task's `state`: keyword
    arguments that build the task again, recorded in exports. `from_source` finds it in training data.

    Args:
        classes: Label of each class, see `Targets`.
        groups: Modality and anatomy of each class.

    Raises:
        ValueError: The task cannot be done with these classes.
    """

    name: ClassVar[str]
    kind: ClassVar[TargetKind]  # of the targets that it takes
    dense: ClassVar[bool] = False  # whether a model answers for each pixel
    options: ClassVar[tuple[str, ...]] = ()  # what a user may choose of the state
    losses: ClassVar[tuple[str, ...]]  # names of those that fit
    default_loss: ClassVar[str]  # one of them
    selects: ClassVar[tuple[str, ...]]  # measures that may choose an epoch; the first does so by default
    line: ClassVar[tuple[str, ...]]  # measures on the line that a run prints of an epoch
    table: ClassVar[tuple[str, ...]]  # columns of the table that a run prints at its end
    report: ClassVar[Mapping[str, tuple[str, ...]]]  # rows of a report's table, by the headings of its parts

    def __init__(self, classes: Sequence[str], groups: Sequence[str]):
        self.classes, self.groups = list(classes), list(groups)

    @classmethod
    def from_source(cls, source: Targets, pool: np.ndarray, **options: Any) -> "Task":
        """Build the task for a data set.

        Args:
            source: Training split.
            pool: Indices that are trained on.
            options: What a user chose of the state.

        Raises:
            ValueError: The data set has other targets, or the task cannot be done with them.
        """
        cls.check_source(source)
        return cls(source.classes, source.groups, **options)

    @classmethod
    def from_outputs(cls, classes: Sequence[str], groups: Sequence[str], **state: Any) -> "Task":
        """Build the task of a model again, from the classes of its outputs as exports and predictions have them.

        Args:
            classes: Label of each class, `Task.classes`.
            groups: Modality and anatomy of each class, `Task.groups`.
            state: What `Task.state` returned.
        """
        return cls(classes, groups, **state)

    @classmethod
    def check_source(cls, source: Targets) -> None:
        """Make sure that a data set has the targets of this task.

        Raises:
            ValueError: It has others; the message names both.
        """
        found = getattr(source, "kind", "class")
        if found != cls.kind:
            names = ", ".join(source.classes[:5]) + (", ..." if len(source.classes) > 5 else "")
            raise ValueError(f"a {cls.name} task needs targets of kind {cls.kind!r}, these are {found!r}: {names}")

    @property
    def state(self) -> dict[str, Any]:
        """Keyword arguments that build this task again for the same classes: plain values, for JSON."""
        return {}

    @property
    def num_outputs(self) -> int:
        """Numbers that a model returns for an image, or for each of its pixels."""
        return len(self.classes)

    def loss_options(self) -> dict[str, Any]:
        """Return what the task itself gives a loss beside what a user chose."""
        return {}

    def terms_per_image(self, loss: Loss, target: Tensor) -> int:
        """Return how many terms of an image a loss with `reduction="sum"` adds up, such as its pixels."""
        return 1

    @abstractmethod
    def describe_targets(self, targets: np.ndarray) -> str:
        """Return in a line or more what the targets of a split are."""

    @abstractmethod
    def describe(self) -> str:
        """Return what is predicted, in a few words."""

    @classmethod
    def check_loss_name(cls, name: str) -> None:
        """Make sure that the loss of a name fits.

        Raises:
            ValueError: It does not; the message has those that do.
        """
        if name not in cls.losses:
            raise ValueError(f"loss {name} does not fit a {cls.name} task; those that do: {', '.join(cls.losses)}")

    @abstractmethod
    def check_loss(self, loss: Loss) -> None:
        """Make sure that a loss fits.

        Raises:
            ValueError: It does not; the message names both.
        """

    @abstractmethod
    def build_metric(self, *, thorough: bool = False, select_by: str | None = None) -> TaskMetric:
        """Build what measures a split in one pass, merging processes.

        Args:
            thorough: Whether to measure also what costs more time than all else, for a report.
            select_by: Measure that chooses an epoch, which is among the results even where others go without it.
        """

    @abstractmethod
    def statistics(self, outputs: Tensor, targets: Tensor) -> "dict[str, Callable[[NDArray], NDArray]]":
        """Return measures of samples that count several times or not at all, the one that selects by default first.

        Args:
            outputs: What a model gave `[N, ...]`.
            targets: Of each sample `[N, ...]`.

        Returns:
            By the name of the measure a function from how often each sample counts `[R, N]` to the measure `[R]`, for
            `ols.metrics.resampling`; NaN where it is undefined.
        """

    def of_draws(self, outputs: Tensor, targets: Tensor, name: str | None = None) -> "Callable[[NDArray], NDArray]":
        """Return a measure that may choose an epoch, by default the one that does, of samples that count.

        Args:
            outputs: What a model gave `[N, ...]`.
            targets: Of each sample `[N, ...]`.
            name: Of the measure.

        Returns:
            As those of `statistics`.

        Raises:
            ValueError: The measure chooses no epoch of this task; the message has those that do.
        """
        return self.statistics(outputs, targets)[self.selecting(name)]

    def value(self, outputs: Tensor, targets: Tensor, name: str | None = None) -> float:
        """Return the measure of `of_draws` where every sample counts once; NaN where it is undefined."""
        return float(self.of_draws(outputs, targets, name)(np.ones((1, len(targets))))[0])

    def in_units_of(self, other: "Task", outputs: Tensor) -> Tensor:
        """Return outputs as `other` reads them, which was built for other training images, such as another fold's."""
        return outputs

    @abstractmethod
    def draw(self, tables: Mapping[str, Tensor], *, title: str) -> "dict[str, Figure]":
        """Draw what a metric's `tables` hold, figures by name."""

    @abstractmethod
    def build_report(
        self, predictions: "Mapping[str, Predicted]", splits: Sequence[str], *, soft_labels: Tensor | None = None
    ) -> "Report":
        """Return what a report says of predictions: measures with intervals, figures, tables and images.

        Args:
            predictions: Of each split, those of `val` among them, which a temperature is fitted on.
            splits: What is reported; the first one is shown in full.
            soft_labels: What the loss had learned `[K, K]`, if it learns soft labels.
        """

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


def draw_reliability(tables: Mapping[str, Tensor], *, title: str) -> "Figure":
    """Draw the reliability diagram of a metric that has a table of it, with the interval of each bin."""
    from ols.figures import reliability_diagram
    from ols.metrics.calibration_error import reliability_intervals

    table = tables["reliability"]
    return reliability_diagram(table, title=title, intervals=reliability_intervals(table))
