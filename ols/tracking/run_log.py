"""What a run records of its evaluations: scalars, figures and tables for TensorBoard, and a line for each epoch."""

from torch import Tensor
from tqdm import tqdm

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
                        prefix, evaluation, place=place, train_loss=train_loss, images_per_second=images_per_second
                    )
                )

    def _evaluations(
        self, evaluations: dict[str, Evaluation], values: dict[str, float], *, images_seen: int, epoch: int
    ) -> None:
        """Record metrics, reliability and most confused pairs, beside other values."""
        self.tracker.log(tagged(evaluations) | values, images_seen=images_seen, epoch=epoch)
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
