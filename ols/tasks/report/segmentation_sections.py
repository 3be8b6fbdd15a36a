"""A report of masks."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ols.figures import overlap_histogram
from ols.metrics.segmentation import found_foreground, order_by_dice
from ols.tasks.report.intervals import interval_note
from ols.tasks.report.measured import SplitNumbers, measure_splits
from ols.tasks.report.parts import (
    Card,
    Drawing,
    Drawings,
    Exhibit,
    Gallery,
    Masks,
    Part,
    Predicted,
    Report,
    Section,
    Text,
)
from ols.tasks.report.wording import interval_text, measure_card, measure_rows, number, percent
from ols.tasks.task import Task, draw_reliability

IMAGES_SHOWN = 6  # of each kind


def report_masks(task: Task, predictions: Mapping[str, Predicted], splits: Sequence[str]) -> Report:
    """Return the report of a segmentation task.

    Args:
        task: What was predicted.
        predictions: Of each split.
        splits: What is reported; the first one is shown in full.
    """
    numbers = measure_splits(task, predictions, splits)
    shown, answers, values = numbers[splits[0]], predictions[splits[0]], numbers[splits[0]].values
    quartiles = f"quartiles {number(values['dice_q25'])} and {number(values['dice_q75'])}"
    found = f"something is found in {percent(values['empty_found'])}" if values["empty_masks"] else ""
    return Report(
        subject=f"a model of the pixels of {', '.join(task.classes[1:])}",
        cards=[
            measure_card("dice", values, split=splits[0], images=shown.images),
            Card("Dice, median", number(values["dice_median"]), quartiles),
            Card("IoU", number(values["iou"]), interval_text("iou", values)),
            Card("Empty masks", f"{values['empty_masks'] or 0:,.0f}", found),
        ],
        sentences=[*_undefined(values), *task.remarks(values), *shown.nonfinite()],
        note=interval_note(answers, ["Dice", "IoU"]),
        images={split: found.images for split, found in numbers.items()},
        tones=("",),
        measures=measure_rows(task.report, [found.values for found in numbers.values()]),
        measures_note="Dice and IoU are of each image, and summed up over those with a mask. The arrow says what is "
        "better.",
        sections=[
            _overlap(shown),
            _images(answers, shown.tables["overlaps"]),
            _empty(answers, shown),
            _reliability(shown),
        ],
        record={
            "shown": splits[0],
            "splits": {split: found.values for split, found in numbers.items()},
            "images": [
                {"sample_id": name, "dice": None if np.isnan(dice) else dice, "iou": None if np.isnan(iou) else iou}
                for name, (dice, iou) in zip(answers.sample_ids, shown.tables["overlaps"].tolist(), strict=True)
            ],
        },
    )


def _undefined(values: Mapping[str, float | None]) -> list[str]:
    return ["Dice and IoU are undefined, as no image has a mask."] if values["dice"] is None else []


def _overlap(shown: SplitNumbers) -> Section:
    figure = overlap_histogram(shown.tables["overlaps"].numpy(), title="")
    caption = "Images with a mask by their Dice."
    return Section("overlap", "Overlap", [Drawings([Drawing(figure, "Distribution of Dice", caption)])])


def _images(answers: Predicted, overlaps: Tensor) -> Section:
    ordered = order_by_dice(overlaps)
    introduction = (
        "As the model sees them, outlined in green what the mask has, in orange what is found. Median images are those "
        "nearest to the middle of all in the order of Dice."
    )
    if not ordered:
        return Section("images", "Worst, median and best images", [Text("No image has a mask.")])
    parts: list[Part] = [Text(introduction, "introduction")]
    middle = max(0, (len(ordered) - IMAGES_SHOWN) // 2)
    kinds = {
        "Worst": ordered[:IMAGES_SHOWN],
        "Median": ordered[middle : middle + IMAGES_SHOWN],
        "Best": ordered[::-1][:IMAGES_SHOWN],
    }
    for kind, chosen in kinds.items():
        parts += [
            Text(kind, "heading"),
            Gallery([_exhibit(answers, i, f"Dice {number(float(overlaps[i, 0]), 3)}") for i in chosen]),
        ]
    return Section("images", "Worst, median and best images", parts)


def _empty(answers: Predicted, shown: SplitNumbers) -> Section:
    empty = torch.from_numpy(np.isnan(shown.tables["overlaps"].numpy()[:, 0])).nonzero().squeeze(1).tolist()
    sizes = {i: int(found_foreground(answers.logits[i]).sum()) for i in empty}
    invented = sorted((i for i in empty if sizes[i]), key=lambda i: -sizes[i])
    said = (
        f"{len(empty):,} of {shown.images:,} images have an empty mask, and no part in Dice and IoU. Something is "
        f"found in {len(invented):,} of them."
        if empty
        else "Every image has a mask."
    )
    parts: list[Part] = [Text(said)]
    if invented:
        parts += [
            Text("Most is found in", "heading"),
            Gallery([_exhibit(answers, i, f"{sizes[i]:,} pixels found") for i in invented[:IMAGES_SHOWN]]),
        ]
    return Section("empty", "Empty masks", parts)


def _reliability(shown: SplitNumbers) -> Section:
    introduction = (
        "Of all pixels, the background among them: how often the likeliest class is right, by how likely it is. Pixels "
        "of an image are not independent, so the intervals (Wilson) are too narrow."
    )
    figure = draw_reliability(shown.tables, title="")
    parts: list[Part] = [
        Text(introduction, "introduction"),
        Drawings([Drawing(figure, "Reliability diagram of pixels")]),
    ]
    return Section("reliability", "Reliability", parts)


def _exhibit(answers: Predicted, i: int, text: str) -> Exhibit:
    masks = Masks((answers.targets[i] > 0).numpy(), found_foreground(answers.logits[i]).numpy())
    return Exhibit(int(answers.indices[i]), answers.sample_ids[i], text, [[(text, "strong")]], masks)
