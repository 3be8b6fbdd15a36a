"""What a run prints: what it is about to do, and what came out."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ols.data.loaders import Loaders, class_counts
from ols.evaluation.evaluate import Evaluation

REPORTED = ("top1", "top5", "balanced_accuracy", "macro_f1", "nll")


def describe_data(loaders: Loaders) -> str:
    """Return images and classes of each split, the imbalance, and which classes a split lacks."""
    lines = []
    for split in ("train", "val", "test"):
        counts = class_counts(getattr(loaders, split))
        present = counts[counts > 0]
        line = f"{split:5} {counts.sum():>9,} images, {len(present)} of {len(counts)} classes"
        lines.append(f"{line}, {present.min():,} to {present.max():,} images a class")
        absent = [loaders.classes[i] for i in (counts == 0).nonzero()[0]]
        if absent:
            lines.append(
                f"      absent: {', '.join(absent[:5])}" + (f" and {len(absent) - 5} more" if absent[5:] else "")
            )
    return "\n".join(lines)


def describe_cost(model: nn.Module, loaders: Loaders, *, epochs: int) -> str:
    """Return parameters, optimizer steps and arithmetic of a run; the arithmetic is counted on the meta device."""
    preprocessing, batches = loaders.train.preprocessing, loaders.train.batches
    image = torch.empty(1, preprocessing.in_chans, preprocessing.image_size, preprocessing.image_size, device="meta")
    on_meta = copy.deepcopy(model).to("meta", torch.float32).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        on_meta(image)
    forward = counter.get_total_flops()
    steps, images = epochs * batches.steps, epochs * batches.steps * batches.global_batch_size
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"model {parameters / 1e6:,.2f} M parameters, {forward / 1e9:.4g} GFLOP forward an image\n"
        f"run   {epochs} epochs x {batches.steps:,} steps of {batches.global_batch_size} images = {steps:,} steps, "
        f"about {3 * forward * images / 1e15:.4g} PFLOP"
    )


def result_table(evaluations: dict[str, Evaluation]) -> str:
    """Return a table with a row for each evaluation; accuracies in percent, NLL in nats.

    The ECE stands beside its 95 % interval, what a perfectly calibrated model would show (`null`), and the number of
    images.
    """
    lines = [["", *REPORTED, "ece", "95 % interval", "null", "images"]]
    for name, evaluation in evaluations.items():
        values = evaluation.metrics
        cells = [f"{values[key]:.4f}" if key == "nll" else f"{values[key]:.2%}" for key in REPORTED]
        interval = f"{values['ece_low']:.4f}-{values['ece_high']:.4f}"
        ece = [f"{values['ece']:.4f}", interval, f"{values['ece_null']:.4f}"]
        lines.append([name, *cells, *ece, f"{values['count']:.0f}"])
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)
