"""What was found of a model, as files: a table of images, a summary for programs, and a page with overlays."""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ols.files import write_file, written_aside
from ols.localisation.measurement import CENTRE, GRADIENT, MEASURES, RANDOM
from ols.localisation.overlays import best_median_worst, draw_overlays
from ols.localisation.scored_images import ScoredImages
from ols.localisation.summary import Estimate, Group, summarise

FORMAT = 1
LABELS = {
    "grad_cam": "Grad-CAM",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    CENTRE: "centre prior",
    RANDOM: "random map",
    GRADIENT: "input gradient",
    "dice": "Dice at threshold",
    "iou": "IoU at threshold",
    "dice_own_area": "Dice at own area",
    "iou_own_area": "IoU at own area",
    "pointing": "pointing game",
    "energy": "energy inside",
}


@dataclass(frozen=True)
class LocalisationReport:
    """How well a model's activation maps hit the lesions of a split.

    Args:
        name: Of the model.
        split: Whose images these are.
        folds: Whose models looked, each at the images of its own fold; empty for a single model.
        explained: Whose evidence was looked for: `true`, `predicted`, or the label of a class.
        layer: Whose output the feature map is.
        feature_map: Its height and width.
        thresholds: By map, a share of its maximum; of folds a list of those of each.
        chosen_on: Where the thresholds are from.
        lesion_area: Mean share of the image that a lesion covers.
        empty: Images whose mask is empty: they have no score.
        out_of_view: Images whose lesion is out of the crop that the model sees: they have no score.
        blank: Images whose activation map is 0 everywhere, as all speaks against the class; they score as such.
        groups: Scores of all images, and of those that are predicted right or wrong.
        ahead: By how much the map is ahead of another model's on the same images, by the model's name and by measure.
        conditions: Versions, device, date, commit, and the like.
    """

    name: str
    split: str
    folds: list[str]
    explained: str
    layer: str
    feature_map: tuple[int, int]
    thresholds: Mapping[str, Any]
    chosen_on: str
    lesion_area: float
    empty: int
    out_of_view: int
    blank: int
    groups: dict[str, Group]
    ahead: dict[str, dict[str, Estimate]]
    conditions: dict[str, Any]


def build_report(
    images: ScoredImages, *, name: str, split: str, explained: str, ahead: dict[str, dict[str, Estimate]]
) -> LocalisationReport:
    """Summarise the scores of all images, and of those that are predicted right and wrong.

    Args:
        images: With their scores.
        name: Of the model, or of the folder of its folds.
        split: Whose images these are.
        explained: Whose evidence was looked for.
        ahead: By how much the map is ahead of other models', see `ScoredImages.ahead_of`.
    """
    chosen = {"all": None, "right": images.right == 1, "wrong": images.right == 0}
    return LocalisationReport(
        name=name,
        split=split,
        folds=list(dict.fromkeys(images.folds)),
        explained=explained,
        layer=images.layer,
        feature_map=images.feature_map,
        thresholds=images.thresholds,
        chosen_on=images.chosen_on,
        lesion_area=float(images.areas[images.areas > 0].mean()),
        empty=images.empty,
        out_of_view=int((images.areas == 0).sum()),
        blank=int(images.blank.sum()),
        groups={
            group: summarise(images.scores, chosen=which, patients=images.patients) for group, which in chosen.items()
        },
        ahead=ahead,
        conditions=images.conditions,
    )


