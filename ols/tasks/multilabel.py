"""Several labels of an image, each there or not, some of them unknown."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ols.losses import BinaryCrossEntropy, Loss
from ols.tasks.task import Task, TaskMetric, Values, draw_reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from ols.tasks.report.parts import Predicted, Report


class Multilabel(Task):
    """Each image has any of L labels: L logits, and 0, 1 or NaN for unknown as target `[L]`."""

    name = "multilabel"
    kind = "multilabel"
    losses = ("bce",)
    default_loss = "bce"
    selects: ClassVar[tuple[str, ...]] = ("mean_auc", "mean_average_precision", "nll")
    line: ClassVar[tuple[str, ...]] = ("mean_auc", "mean_average_precision", "nll", "ece")
    table: ClassVar[tuple[str, ...]] = (*line, "mean_sensitivity_at_90_specificity", "labels_in_mean")
    report: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Order": ("mean_auc", "mean_average_precision", "mean_sensitivity_at_90_specificity", "labels_in_mean"),
        "Calibration": ("ece", "overconfidence", "underconfidence", "mean_confidence"),
        "Probabilities": ("nll", "brier_positive"),
    }

    def describe(self) -> str:
        """Return the number of labels."""
        return f"any of {len(self.classes)} labels"

    def describe_targets(self, targets: np.ndarray) -> str:
        """Return how often labels are known and positive, and which have no positive or no negative."""
        known, positive = (~np.isnan(targets)).sum(axis=0), (targets == 1).sum(axis=0)
        line = f"{len(self.classes)} labels, {positive.min():,} to {positive.max():,} positives a label"
        if unknown := int(np.isnan(targets).sum()):
            line += f", {unknown / targets.size:.1%} unknown"
        for missing, counts in (("positive", positive), ("negative", known - positive)):
            without = [name for name, count in zip(self.classes, counts, strict=True) if not count]
            if without:
                more = f" and {len(without) - 5} more" if without[5:] else ""
                line += f"\n      without a {missing}: {', '.join(without[:5])}{more}"
        return line

    def check_loss(self, loss: Loss) -> None:
        """Make sure that a loss takes L logits and labels.

        Raises:
            ValueError: It does not; the message names both.
        """
        if not isinstance(loss, BinaryCrossEntropy) or loss.num_outputs != self.num_outputs:
            raise ValueError(f"a multilabel task of {self.num_outputs} labels needs bce of as many, got {loss}")

    def terms_per_image(self, loss: Loss, target: Tensor) -> int:
        """Return the number of labels, so that the loss of an image is the mean over them."""
        return self.num_outputs

    def build_metric(self, *, thorough: bool = False, select_by: str | None = None) -> TaskMetric:
        """Build what measures each label, and calibration of all."""
        from ols.metrics.multilabel import MultilabelMetrics

        return MultilabelMetrics(self.classes)

    def scores(self, outputs: Tensor, targets: Tensor) -> "tuple[NDArray, NDArray]":
        """Return the score of each label, and the label; a score that is no number is as wrong as can be.

        Args:
            outputs: Logits `[N, L]`.
            targets: 0, 1 or NaN for unknown `[N, L]`.

        Returns:
            float64 `[N, L]`, both.
        """
        wrong = torch.where(targets == 1, -torch.inf, torch.inf).double()
        return torch.where(outputs.isfinite(), outputs.double(), wrong).numpy(), targets.double().numpy()

    def statistics(self, outputs: Tensor, targets: Tensor) -> "dict[str, Callable[[NDArray], NDArray]]":
        """Return mean AUC and average precision, over the labels that have enough of both, of samples that count."""
        from ols.metrics.auc import auc_of_counts
        from ols.metrics.curves import average_precision_of_counts
        from ols.metrics.multilabel import ENOUGH

        labels = targets.numpy()
        enough = np.minimum((labels == 1).sum(axis=0), (labels == 0).sum(axis=0)) >= ENOUGH

        def mean(measure: "Callable[..., NDArray]") -> "Callable[[NDArray], NDArray]":
            every = list(self.by_label(measure, outputs, targets).values())
            chosen = [one for one, has in zip(every, enough, strict=True) if has]
            return lambda counts: (
                np.mean([one(counts) for one in chosen], axis=0) if chosen else np.full(len(counts), np.nan)
            )

        return {"mean_auc": mean(auc_of_counts), "mean_average_precision": mean(average_precision_of_counts)}

    def of_draws(self, outputs: Tensor, targets: Tensor, name: str | None = None) -> "Callable[[NDArray], NDArray]":
        """Return one of `statistics`, or the NLL: the mean over all labels that are known."""
        from ols.metrics.resampling import mean_of_counts

        if self.selecting(name) != "nll":
            return super().of_draws(outputs, targets, name)
        nll = F.binary_cross_entropy_with_logits(outputs.double(), targets.double(), reduction="none")
        nll = nll.where(outputs.isfinite(), torch.nan)
        return mean_of_counts(nll.nanmean(dim=1).numpy(), (~nll.isnan()).sum(dim=1).numpy())

    def by_label(
        self, measure: "Callable[..., NDArray]", outputs: Tensor, targets: Tensor
    ) -> "dict[str, Callable[[NDArray], NDArray]]":
        """Return a measure of each label, over the samples where it is known, of samples that count.

        Args:
            measure: Of scores, whether they are of positives, and how often they count, such as `auc_of_counts`.
            outputs: Logits `[N, L]`; one that is no number is as wrong as can be.
            targets: 0, 1 or NaN for unknown `[N, L]`.
        """
        wrong = torch.where(targets == 1, -torch.inf, torch.inf).double()
        scores = torch.where(outputs.isfinite(), outputs.double(), wrong).numpy()

        def of_label(score: "NDArray", label: "NDArray") -> "Callable[[NDArray], NDArray]":
            known = ~np.isnan(label)
            if not known.any():
                return lambda counts: np.full(len(counts), np.nan)
            return lambda counts: measure(score[known], label[known] == 1, counts[:, known])

        columns = zip(self.classes, scores.T, targets.numpy().T, strict=True)
        return {name: of_label(score, label) for name, score, label in columns}

    def build_report(
        self, predictions: "Mapping[str, Predicted]", splits: Sequence[str], *, soft_labels: Tensor | None = None
    ) -> "Report":
        """Return the AUC of each label with its support and interval, its precision and recall, and calibration."""
        from ols.metrics.auc import auc_of_counts
        from ols.tasks.report.multilabel_sections import report_labels

        shown = predictions[splits[0]]
        areas = self.by_label(auc_of_counts, shown.logits, shown.targets)
        return report_labels(self, predictions, splits, areas)

    def draw(self, tables: Mapping[str, Tensor], *, title: str) -> "dict[str, Figure]":
        """Draw the reliability diagram, the labels' AUCs with their intervals, and precision over recall of each."""
        from ols.figures import label_areas, precision_recall_of_labels

        labels = tables["labels"].numpy()
        curves = [tables[f"precision_recall/{name}"].numpy() for name in self.classes]
        return {
            "reliability": draw_reliability(tables, title=title),
            "labels": label_areas(labels, self.classes, title=title),
            "precision_recall": precision_recall_of_labels(curves, labels, self.classes, title=title),
        }

    def remarks(self, values: Values) -> list[str]:
        """Return the AUC of each label with its support, and which are not in the mean and why."""
        said, undefined = [], []
        for name in self.classes:
            area, positives, known = (values.get(f"{part}/{name}") for part in ("auc", "positives", "known"))
            if area is None or area != area:
                undefined.append(f"{name} ({positives or 0:.0f} of {known or 0:.0f} positive)")
            else:
                said.append(f"{name} {area:.4f} ({positives:,.0f} of {known:,.0f} positive)")
        sentences = [f"AUC by label: {', '.join(said)}."] if said else []
        if undefined:
            sentences.append(f"The AUC is undefined without both positives and negatives: {', '.join(undefined)}.")
        if (left_out := len(self.classes) - (values["labels_in_mean"] or 0)) > 0:
            sentences.append(
                f"Means leave out {left_out:.0f} of {len(self.classes)} labels, which have fewer than 10 positives or "
                "10 negatives."
            )
        return sentences
