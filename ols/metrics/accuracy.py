"""Accuracy over classes that occur, from a confusion matrix."""

import torch
from torch import Tensor


def accuracies(confusion: Tensor) -> dict[str, Tensor]:
    """Return `top1`, `balanced_accuracy`, `macro_f1` as fractions in [0, 1], and `absent_classes`.

    The means of `balanced_accuracy` (recall) and `macro_f1` (2 TP / (2 TP + FP + FN)) are over the classes that occur
    among the targets, as scikit-learn's `balanced_accuracy_score`; torchmetrics scores a class that is predicted but
    never occurs as 0. NaN where there is no sample.

    Args:
        confusion: Counts `[K, K + 1]`: true class by predicted class, and a last column for no prediction.
    """
    support, predicted = confusion.sum(dim=1), confusion[:, :-1].sum(dim=0)
    present = support > 0
    hits = confusion.diagonal()
    return {
        "top1": hits.sum() / support.sum().double(),
        "balanced_accuracy": (hits / support.double())[present].mean(),
        "macro_f1": (2 * hits / (support + predicted).double())[present].mean(),
        "absent_classes": torch.sum(~present),
    }
