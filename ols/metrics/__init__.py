"""Metrics: what every run reports of its logits, and what is measured after training."""

from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.calibration_error import reliability_intervals
from ols.metrics.classification import ClassificationMetrics

__all__ = ["CalibrationHistogram", "ClassificationMetrics", "reliability_intervals"]
