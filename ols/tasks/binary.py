"""Yes or no: two classes, of which one is looked for."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ols.tasks.classification import CALIBRATION, SELECTIVE, Classification
from ols.tasks.task import TaskMetric, Values

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


class Binary(Classification):
    """Each image is positive or negative: two logits, a class index as target, every loss of this package.

    Args:
        classes: Label of each class.
        groups: Modality and anatomy of each class.
        positive: Label of the positive class; by default the second one in the data set's order, which for folders is
            alphabetical.

    Raises:
        ValueError: There are not two classes, or none of the name.
    """

    name = "binary"
    options = ("positive",)
    selects: ClassVar[tuple[str, ...]] = ("auc", "average_precision", "balanced_accuracy", "top1", "nll")
    line: ClassVar[tuple[str, ...]] = (
        "auc",
        "sensitivity",
        "specificity",
        "average_precision",
        "brier_positive",
        "ece",
    )
    table: ClassVar[tuple[str, ...]] = line
    report: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Order": ("auc", "average_precision", "sensitivity_at_90_specificity"),
        "Accuracy": ("sensitivity", "specificity", "top1", "balanced_accuracy"),
        "Calibration": CALIBRATION,
        "Selective prediction": SELECTIVE,
        "Probabilities": ("nll", "brier_positive", "brier_reliability", "brier_resolution"),
    }

    def __init__(self, classes: Sequence[str], groups: Sequence[str], *, positive: str | None = None):
        if len(classes) != 2:
            some = ", ".join(list(classes)[:5]) + (", ..." if len(classes) > 5 else "")
            raise ValueError(f"a binary task needs two classes, the data set has {len(classes)}: {some}")
        super().__init__(classes, groups)
        positive = self.classes[1] if positive is None else positive
        if positive not in self.classes:
            raise ValueError(f"no class is named {positive!r}, the positive one; there are {', '.join(self.classes)}")
        self.positive = self.classes.index(positive)

    @property
    def state(self) -> dict[str, Any]:
        """The label of the positive class."""
        return {"positive": self.classes[self.positive]}

    def describe(self) -> str:
        """Return which class is the positive one."""
        return f"{self.classes[self.positive]} (positive) or {self.classes[1 - self.positive]}"

    def build_metric(self, *, thorough: bool = False) -> TaskMetric:
        """Build what measures the order of scores, accuracy and calibration."""
        from ols.metrics.binary import BinaryMetrics

        return BinaryMetrics(positive=self.positive, classwise=thorough)

    def of_draws(self, outputs: Tensor, targets: Tensor) -> "Callable[[NDArray], NDArray]":
        """Return the AUC of samples that count several times or not at all."""
        from ols.metrics.auc import auc_of_counts

        is_positive = targets == self.positive
        score = (outputs[:, self.positive] - outputs[:, 1 - self.positive]).double()
        wrong = torch.where(is_positive, -torch.inf, torch.inf).double()  # as the metric takes what is no number
        score = torch.where(score.isnan(), wrong, score)
        return lambda counts: auc_of_counts(score.numpy(), is_positive.numpy(), counts)

    def draw(self, tables: Mapping[str, Tensor], *, title: str) -> "dict[str, Figure]":
        """Draw the reliability diagram and the ROC curve."""
        from ols.figures import roc_curve

        return super().draw(tables, title=title) | {"roc": roc_curve(tables["roc"].numpy(), title=title)}

    def remarks(self, values: Values) -> list[str]:
        """Return the AUC with its interval and the numbers it is of, or why there is none."""
        positives, negatives = values["positives"], values["negatives"]
        yes, no = self.classes[self.positive], self.classes[1 - self.positive]
        of = f"{positives:,.0f} positives ({yes}) and {negatives:,.0f} negatives ({no})"
        if not (positives and negatives):
            missing = "positive" if negatives else "negative" if positives else "image"
            return [f"The AUC is undefined, as there is no {missing}: {of}."]
        low, high = values["auc_low"], values["auc_high"]
        if min(positives, negatives) == 1 or low is None or high is None:
            return [f"The AUC is {values['auc']:.4f} of {of}; one alone of either gives no interval."]
        verdict = "" if low > 0.5 or high < 0.5 else ", which cannot be told from chance"
        return [f"The AUC is {values['auc']:.4f} ({low:.4f} to {high:.4f}) of {of}{verdict}."]
