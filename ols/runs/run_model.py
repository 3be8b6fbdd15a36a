"""The model of a run, before the first step: built, started, shaped."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from ols.config import Config
from ols.data.transforms import Preprocessing
from ols.models.build import build_model
from ols.models.decoder import trunk
from ols.models.head import zero_head
from ols.models.origin import note_origin
from ols.models.scale import describe_gray, describe_scale
from ols.models.shape import shape_model
from ols.models.variant import apply_variant
from ols.runs.checkpoint import load_notes
from ols.runs.export import start_model, start_normalization
from ols.tasks.task import Task


def build_run_model(
    config: Config,
    task: Task,
    *,
    images: Callable[[], Tensor],
    checkpoint: Path | None = None,
) -> tuple[nn.Module, list[str]]:
    """Build the model that a configuration asks for, with the weights that it starts from.

    Every call builds a fresh one: two folds of a data set share nothing but the file that they start from.

    Args:
        config: Architecture, start, truncation, head and scaling of the images.
        task: What is predicted.
        images: Gives a batch of the user's own, intensities in [0, 1] `[N, C, H, W]`, for the check of their scaling.
        checkpoint: Newest checkpoint, whose weights will be loaded over it: what the run started from may be gone.

    Returns:
        The model, and lines that say what was loaded, whether the scaling fits, and how it was shaped.

    Raises:
        FileNotFoundError: There is no such start.
        ValueError: It does not fit the architecture, or the architecture not the head.
    """
    pretrained = config.model.start == "imagenet" and checkpoint is None
    model = build_model(
        config.model.name,
        task.num_outputs,
        config.data.in_chans,
        image_size=config.data.image_size,
        pretrained=pretrained,
        dense=task.dense,
    )
    if task.kind == "regression":
        zero_head(model)
    lines = []
    if checkpoint is not None:
        variant, origin = load_notes(checkpoint)
        apply_variant(trunk(model), variant)
        note_origin(trunk(model), origin)
    elif started := start_model(trunk(model), config.model.start):
        expected = Preprocessing.from_options(config.data)
        scale = describe_scale(model, images(), expected.mean, expected.std)
        gray = describe_gray(*start_normalization(config.model), config.data.in_chans)
        lines += [line for line in (started, gray, scale) if line]
    if not task.dense:
        shaped = shape_model(model, task.num_outputs, truncate_after=config.model.truncate_after, head=config.head)
        if shaped and task.kind == "regression":
            zero_head(model)  # which is another one
        lines += shaped
    return model, lines
