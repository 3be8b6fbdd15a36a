"""What a task's metric says of each split, with intervals by drawing images or patients anew."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ols.tasks.report.intervals import clusters_of, drawn_intervals, plain
from ols.tasks.report.parts import Predicted
from ols.tasks.task import Task

BATCH_SIZE = 256


@dataclass(frozen=True)
class SplitNumbers:
    """What the predictions of a split say.

    Args:
        images: Their number.
        values: Measures with what belongs to them; None where undefined.
        tables: What is no scalar, see `TaskMetric.tables`.
    """

    images: int
    values: dict[str, float | None]
    tables: dict[str, Tensor]

    def nonfinite(self) -> list[str]:
        """Return a sentence on the images whose outputs are no numbers, where there are some."""
        count = self.values["nonfinite"]
        return [f"{count:,.0f} of {self.images:,} images had non-finite outputs."] if count else []


def measure_splits(task: Task, predictions: Mapping[str, Predicted], splits: Sequence[str]) -> dict[str, SplitNumbers]:
    """Measure splits.

    A measure keeps the interval of its metric, which takes images for independent, unless patients have several.

    Args:
        task: What was predicted.
        predictions: Of each split.
        splits: Which of them, in this order.
    """
    found = {}
    for split in splits:
        predicted, metric = predictions[split], task.build_metric(thorough=True)
        for batch in zip(predicted.logits.split(BATCH_SIZE), predicted.targets.split(BATCH_SIZE), strict=True):
            metric.update(*batch)
        values = plain(metric.compute())
        statistics = task.statistics(predicted.logits, predicted.targets)
        if clusters_of(predicted) is None:
            statistics = {name: one for name, one in statistics.items() if f"{name}_low" not in values}
        drawn = drawn_intervals(statistics, predicted)
        tables = metric.tables()
        if "reliability" in tables:
            values["ece_count"] = float(tables["reliability"][:, 0].sum())  # of labels, or of pixels
        found[split] = SplitNumbers(len(predicted.targets), values | drawn, tables)
    return found
