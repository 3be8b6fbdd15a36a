"""A number of each image, such as an age."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from ols.losses import Loss
from ols.losses.regression import RegressionLoss
from ols.tasks.task import Targets, Task, TaskMetric, Values

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


class Regression(Task):
    """Each image has a number: one output in standard deviations from the mean of the training targets.

    Measures are in the target's unit: a prediction is `mean + std * output`.

    Args:
        classes: Name of the number, alone.
        groups: Modality and anatomy.
        mean: Mean of the training targets.
        std: Their standard deviation, positive.

    Raises:
        ValueError: There is more than one number, or the standard deviation is not positive.
    """

    name = "regression"
    kind = "regression"
    losses = ("mse", "l1", "huber")
    default_loss = "mse"
    selects: ClassVar[tuple[str, ...]] = ("mae", "rmse", "r2")
    line: ClassVar[tuple[str, ...]] = ("mae", "rmse", "r2")
    table: ClassVar[tuple[str, ...]] = ("mae", "mae_of_mean", "rmse", "rmse_of_mean", "r2", "bias")
    report: ClassVar[Mapping[str, tuple[str, ...]]] = {"Errors": table}

    def __init__(self, classes: Sequence[str], groups: Sequence[str], *, mean: float, std: float):
        if len(classes) != 1:
            raise ValueError(f"a regression task predicts one number, the data set has {len(classes)}")
        if not std > 0:
            raise ValueError(f"a regression task needs training targets that differ, {classes[0]} has sd {std}")
        super().__init__(classes, groups)
        self.mean, self.std = float(mean), float(std)

    @classmethod
    def from_source(cls, source: Targets, pool: np.ndarray, **options: Any) -> "Regression":
        """Build the task with mean and standard deviation of the targets that are trained on."""
        cls.check_source(source)
        targets = source.targets[pool].astype(np.float64)
        return cls(source.classes, source.groups, mean=targets.mean(), std=targets.std(), **options)

    @property
    def state(self) -> dict[str, Any]:
        """What outputs mean: mean and standard deviation of the training targets."""
        return {"mean": self.mean, "std": self.std}

    def describe(self) -> str:
        """Return which number, and its mean and standard deviation in training."""
        return f"the number {self.classes[0]}, {self.mean:.4g} +- {self.std:.4g} in training"

    def describe_targets(self, targets: np.ndarray) -> str:
        """Return range and mean."""
        return f"{self.classes[0]} from {targets.min():.4g} to {targets.max():.4g}, mean {targets.mean():.4g}"

    def loss_options(self) -> dict[str, Any]:
        """Return what targets are standardised by."""
        return self.state

    def check_loss(self, loss: Loss) -> None:
        """Make sure that a loss takes numbers, and standardises them as this task does.

        Raises:
            ValueError: It does not; the message names both.
        """
        if not isinstance(loss, RegressionLoss):
            raise ValueError(f"a regression task needs one of {', '.join(self.losses)}, got {loss}")
        if (float(loss.mean), float(loss.std)) != (self.mean, self.std):
            found = f"{float(loss.mean)} and {float(loss.std)}"
            raise ValueError(f"the loss standardises by {found}, the task by {self.mean} and {self.std}")

    def build_metric(self, *, thorough: bool = False) -> TaskMetric:
        """Build what measures errors in the target's unit."""
        from ols.metrics.regression import RegressionMetrics

        return RegressionMetrics(mean=self.mean, std=self.std)

    def of_draws(self, outputs: Tensor, targets: Tensor) -> "Callable[[NDArray], NDArray]":
        """Return the mean absolute error, in the target's unit, of samples that count several times or not at all."""
        errors = (self.mean + self.std * outputs.double().flatten() - targets.double()).abs().numpy()
        return lambda counts: counts @ errors / counts.sum(axis=1)

    def in_units_of(self, other: Task, outputs: Tensor) -> Tensor:
        """Return outputs in the standard deviations of another task's training targets."""
        assert isinstance(other, Regression)
        return (self.mean + self.std * outputs - other.mean) / other.std

    def draw(self, tables: Mapping[str, Tensor], *, title: str) -> "dict[str, Figure]":
        """Draw predictions against targets, and residuals."""
        from ols.figures import agreement_of_numbers

        counts, name = tables["agreement"].numpy(), self.classes[0]
        low, high = self.mean - 3 * self.std, self.mean + 3 * self.std
        return {"residuals": agreement_of_numbers(counts, low=low, high=high, name=name, title=title)}

    def remarks(self, values: Values) -> list[str]:
        """Return what the errors are worth beside those of the training mean."""
        mae, of_mean = values["mae"], values["mae_of_mean"]
        if mae is None or of_mean is None or mae != mae:
            return ["There is no error to state: no image has an output."]
        low, high = values["mae_low"], values["mae_high"]
        interval = "" if low is None or high is None or low != low else f" ({low:.4g} to {high:.4g})"
        better = "below" if mae < of_mean else "not below"
        return [
            f"The mean absolute error of {self.classes[0]} is {mae:.4g}{interval}, {better} that of predicting the "
            f"training mean {self.mean:.4g} for every image, {of_mean:.4g}."
        ]
