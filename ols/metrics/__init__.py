"""Metrics: the set that every run reports."""

from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from ols.metrics.accuracy import AbsentClasses, BalancedAccuracy, MacroF1
from ols.metrics.calibration import CalibrationHistogram


def classification_metrics(num_classes: int) -> MetricCollection:
    """Build the metrics that every run reports; update them with logits `[B, K]` and class indices `[B]`.

    Results: `top1`, `top5` (top-K where K < 5), `balanced_accuracy`, `macro_f1` as fractions in [0, 1],
    `absent_classes`, and those of `CalibrationHistogram`.

    Args:
        num_classes: K.
    """
    return MetricCollection(
        {
            "top1": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
            "top5": MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes), validate_args=False),
            "balanced_accuracy": BalancedAccuracy(num_classes),
            "macro_f1": MacroF1(num_classes),
            "absent_classes": AbsentClasses(num_classes),
            "calibration": CalibrationHistogram(),
        },
        compute_groups=[["top1"], ["top5"], ["balanced_accuracy", "macro_f1", "absent_classes"], ["calibration"]],
    )


__all__ = ["AbsentClasses", "BalancedAccuracy", "CalibrationHistogram", "MacroF1", "classification_metrics"]
