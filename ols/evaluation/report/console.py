"""What a run prints: what it is about to do, and what came out."""

import copy

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ols.data.loaders import Loaders
from ols.evaluation.evaluate import Evaluation
from ols.metrics.measures import find_measure
from ols.tasks.task import Task


def describe_data(loaders: Loaders, task: Task) -> str:
    """Return images and targets of each split, such as the imbalance of classes, and which a split lacks."""
    lines = []
    for split in ("train", "val", "test"):
        loader = getattr(loaders, split)
        targets = loader.source.targets[loader.batches.pool]
        lines.append(f"{split:5} {len(targets):>9,} images, {task.describe_targets(targets)}")
    return "\n".join(lines)


def describe_cost(model: nn.Module, loaders: Loaders, *, epochs: int) -> str:
    """Return parameters, optimizer steps and arithmetic of a run; the arithmetic is counted on the meta device."""
    preprocessing, batches = loaders.train.preprocessing, loaders.train.batches
    image = torch.empty(1, preprocessing.in_chans, preprocessing.image_size, preprocessing.image_size, device="meta")
    forward = _count_operations(model, image)
    steps, images = epochs * batches.steps, epochs * batches.steps * batches.global_batch_size
    parameters = sum(parameter.numel() for parameter in model.parameters())
    each, all_steps = "arithmetic that cannot be counted", ""
    if forward is not None:
        each = f"{forward / 1e9:.4g} GFLOP forward an image"
        all_steps = f", about {3 * forward * images / 1e15:.4g} PFLOP"
    return (
        f"model {parameters / 1e6:,.2f} M parameters, {each}\n"
        f"run   {epochs} epochs x {batches.steps:,} steps of {batches.global_batch_size} images = {steps:,} steps"
        f"{all_steps}"
    )


def _count_operations(model: nn.Module, image: Tensor) -> int | None:
    """Return the floating-point operations of a forward pass, counted on the meta device; None where that fails.

    Some models do what the meta device or the counter cannot, and an estimate must not end a run.
    """
    try:
        on_meta = copy.deepcopy(model).to("meta", torch.float32).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            on_meta(image)
        return counter.get_total_flops()
    except Exception:
        return None


def result_table(evaluations: dict[str, Evaluation], task: Task) -> str:
    """Return a table with a row for each evaluation, and what its reader has to know below.

    A measure stands beside its 95 % interval where it has one, and beside what perfection would show (`null`), such as
    the ECE of a perfectly calibrated model with as many images.
    """
    columns, remarks = [["", *evaluations]], []
    for name in task.table:
        measure = find_measure(name)
        every = [evaluation.metrics for evaluation in evaluations.values()]
        columns.append([name, *(measure.text(values[name]) for values in every)])
        if all(f"{name}_low" in values for values in every):
            ends = [[measure.text(values[f"{name}_{end}"]) for end in ("low", "high")] for values in every]
            columns.append(["95 % interval", *map("-".join, ends)])
        if all(f"{name}_null" in values for values in every):
            columns.append(["null", *(measure.text(values[f"{name}_null"]) for values in every)])
    columns.append(["images", *(f"{evaluation.metrics['count']:.0f}" for evaluation in evaluations.values())])
    widths = [max(map(len, column)) for column in columns]
    lines = ["  ".join(map(str.rjust, line, widths)) for line in zip(*columns, strict=True)]
    for prefix, evaluation in evaluations.items():
        remarks += [f"{prefix}: {remark}" for remark in task.remarks(evaluation.metrics)]
    return "\n".join([*lines, *remarks])
