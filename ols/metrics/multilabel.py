"""What a run reports that tells for each of several labels whether an image has it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ols.metrics.auc import auc, average_precision, roc_points, sensitivity_at_specificity
from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.composed import ComposedMetric
from ols.metrics.curves import precision_recall_points

ENOUGH = 10  # positives, and negatives, of a label whose AUC counts in the mean


class MultilabelMetrics(ComposedMetric):
    """How well each label is told, over the images whose label is known, and calibration of all of them together.

    Results: those of `CalibrationHistogram`, over all known labels, each of two classes; of its Brier scores only
    `brier_positive`, the mean of (probability - label)^2; and

    - `mean_auc`, `mean_average_precision`, `mean_sensitivity_at_90_specificity`: means over the `labels_in_mean`
      labels with at least 10 positives and 10 negatives; NaN without one.
    - `auc/LABEL`, `positives/LABEL`, `known/LABEL` of each label, NaN where the AUC is undefined.
    - `count` and `nonfinite`: images, by whether all their outputs are numbers.

    A label of an output that is no number is as wrong as can be, as in `BinaryMetrics`. The state grows by 16 L bytes
    an image, as exact areas need every score.

    Args:
        labels: Name of each label `[L]`.
        kwargs: Arguments of `torchmetrics.Metric`.
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False

    scores: list[Tensor]  # of each batch [B, L] float64
    targets: list[Tensor]  # of each batch [B, L] float64: 0, 1, or NaN where it is unknown
    images: Tensor  # [2] int64: those whose outputs are numbers, and the others

    def __init__(self, labels: Sequence[str], **kwargs):
        super().__init__(**kwargs)
        self.labels = list(labels)
        self.histogram = CalibrationHistogram(2, **kwargs)
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")
        self.add_state("images", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            outputs: Logits `[B, L]`, never probabilities.
            target: 0, 1, or NaN where it is unknown, `[B, L]`.

        Raises:
            ValueError: The shapes are not `[B, L]`.
        """
        outputs, target = outputs.detach().double(), target.double()
        if outputs.shape != target.shape or outputs.shape[1:] != (len(self.labels),):
            expected = f"[B, {len(self.labels)}]"
            raise ValueError(
                f"expected outputs and target {expected}, got {list(outputs.shape)} and {list(target.shape)}"
            )
        known, finite = ~target.isnan(), outputs.isfinite()
        chosen = known & finite
        logits = torch.stack([torch.zeros_like(outputs[chosen]), outputs[chosen]], dim=1)
        self.histogram.update(logits, target[chosen].long())
        wrong = torch.where(target == 1, -torch.inf, torch.inf)
        self.scores.append(torch.where(finite, outputs, wrong))
        self.targets.append(target)
        right = finite.all(dim=1).sum()
        self.images += torch.stack([right, len(outputs) - right])

    def compute(self) -> dict[str, Tensor]:
        """Return the results as scalars, on the CPU."""
        calibration = self.histogram.compute()
        results = {name: value for name, value in calibration.items() if not name.startswith("brier")}
        results["brier_positive"] = calibration["brier"] / 2
        table = self._table()  # [L, 7]
        counted = (table[:, 5] >= ENOUGH) & (table[:, 6] - table[:, 5] >= ENOUGH)
        for column, name in ((0, "auc"), (3, "average_precision"), (4, "sensitivity_at_90_specificity")):
            results[f"mean_{name}"] = table[counted, column].mean()
        results["labels_in_mean"] = counted.sum()
        for label, row in zip(self.labels, table, strict=True):
            results |= {f"auc/{label}": row[0], f"positives/{label}": row[5], f"known/{label}": row[6]}
        results["count"], results["nonfinite"] = self.images.cpu()
        return {name: value.double() for name, value in results.items()}

    def tables(self) -> dict[str, Tensor]:
        """Return what is no scalar, of all processes, on the CPU.

        Returns:
            `reliability`: see `CalibrationHistogram`. `labels`: AUC, its 95 % interval, average precision, sensitivity
            at 90 % specificity, positives and known images of each label, float64 `[L, 7]`. `roc/LABEL`: false and true
            positive rate, and `precision_recall/LABEL`: recall and precision, float64 `[P, 2]`, empty where undefined.
        """
        with self.histogram.sync_context(), self.sync_context():
            scores, targets = self._samples()
            curves = {}
            for label, score, target in zip(self.labels, scores.T, targets.T, strict=True):
                known = ~target.isnan()
                for name, points in (("roc", roc_points), ("precision_recall", precision_recall_points)):
                    curves[f"{name}/{label}"] = torch.from_numpy(points(score[known], target[known] == 1))
            return {"reliability": self.histogram.reliability().cpu(), "labels": self._table()} | curves

    def _table(self) -> Tensor:
        rows = []
        for score, target in zip(*(values.T for values in self._samples()), strict=True):
            known = ~target.isnan()
            score, positive = score[known].numpy(), target[known].numpy() == 1
            area, precision = auc(score, positive), average_precision(score, positive)
            sensitivity = sensitivity_at_specificity(score, positive, 0.9)
            rows.append([*area, precision, sensitivity, positive.sum(), known.sum()])
        return torch.tensor(rows, dtype=torch.float64)

    def _samples(self) -> tuple[Tensor, Tensor]:
        """Return scores and targets `[N, L]`, on the CPU; states are lists, or merged over processes."""
        scores, targets = (
            (torch.cat(state) if isinstance(state, list) and state else torch.as_tensor(state, dtype=torch.float64))
            for state in (self.scores, self.targets)
        )
        return scores.cpu().reshape(-1, len(self.labels)), targets.cpu().reshape(-1, len(self.labels))
