"""Yes or no: two classes, of which one is looked for."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ols.metrics.arguments import usable_rows
from ols.tasks.classification import CALIBRATION, SELECTIVE, Classification
from ols.tasks.task import TaskMetric, Values

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from ols.tasks.report.parts import Predicted, Section


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

    def build_metric(self, *, thorough: bool = False, select_by: str | None = None) -> TaskMetric:
        """Build what measures the order of scores, accuracy and calibration."""
        from ols.metrics.binary import BinaryMetrics

        return BinaryMetrics(positive=self.positive, classwise=thorough)

    def score(self, outputs: Tensor, targets: Tensor) -> "tuple[NDArray, NDArray]":
        """Return the score of each sample, and whether it is positive; one that is no number is as wrong as can be.

        Args:
            outputs: Logits `[N, 2]`.
            targets: Class indices `[N]`.

        Returns:
            float64 and bool `[N]`.
        """
        is_positive = targets == self.positive
        score = (outputs[:, self.positive] - outputs[:, 1 - self.positive]).double()
        wrong = torch.where(is_positive, -torch.inf, torch.inf).double()
        return torch.where(usable_rows(outputs), score, wrong).numpy(), is_positive.numpy()

    def statistics(self, outputs: Tensor, targets: Tensor) -> "dict[str, Callable[[NDArray], NDArray]]":
        """Return AUC, average precision, and the accuracy of all, positives and negatives, of samples that count."""
        from ols.metrics.auc import auc_of_counts
        from ols.metrics.curves import average_precision_of_counts
        from ols.metrics.resampling import mean_of_counts
        from ols.metrics.selective import is_correct

        score, is_positive = self.score(outputs, targets)
        right = is_correct(outputs, targets).double().numpy()
        return {
            "auc": lambda counts: auc_of_counts(score, is_positive, counts),
            "average_precision": lambda counts: average_precision_of_counts(score, is_positive, counts),
            "sensitivity": mean_of_counts(np.where(is_positive, right, np.nan)),
            "specificity": mean_of_counts(np.where(is_positive, np.nan, right)),
            "top1": mean_of_counts(right),
        }

    def curves(self, predicted: "Predicted") -> "list[Section]":
        """Return the ROC and the precision-recall curve with their bands."""
        from ols.tasks.report.binary_sections import curve_sections

        score, is_positive = self.score(predicted.logits, predicted.targets)
        name = self.classes[self.positive]
        return curve_sections(score, is_positive, predicted, positive=name)

    def draw(self, tables: Mapping[str, Tensor], *, title: str) -> "dict[str, Figure]":
        """Draw the reliability diagram, the ROC and the precision-recall curve."""
        from ols.figures import precision_recall_curve, roc_curve

        prevalence = float(tables["confusion"][self.positive].sum() / tables["confusion"].sum())
        return super().draw(tables, title=title) | {
            "roc": roc_curve(tables["roc"].numpy(), title=title),
            "precision_recall": precision_recall_curve(
                tables["precision_recall"].numpy(), prevalence=prevalence, title=title
            ),
        }

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
