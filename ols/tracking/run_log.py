"""What a run records of its evaluations: scalars, figures and tables for TensorBoard, and a line for each epoch."""

from torch import Tensor

from ols.evaluation.evaluate import Evaluation, tagged
from ols.figures import soft_label_heatmap
from ols.tasks.task import Task
from ols.tracking.tracker import Tracker


class RunLog:
    """Records evaluations and soft labels with the names of their classes; on the main process only.

    Args:
        tracker: Where the run is recorded.
        task: What is predicted.
    """

    def __init__(self, tracker: Tracker, task: Task):
        self.tracker, self.task, self.classes, self.groups = tracker, task, task.classes, task.groups

    def evaluations(
        self,
        evaluations: dict[str, Evaluation],
        *,
        images_seen: int,
        epoch: int,
        values: dict[str, float] | None = None,
    ) -> None:
        """Record metrics, figures and most confused pairs of an epoch's weights, beside other values."""
        self.tracker.log(tagged(evaluations) | (values or {}), images_seen=images_seen, epoch=epoch)
        if not self.tracker.enabled:
            return
        for prefix, evaluation in evaluations.items():
            title = f"{prefix}, epoch {epoch}, N = {evaluation.metrics['count']:.0f}"
            for name, figure in self.task.draw(evaluation.tables, title=title).items():
                self.tracker.log_figure(f"{prefix}/{name}", figure, images_seen=images_seen)
            if "reliability" in evaluation.tables:
                self.tracker.log_reliability(prefix, evaluation.tables["reliability"], images_seen=images_seen)
            if "confusion" in evaluation.tables:
                confusion = evaluation.tables["confusion"]
                self.tracker.log_confusion(
                    f"{prefix}/most_confused", confusion, self.classes, self.groups, images_seen=images_seen
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


def epoch_line(
    prefix: str, evaluation: Evaluation, task: Task, *, place: str, train_loss: float, images_per_second: float
) -> str:
    """Return the line that a run prints of an epoch."""
    metrics = evaluation.metrics
    line = f"epoch {place}  train loss {train_loss:.3f}  {prefix} {task.epoch_text(metrics)}"
    line += f"  {images_per_second:.0f} img/s"
    if metrics["nonfinite"]:
        line += f"  ({metrics['nonfinite']:.0f} samples with non-finite outputs)"
    return line
