"""A number of each image, such as an age."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ols.losses import Loss
from ols.losses.regression import RegressionLoss
from ols.tasks.task import Targets, Task, TaskMetric, Values

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from ols.tasks.report.parts import Predicted, Report


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

    def build_metric(self, *, thorough: bool = False, select_by: str | None = None) -> TaskMetric:
        """Build what measures errors in the target's unit."""
        from ols.metrics.regression import RegressionMetrics

        return RegressionMetrics(mean=self.mean, std=self.std)

    def in_units(self, outputs: Tensor) -> "NDArray":
        """Return outputs `[N, 1]` in the target's unit, float64 `[N]`; what is no number is NaN."""
        predicted = self.mean + self.std * outputs.double().flatten()
        return torch.where(predicted.isfinite(), predicted, torch.nan).numpy()

    def statistics(self, outputs: Tensor, targets: Tensor) -> "dict[str, Callable[[NDArray], NDArray]]":
        """Return errors, in the target's unit, of samples that count; those whose output is no number have no part.

        `mae_less_of_mean` is the mean absolute error less that of predicting the training mean.
        """
        from ols.metrics.resampling import mean_of_counts

        true = targets.double().numpy() - self.mean
        error = self.in_units(outputs) - self.mean - true
        true = np.where(np.isnan(error), np.nan, true)
        squared, centred, spread = (mean_of_counts(values) for values in (error**2, true, true**2))

        def r2(counts: "NDArray") -> "NDArray":
            variance = spread(counts) - centred(counts) ** 2
            varies = variance > 1e-12 * spread(counts)
            return np.where(varies, 1 - squared(counts) / np.where(varies, variance, 1), np.nan)

        return {
            "mae": mean_of_counts(np.abs(error)),
            "rmse": lambda counts: np.sqrt(squared(counts)),
            "r2": r2,
            "bias": mean_of_counts(error),
            "mae_less_of_mean": mean_of_counts(np.abs(error) - np.abs(true)),
        }

    def build_report(
        self, predictions: "Mapping[str, Predicted]", splits: Sequence[str], *, soft_labels: Tensor | None = None
    ) -> "Report":
        """Return errors beside those of predicting the mean, predictions against targets, and the largest errors."""
        from ols.tasks.report.regression_sections import report_numbers

        return report_numbers(self, predictions, splits, self.in_units(predictions[splits[0]].logits), mean=self.mean)

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
