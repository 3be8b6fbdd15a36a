"""What every run of a classifier reports."""

import torch
from torch import Tensor

from ols.metrics.accuracy import accuracies
from ols.metrics.arguments import class_indices, whole_number
from ols.metrics.auc import macro_auc
from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.composed import ComposedMetric


class ClassificationMetrics(ComposedMetric):
    """Accuracy and calibration from one pass over the logits; by default the state does not grow with the samples.

    Results: those of `CalibrationHistogram`, those of `accuracies`, and `top5`: the fraction of rows where
    fewer than five other classes have a logit as high as the target's (all, for five classes or fewer). Ties count
    against the target, so that a model which cannot tell classes apart gets no credit; `top1` is that of `argmax`.

    A row with a non-finite logit is a prediction that was not made: it counts as an error in every accuracy, and has
    no part in calibration.

    With `macro_auc` there is that of `ols.metrics.auc.macro_auc`, too, and the state grows by 8 (K + 1) bytes a row, as
    exact areas need every probability.

    Args:
        num_classes: K.
        classwise: Whether to sum what `ece_classwise` needs, see `CalibrationHistogram`.
        macro_auc: Whether to measure the AUC of each class against the rest.
        kwargs: Arguments of `torchmetrics.Metric`.

    Raises:
        ValueError: `num_classes` is no positive whole number.
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False

    confusion: Tensor  # [K, K + 1] int64: true class by predicted class, the last column for no prediction
    ranks: Tensor  # [K + 1] int64: rows by how many logits reach the target's; 0 for no prediction
    scores: list[Tensor]  # of each batch [B, K] float64, log-probabilities; where the macro AUC is measured
    labels: list[Tensor]  # of each batch [B] float64, class indices; likewise

    def __init__(self, num_classes: int, *, classwise: bool = False, macro_auc: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.macro_auc = macro_auc
        self.num_classes = num_classes = whole_number("num_classes", num_classes)
        self.histogram = CalibrationHistogram(num_classes, classwise=classwise, **kwargs)
        confusion = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)
        self.add_state("confusion", confusion, dist_reduce_fx="sum")
        self.add_state("ranks", torch.zeros(num_classes + 1, dtype=torch.int64), dist_reduce_fx="sum")
        if macro_auc:
            self.add_state("scores", [], dist_reduce_fx="cat")
            self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            logits: Logits `[B, K]`, never probabilities.
            target: Class indices `[B]`, of any integer type.

        Raises:
            ValueError: The shapes are not `[B, K]` and `[B]`, or the targets no integers.
        """
        logits, target = logits.detach(), class_indices(target)
        top, predicted = prediction = self.histogram.predict(logits, target)
        self.histogram.update(logits, target, prediction)
        target_logit = torch.add(logits.gather(1, target[:, None]), top, alpha=0)  # NaN where a row is not finite
        reached = torch.ge(logits, target_logit, out=torch.empty_like(logits, dtype=torch.float32))
        ones = torch.ones_like(predicted)
        self.ranks.index_add_(0, reached.sum(dim=1).long(), ones)
        cell = torch.add(predicted, target, alpha=self.num_classes + 1)
        self.confusion.view(-1).index_add_(0, cell, ones)
        if self.macro_auc:
            self.scores.append(logits.double().log_softmax(dim=1))
            self.labels.append(target.double())

    def compute(self) -> dict[str, Tensor]:
        """Return the results as scalars, on the CPU."""
        confusion = self.confusion.cpu()
        top5 = self.ranks[1:6].sum().cpu() / confusion.sum().double()
        found = {"top5": top5, **accuracies(confusion), **self.histogram.compute()}
        if self.macro_auc:
            scores, labels = (
                torch.cat(state) if isinstance(state, list) and state else torch.as_tensor(state, dtype=torch.float64)
                for state in (self.scores, self.labels)
            )
            area = macro_auc(scores.reshape(-1, self.num_classes).cpu(), labels.reshape(-1).cpu())
            found["macro_auc"] = torch.tensor(area, dtype=torch.float64)
        return found

    def tables(self) -> dict[str, Tensor]:
        """Return what is no scalar, of all processes, on the CPU.

        Returns:
            `reliability`: count, mean confidence and accuracy of 15 confidence bins, float64 `[15, 3]`; `confusion`:
            counts of true by predicted class, the last column for no prediction, int64 `[K, K + 1]`.
        """
        with self.histogram.sync_context(), self.sync_context():
            return {"reliability": self.histogram.reliability().cpu(), "confusion": self.confusion.cpu()}