def write_report(folder: Path, report: LocalisationReport, images: ScoredImages) -> None:
    """Write `localisation.csv`, `localisation.json`, `localisation.md` and `overlays.png`.

    Args:
        folder: Where to.
        report: What was found.
        images: That it was found on.
    """
    rows = images.rows()
    chosen = best_median_worst(images.own["dice_own_area"])
    figure = draw_overlays(
        {kind: [images.overlays[place]() for place in places] for kind, places in chosen.items()}, title=report.name
    )
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if _is_nan(value) else value for name, value in row.items()} for row in rows)
    write_file(folder / "localisation.csv", table.getvalue())
    record = _without_nan({"format": FORMAT, **asdict(report)})
    write_file(folder / "localisation.json", json.dumps(record, indent=1, allow_nan=False))
    with written_aside(folder / "overlays.png") as aside:
        figure.savefig(aside, format="png", dpi=130, metadata={"Software": None})
    write_file(folder / "localisation.md", render_markdown(report))


def render_markdown(report: LocalisationReport) -> str:
    """Return the page: what was measured, tables of the groups, and the overlays."""
    whole = report.groups["all"]
    own = next(iter(whole.maps))
    whose = {"true": "the true class", "predicted": "the predicted class"}.get(report.explained, report.explained)
    together = f", {len(report.folds)} folds together," if report.folds else ""
    parts = [
        f"# Where {report.name} looks",
        f"{LABELS[own]} of {whose} at `{report.layer}` ({report.feature_map[0]} x {report.feature_map[1]} places) on "
        f"{whole.images:,} images of {report.split}{together} whose lesion is marked ({whole.patients:,} patients); it "
        f"covers {report.lesion_area:.1%} of the image on average. {report.chosen_on}",
    ]
    notes = {
        "more have an empty mask, and no score.": report.empty,
        "more have their lesion out of the crop that the model sees, and no score.": report.out_of_view,
        "maps are 0 everywhere: all speaks against the class.": report.blank,
    }
    parts += [f"{count:,} {note}" for note, count in notes.items() if count]
    for name, group in report.groups.items():
        if group.images:
            tables = [summary_table(group.maps), summary_table(group.ahead, prefix="ahead of ")]
            parts += [f"## {_heading(name)}: {group.images:,} images", *tables]
    if report.ahead:
        parts += ["## Beside other models", summary_table(report.ahead, prefix="ahead of ")]
    parts += [
        f"Means with 95 % intervals that draw patients anew; *ahead of* is by how much {LABELS[own]} is ahead on the "
        "same images. A map that says nothing has the lesion's share of the image as its Dice at own area, pointing "
        "game and energy inside, and no interval is drawn from fewer than five patients or where all scores are the "
        f"same. Threshold, as a share of a map's maximum: {_thresholds(report)}.",
        "## Best, median and worst",
        f"By Dice at the lesion's own area; the lesion is outlined.\n\n![{LABELS[own]} over images](overlays.png)",
        "## Conditions",
        f"```json\n{json.dumps(_without_nan(report.conditions), indent=1)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def summary_table(columns: Mapping[str, Mapping[str, Estimate]], *, prefix: str = "") -> str:
    """Return estimates as a Markdown table: a row for each measure, a column for each map."""
    measures = [measure for measure in MEASURES if any(measure in column for column in columns.values())]
    rows = [["", *(f"{prefix}{LABELS.get(name, name)}" for name in columns)], ["---"] * (1 + len(columns))]
    rows += [[LABELS[m], *(_text(column.get(m)) for column in columns.values())] for m in measures]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _thresholds(report: LocalisationReport) -> str:
    shares = {name: "/".join(f"{share:.2f}" for share in np.atleast_1d(of)) for name, of in report.thresholds.items()}
    return ", ".join(f"{LABELS[name]} {text}" for name, text in shares.items()) or "none"


def _heading(group: str) -> str:
    return {"all": "All", "right": "Predicted right", "wrong": "Predicted wrong"}.get(group, group)


def _text(value: Estimate | None) -> str:
    if value is None or math.isnan(value.mean):
        return "-"
    interval = "" if math.isnan(value.low) else f" ({value.low:.3f} to {value.high:.3f})"
    return f"{value.mean:.3f}{interval}"


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _without_nan(value: Any) -> Any:
    """Return a record with None for what is no number, as JSON has it."""
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if _is_nan(value) else value
