"""A class of each pixel."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ols.losses import LOSSES, LabelLoss, Loss
from ols.losses.segmentation import DiceBCE
from ols.tasks.task import Task, TaskMetric, Values, draw_reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from ols.tasks.report.parts import Predicted, Report

BACKGROUND = "background"


class Segmentation(Task):
    """Each pixel is background or one of the foreground classes: K logits `[K, H, W]`, class indices `[H, W]`.

    Every loss of labels fits, as all take spatial targets: online label smoothing learns what the pixels of a class
    look like to the model.

    Args:
        classes: Name of each foreground class; the task puts the background before them.
        groups: Modality and anatomy of each.
    """

    name = "segmentation"
    kind = "mask"
    dense = True
    losses = (
        "dice_bce",
        "dice_weighted_fn",
        *(name for name, loss in LOSSES.items() if not loss.needs_teacher | loss.needs_index),
    )
    default_loss = "dice_bce"
    selects: ClassVar[tuple[str, ...]] = ("dice", "iou", "nll")
    line: ClassVar[tuple[str, ...]] = ("dice", "iou", "nll", "ece")
    table: ClassVar[tuple[str, ...]] = (
        "dice",
        "dice_q25",
        "dice_median",
        "dice_q75",
        "iou",
        "empty_masks",
        "nll",
        "ece",
    )
    report: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Overlap": ("dice", "dice_q25", "dice_median", "dice_q75", "iou", "iou_q25", "iou_median", "iou_q75"),
        "Empty masks": ("empty_masks", "empty_found"),
        "Pixels": ("nll", "ece"),
    }

    def __init__(self, classes: Sequence[str], groups: Sequence[str]):
        super().__init__([BACKGROUND, *classes], [BACKGROUND, *groups])

    @classmethod
    def from_outputs(cls, classes: Sequence[str], groups: Sequence[str], **state: Any) -> "Segmentation":
        """Build the task of a model again: the background, which its outputs begin with, is put there anew."""
        return cls(classes[1:], groups[1:], **state)

    def describe(self) -> str:
        """Return what is found in an image."""
        return f"the pixels of {', '.join(self.classes[1:])}"

    def describe_targets(self, targets: np.ndarray) -> str:
        """Return what there is a mask of, one with each image."""
        return f"each with a mask of {', '.join(self.classes[1:])}"

    def check_loss(self, loss: Loss) -> None:
        """Make sure that a loss takes K logits and a class index of each pixel.

        Raises:
            ValueError: It does not; the message names both.
        """
        found = loss.num_classes if isinstance(loss, LabelLoss) else loss.num_outputs
        if (
            not isinstance(loss, LabelLoss | DiceBCE)
            or loss.needs_teacher | loss.needs_index
            or found != self.num_outputs
        ):
            raise ValueError(
                f"a segmentation task of {self.num_outputs} classes with the background needs a loss of as many, which "
                f"takes masks; got {loss}"
            )

    def terms_per_image(self, loss: Loss, target: Tensor) -> int:
        """Return the pixels of an image, which a loss of labels sums over; a loss of masks has one term an image."""
        return target[0].numel() if isinstance(loss, LabelLoss) else 1

    def build_metric(self, *, thorough: bool = False, select_by: str | None = None) -> TaskMetric:
        """Build what measures overlap by image, and calibration of pixels."""
        from ols.metrics.segmentation import SegmentationMetrics

        return SegmentationMetrics(self.num_outputs)

    def statistics(self, outputs: Tensor, targets: Tensor) -> "dict[str, Callable[[NDArray], NDArray]]":
        """Return the mean Dice and IoU, over images with a mask, of images that count several times or not at all."""
        from ols.metrics.resampling import mean_of_counts
        from ols.metrics.segmentation import SegmentationMetrics

        metric = SegmentationMetrics(self.num_outputs)
        for batch in zip(outputs.split(64), targets.split(64), strict=True):
            metric.update(*batch)
        overlaps = metric.tables()["overlaps"].numpy()
        return {name: mean_of_counts(overlaps[:, column]) for column, name in enumerate(("dice", "iou"))}

    def of_draws(self, outputs: Tensor, targets: Tensor, name: str | None = None) -> "Callable[[NDArray], NDArray]":
        """Return one of `statistics`, or the NLL of the pixels."""
        from ols.metrics.resampling import mean_of_counts

        if self.selecting(name) != "nll":
            return super().of_draws(outputs, targets, name)
        nll = F.cross_entropy(outputs.double(), targets, reduction="none").flatten(1)  # [N, H W]
        return mean_of_counts(nll.nanmean(dim=1).numpy(), (~nll.isnan()).sum(dim=1).numpy())

    def build_report(
        self, predictions: "Mapping[str, Predicted]", splits: Sequence[str], *, soft_labels: Tensor | None = None
    ) -> "Report":
        """Return Dice and how it is distributed, the worst and best images with both outlines, and empty masks."""
        from ols.tasks.report.segmentation_sections import report_masks

        return report_masks(self, predictions, splits)

    def draw(self, tables: Mapping[str, Tensor], *, title: str) -> "dict[str, Figure]":
        """Draw the reliability diagram of the pixels, and how Dice is distributed over images."""
        from ols.figures import overlap_histogram

        return {
            "reliability": draw_reliability(tables, title=title),
            "overlap": overlap_histogram(tables["overlaps"].numpy(), title=title),
        }

    def remarks(self, values: Values) -> list[str]:
        """Return how many images have no mask, and what is found in them."""
        empty, found, count = values["empty_masks"], values["empty_found"], values["count"]
        if not empty:
            return []
        return [
            f"{empty:,.0f} of {count:,.0f} images have an empty mask and no part in Dice and IoU; something is "
            f"found in {found or 0:.1%} of them."
        ]
