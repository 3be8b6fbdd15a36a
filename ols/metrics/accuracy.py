"""Accuracy over classes that occur."""

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassStatScores


class _PresentClasses(MulticlassStatScores):
    """Counts per class; what a subclass reads off them averages over the classes that occur among the targets.

    torchmetrics' own macro average scores a class that is predicted but never occurs as 0; scikit-learn's
    `balanced_accuracy_score` leaves it out, as is done here.

    Args:
        num_classes: K.
        kwargs: Arguments of `torchmetrics.Metric`.
    """

    higher_is_better = True

    def __init__(self, num_classes: int, **kwargs):
        super().__init__(num_classes, average="macro", validate_args=False, **kwargs)

    def _per_class(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return true positives, false positives and false negatives of the classes that occur."""
        present = self.tp + self.fn > 0
        return self.tp[present].double(), self.fp[present].double(), self.fn[present].double()


class BalancedAccuracy(_PresentClasses):
    """Mean over occurring classes of the fraction of a class that is recognised, in [0, 1]."""

    def compute(self) -> Tensor:
        """Return the balanced accuracy."""
        tp, _, fn = self._per_class()
        return (tp / (tp + fn)).mean()


class MacroF1(_PresentClasses):
    """Mean over occurring classes of F1 = 2 TP / (2 TP + FP + FN), in [0, 1]."""

    def compute(self) -> Tensor:
        """Return the macro F1."""
        tp, fp, fn = self._per_class()
        return (2 * tp / (2 * tp + fp + fn)).mean()


class AbsentClasses(_PresentClasses):
    """Number of classes that do not occur among the targets."""

    def compute(self) -> Tensor:
        """Return the number of absent classes."""
        return torch.sum(self.tp + self.fn == 0)
