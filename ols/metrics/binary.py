"""What a run of a classifier of two classes reports beside what every classifier does."""

import torch
from torch import Tensor

from ols.metrics.arguments import class_indices, usable_rows
from ols.metrics.auc import auc, average_precision, roc_points, sensitivity_at_specificity
from ols.metrics.classification import ClassificationMetrics
from ols.metrics.composed import ComposedMetric
from ols.metrics.curves import precision_recall_points


class BinaryMetrics(ComposedMetric):
    """Accuracy, calibration, and how well the positive class is told from the other.

    Results: those of `ClassificationMetrics` but `top5`, and

    - `auc` with its 95 % interval `auc_low` and `auc_high`, see `ols.metrics.auc.auc`; `average_precision`.
    - `sensitivity` and `specificity`: the accuracies of the positives and of the negatives, as predicted;
      `sensitivity_at_90_specificity` at the best threshold of these very samples.
    - `brier_positive`: the mean of (probability of the positive class - label)^2, in [0, 1]; half of `brier`.
    - `positives` and `negatives`: their numbers. What needs one that is missing is NaN.

    The score of a row is the difference of its logits, whose order no softmax rounds away. A row with a non-finite
    logit is as wrong as can be: a positive below, and a negative above, all others. The state grows by 16 bytes a row,
    as the exact area needs every score.

    Args:
        positive: Index of the positive class, 0 or 1.
        classwise: Whether to sum what `ece_classwise` needs, see `CalibrationHistogram`.
        kwargs: Arguments of `torchmetrics.Metric`.

    Raises:
        ValueError: `positive` is neither 0 nor 1.
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False

    scores: list[Tensor]  # of each batch [B] float64
    labels: list[Tensor]  # of each batch [B] float64: 1 for a positive

    def __init__(self, *, positive: int = 1, classwise: bool = False, **kwargs):
        super().__init__(**kwargs)
        if positive not in (0, 1):
            raise ValueError(f"positive must be 0 or 1, got {positive!r}")
        self.positive = int(positive)
        self.classification = ClassificationMetrics(2, classwise=classwise, **kwargs)
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            logits: Logits `[B, 2]`, never probabilities.
            target: Class indices `[B]`, of any integer type.

        Raises:
            ValueError: The shapes are not `[B, 2]` and `[B]`, or the targets no integers.
        """
        target = class_indices(target)
        self.classification.update(logits, target)
        both, is_positive = logits.detach().double(), target == self.positive
        negative, positive = both[:, 1 - self.positive], both[:, self.positive]
        wrong = torch.where(is_positive, -torch.inf, torch.inf).double()
        finite = usable_rows(logits.detach())
        self.scores.append(torch.where(finite, positive - negative, wrong))
        self.labels.append(is_positive.double())

    def compute(self) -> dict[str, Tensor]:
        """Return the results as scalars, on the CPU."""
        results = self.classification.compute()
        del results["top5"]
        score, positive = self._samples()
        area = auc(score, positive)
        with self.classification.sync_context():
            confusion = self.classification.confusion.cpu().double()
        yes, no = self.positive, 1 - self.positive
        positives, negatives = confusion[yes].sum(), confusion[no].sum()
        found = {
            "auc": area.value,
            "auc_low": area.low,
            "auc_high": area.high,
            "average_precision": average_precision(score, positive),
            "sensitivity": confusion[yes, yes] / positives,
            "specificity": confusion[no, no] / negatives,
            "sensitivity_at_90_specificity": sensitivity_at_specificity(score, positive, 0.9),
            "brier_positive": results["brier"] / 2,
            "positives": positives,
            "negatives": negatives,
        }
        return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in found.items()} | results

    def tables(self) -> dict[str, Tensor]:
        """Return what is no scalar, of all processes, on the CPU.

        Returns:
            The tables of `ClassificationMetrics`, and `roc`: false and true positive rate from (0, 0) to (1, 1), and
            `precision_recall`: recall and precision, float64 `[P, 2]`, empty where undefined.
        """
        with self.sync_context():
            samples = self._samples()
        curves = {"roc": roc_points(*samples), "precision_recall": precision_recall_points(*samples)}
        return self.classification.tables() | {name: torch.from_numpy(points) for name, points in curves.items()}

    def _samples(self) -> tuple[Tensor, Tensor]:
        """Return score and whether positive `[N]`, on the CPU; states are lists, or merged over processes."""
        score, label = (
            torch.cat(state) if isinstance(state, list) and state else torch.as_tensor(state, dtype=torch.float64)
            for state in (self.scores, self.labels)
        )
        return score.cpu(), label.cpu() == 1
