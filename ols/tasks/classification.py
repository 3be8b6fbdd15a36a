"""One of several classes."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from ols.losses import LOSSES, LabelLoss, Loss
from ols.tasks.task import Task, TaskMetric, draw_reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from ols.tasks.report.parts import Predicted, Report, Section

CALIBRATION = (
    "ece",
    "overconfidence",
    "underconfidence",
    "ece_equal_mass",
    "ece_classwise",
    "ece_debiased",
    "smooth_ece",
    "mce",
    "mean_confidence",
    "mean_confidence_on_errors",
)
SELECTIVE = ("aurc", "e_aurc", "failure_auroc", "coverage_at_risk_1", "coverage_at_risk_5")


class Classification(Task):
    """Each image has one of K classes: K logits, a class index as target, every loss of this package."""

    name = "multiclass"
    kind = "class"
    losses = tuple(LOSSES)
    default_loss = "ols"
    selects: ClassVar[tuple[str, ...]] = ("top1", "balanced_accuracy", "macro_f1", "macro_auc", "nll")
    line: ClassVar[tuple[str, ...]] = ("top1", "top5", "balanced_accuracy", "nll", "ece")
    table: ClassVar[tuple[str, ...]] = ("top1", "top5", "balanced_accuracy", "macro_f1", "nll", "ece")
    report: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Accuracy": ("top1", "top5", "balanced_accuracy", "macro_f1", "macro_auc"),
        "Calibration": CALIBRATION,
        "Selective prediction": SELECTIVE,
        "Probabilities": ("nll", "brier", "brier_reliability", "brier_resolution"),
    }

    def describe(self) -> str:
        """Return the number of classes."""
        return f"one of {len(self.classes)} classes"

    def describe_targets(self, targets: np.ndarray) -> str:
        """Return how many classes occur, the imbalance, and in a second line which are absent."""
        counts = np.bincount(targets, minlength=len(self.classes))
        present = counts[counts > 0]
        line = f"{len(present)} of {len(counts)} classes, {present.min():,} to {present.max():,} images a class"
        absent = [self.classes[i] for i in (counts == 0).nonzero()[0]]
        if absent:
            more = f" and {len(absent) - 5} more" if absent[5:] else ""
            line += f"\n      absent: {', '.join(absent[:5])}{more}"
        return line

    def check_loss(self, loss: Loss) -> None:
        """Make sure that a loss takes K logits and class indices.

        Raises:
            ValueError: It does not; the message names both.
        """
        if not isinstance(loss, LabelLoss) or loss.num_classes != self.num_outputs:
            found = f"of {loss.num_classes} classes" if isinstance(loss, LabelLoss) else "no loss of labels"
            raise ValueError(
                f"a {self.name} task of {self.num_outputs} outputs needs a loss of as many classes, "
                f"got {type(loss).__name__}, {found}"
            )

    def build_metric(self, *, thorough: bool = False, select_by: str | None = None) -> TaskMetric:
        """Build what measures accuracy and calibration; thoroughly, of every class's probability as well."""
        from ols.metrics.classification import ClassificationMetrics

        macro_auc = select_by == "macro_auc"
        return ClassificationMetrics(len(self.classes), classwise=thorough, macro_auc=macro_auc)

    def statistics(self, outputs: Tensor, targets: Tensor) -> "dict[str, Callable[[NDArray], NDArray]]":
        """Return top-1 of samples that count several times or not at all."""
        from ols.metrics.resampling import mean_of_counts
        from ols.metrics.selective import is_correct

        return {"top1": mean_of_counts(is_correct(outputs, targets).double().numpy())}

    def of_draws(self, outputs: Tensor, targets: Tensor, name: str | None = None) -> "Callable[[NDArray], NDArray]":
        """Return one of `statistics`, mean recall, F1 or AUC of the classes, or the NLL."""
        from ols.metrics.weighted import weighted_measures

        name, statistics = self.selecting(name), self.statistics(outputs, targets)
        if name in statistics:
            return statistics[name]
        return weighted_measures(outputs, targets, [name])[name]

    def build_report(
        self, predictions: "Mapping[str, Predicted]", splits: Sequence[str], *, soft_labels: Tensor | None = None
    ) -> "Report":
        """Return accuracy and calibration, raw and scaled, by group and class, and what is taken for what."""
        from ols.tasks.report.class_sections import report_classes

        selective, curves = self.report["Selective prediction"], self.curves(predictions[splits[0]])
        return report_classes(self, predictions, splits, soft_labels=soft_labels, selective=selective, curves=curves)

    def curves(self, predicted: "Predicted") -> "list[Section]":
        """Return sections that a report has before those of calibration: none."""
        return []

    def draw(self, tables: Mapping[str, Tensor], *, title: str) -> "dict[str, Figure]":
        """Draw the reliability diagram."""
        return {"reliability": draw_reliability(tables, title=title)}
