"""What a run records of its evaluations: scalars, figures and tables for TensorBoard, and a line for each epoch."""

from torch import Tensor

from ols.evaluation.evaluate import Evaluation, tagged
from ols.figures import reliability_diagram, soft_label_heatmap
from ols.tracking.tracker import Tracker


class RunLog:
    """Records evaluations and soft labels with the names of their classes; on the main process only.

    Args:
        tracker: Where the run is recorded.
        classes: Label of each class.
        groups: Modality and anatomy of each class.
    """

    def __init__(self, tracker: Tracker, classes: list[str], groups: list[str]):
        self.tracker, self.classes, self.groups = tracker, classes, groups

    def evaluations(
        self,
        evaluations: dict[str, Evaluation],
        *,
        images_seen: int,
        epoch: int,
        values: dict[str, float] | None = None,
    ) -> None:
        """Record metrics, reliability and most confused pairs of an epoch's weights, beside other values."""
        self.tracker.log(tagged(evaluations) | (values or {}), images_seen=images_seen, epoch=epoch)
        if not self.tracker.enabled:
            return
        for prefix, evaluation in evaluations.items():
            title = f"{prefix}, epoch {epoch}, N = {evaluation.metrics['count']:.0f}"
            intervals = evaluation.reliability_intervals
            figure = reliability_diagram(evaluation.reliability, title=title, intervals=intervals)
            self.tracker.log_figure(f"{prefix}/reliability", figure, images_seen=images_seen)
            self.tracker.log_reliability(prefix, evaluation.reliability, images_seen=images_seen)
            self.tracker.log_confusion(
                f"{prefix}/most_confused", evaluation.confusion, self.classes, self.groups, images_seen=images_seen
            )

    def soft_labels(self, soft_labels: Tensor | None, *, images_seen: int, epoch: int) -> None:
        """Record the soft labels `[K, K]` of a loss that has some, as a picture."""
        if soft_labels is not None and self.tracker.enabled:
            figure = soft_label_heatmap(soft_labels, self.classes, self.groups, title=f"after epoch {epoch}")
            self.tracker.log_figure("soft_labels/matrix", figure, images_seen=images_seen)

    def end(self, evaluations: dict[str, Evaluation], *, epoch: int, soft_labels: Tensor | None) -> None:
        """Record what the run comes to: its row among the hyperparameters, and the soft labels as vectors."""
        self.tracker.log_end(
            tagged(evaluations), epoch=epoch, soft_labels=soft_labels, classes=self.classes, groups=self.groups
        )


def epoch_line(prefix: str, evaluation: Evaluation, *, place: str, train_loss: float, images_per_second: float) -> str:
    """Return the line that a run prints of an epoch."""
    metrics = evaluation.metrics
    line = (
        f"epoch {place}  train loss {train_loss:.3f}  {prefix} "
        f"top1 {metrics['top1']:.1%}  top5 {metrics['top5']:.1%}  balanced {metrics['balanced_accuracy']:.1%}  "
        f"nll {metrics['nll']:.3f}  "
        f"ece {metrics['ece']:.3f} ({metrics['ece_low']:.3f}-{metrics['ece_high']:.3f}, null "
        f"{metrics['ece_null']:.3f})  {images_per_second:.0f} img/s"
    )
    if metrics["nonfinite"]:
        line += f"  ({metrics['nonfinite']:.0f} samples with non-finite logits)"
    return line
