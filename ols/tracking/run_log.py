"""What a run records of its evaluations: scalars, figures and tables for TensorBoard, and a line for each epoch."""

from torch import Tensor
from tqdm import tqdm

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

    def epoch(
        self,
        evaluations: dict[str, Evaluation],
        *,
        values: dict[str, float],
        soft_labels: Tensor | None,
        images_seen: int,
        epoch: int,
    ) -> None:
        """Record the evaluations of an epoch's weights.

        Args:
            evaluations: By the prefix of their tags.
            values: What is recorded beside them, by tag.
            soft_labels: Those that the loss has learned `[K, K]`, where it learns some.
            images_seen: The place on the x-axis.
            epoch: The epoch.
        """
        self._evaluations(evaluations, values, images_seen=images_seen, epoch=epoch)
        if soft_labels is not None and self.tracker.enabled:
            figure = soft_label_heatmap(soft_labels, self.classes, self.groups, title=f"after epoch {epoch}")
            self.tracker.log_figure("soft_labels/matrix", figure, images_seen=images_seen)

    def test(
        self, evaluations: dict[str, Evaluation], *, soft_labels: Tensor | None, images_seen: int, epoch: int
    ) -> None:
        """Record what the run comes to: the test of the best epoch, its hyperparameters, its soft labels as vectors."""
        self._evaluations(evaluations, {}, images_seen=images_seen, epoch=epoch)
        self.tracker.log_end(
            tagged(evaluations), epoch=epoch, soft_labels=soft_labels, classes=self.classes, groups=self.groups
        )

    def print_epoch(
        self, evaluations: dict[str, Evaluation], *, place: str, train_loss: float, images_per_second: float
    ) -> None:
        """Print a line for each evaluation of an epoch.

        Args:
            evaluations: By the prefix of their tags.
            place: Which epoch of how many.
            train_loss: Mean training loss at the last reading.
            images_per_second: Speed of the epoch's training.
        """
        for prefix, evaluation in evaluations.items():
            if self.tracker.enabled:
                tqdm.write(
                    epoch_line(
                        prefix,
                        evaluation,
                        self.task,
                        place=place,
                        train_loss=train_loss,
                        images_per_second=images_per_second,
                    )
                )

    def _evaluations(
        self, evaluations: dict[str, Evaluation], values: dict[str, float], *, images_seen: int, epoch: int
    ) -> None:
        """Record metrics, figures and most confused pairs, beside other values."""
        self.tracker.log(tagged(evaluations) | values, images_seen=images_seen, epoch=epoch)
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
