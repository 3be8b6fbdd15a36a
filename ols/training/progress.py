"""How far a run has come: numbers that a checkpoint holds as JSON."""

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Best:
    """The epoch whose weights are tested and exported."""

    epoch: int = 0  # 0: none yet
    metric: float = math.nan

    def describe(self, select_by: str, *, epochs: int) -> str:
        """Return how it was chosen: by a metric of validation, or as the last one where that is undefined."""
        if math.isnan(self.metric):
            return f"last epoch {self.epoch} of {epochs}, as val {select_by} is undefined and chooses none"
        return f"best epoch {self.epoch} of {epochs} by val {select_by}"


@dataclass
class Progress:
    """How far a run has come.

    `dataclasses.asdict` of it is what a checkpoint holds, and `Progress.load` its inverse.

    Args:
        epoch: Epochs completed.
        step: Optimizer steps taken or skipped.
        evaluated: Epochs evaluated.
        best: The best epoch so far.
        tested: Whether the best epoch's results on the test split are recorded.
        nonfinite_steps: Steps skipped because loss or gradient was not finite.
        nonfinite_in_a_row: How many of them came last, one after the other.
        images_in_sum: Images, over all processes, in the sum of losses that has not been read yet.
        train_loss: Mean training loss at the last reading.
        epoch_values: What is logged of the last epoch beside its metrics, by tag.
    """

    epoch: int = 0
    step: int = 0
    evaluated: int = 0
    best: Best = field(default_factory=Best)
    tested: bool = False
    nonfinite_steps: int = 0
    nonfinite_in_a_row: int = 0
    images_in_sum: int = 0
    train_loss: float = math.nan
    epoch_values: dict[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, values: dict[str, Any]) -> "Progress":
        """Return the progress that `asdict` made `values` of."""
        return cls(**{**values, "best": Best(**values["best"])})

    def count_step(self, *, finite: bool, images: int) -> None:
        """Count a step that the host has read from the device.

        Args:
            finite: Whether it was taken; otherwise it was skipped.
            images: Images of the step, over all processes.
        """
        if finite:
            self.images_in_sum += images
            self.nonfinite_in_a_row = 0
        else:
            self.nonfinite_steps += 1
            self.nonfinite_in_a_row += 1

    def count_evaluation(self, metric: float, *, higher_is_better: bool) -> None:
        """Count the evaluation of the newest epoch, and remember the epoch if its metric is the best so far."""
        sign = 1 if higher_is_better else -1
        if not self.best.epoch or math.isnan(self.best.metric) or sign * metric > sign * self.best.metric:
            self.best = Best(self.epoch, metric)
        self.evaluated = self.epoch

    def has_ended(self, *, epochs: int, early_stop_epochs: int | None) -> bool:
        """Return whether there is nothing left to train.

        Args:
            epochs: Length of the run.
            early_stop_epochs: Epochs in a row without a better one after which it ends earlier; None for never.
        """
        waited = self.evaluated - self.best.epoch if self.best.epoch else 0
        return self.epoch == epochs or (early_stop_epochs is not None and waited >= early_stop_epochs)
