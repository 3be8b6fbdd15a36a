"""The worst and the best masks that a model found, outlined on their images, for TensorBoard."""

from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from ols.data.sources.protocol import ImageSource
from ols.data.transforms import EvalTransform, Preprocessing
from ols.evaluation.evaluate import measure
from ols.evaluation.predictions import Predictions
from ols.figures import outlined
from ols.metrics.segmentation import found_foreground, order_by_dice
from ols.tasks.task import Task

IMAGES_SHOWN = 6
SIDE = 256  # pixels


def write_mask_overlays(
    folder: Path,
    prefix: str,
    predictions: Predictions,
    task: Task,
    *,
    source: ImageSource,
    preprocessing: Preprocessing,
    images_seen: int,
) -> None:
    """Add images `<prefix>/masks_worst` and `<prefix>/masks_best`: green is the mask, orange what is found.

    Args:
        folder: Folder of the run.
        prefix: Name of the split.
        predictions: Predictions of its images; those without a mask, which have no Dice, are left out.
        task: A segmentation task.
        source: The data set that the predictions index.
        preprocessing: How the model sees an image.
        images_seen: Place on the x-axis.
    """
    ordered = order_by_dice(measure(predictions, task).tables["overlaps"])
    seen = EvalTransform(preprocessing)
    with SummaryWriter(str(folder), filename_suffix=f".masks_{prefix}") as writer:
        for name, chosen in (("worst", ordered[:IMAGES_SHOWN]), ("best", ordered[::-1][:IMAGES_SHOWN])):
            pictures = []
            for i in chosen:
                image = seen(source.read(int(predictions.indices[i])), np.array([0.5, 0.5, 1.0]))
                found = found_foreground(predictions.logits[i]).numpy()
                pictures.append(np.asarray(outlined(image, (predictions.targets[i] > 0).numpy(), found, side=SIDE)))
            if pictures:
                writer.add_images(f"{prefix}/masks_{name}", np.stack(pictures), images_seen, dataformats="NHWC")
