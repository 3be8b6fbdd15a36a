"""A report as one HTML page that needs nothing else, and as Markdown."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ols.evaluation.predictions import Predictions
from ols.evaluation.report.records import ModelReport
from ols.evaluation.report.wording import (
    EMBEDDINGS,
    ece_sentence,
    facts,
    group_rows,
    headline,
    markdown_text,
    number,
    percent,
    sentences,
    table_row,
    worst_by_accuracy,
    worst_by_calibration,
)
from ols.figures import calibration_by_group, confusion_matrix, embedding, soft_label_heatmap
from ols.figures import risk_coverage as draw_risk_coverage
from ols.files import write_file
from ols.metrics.embeddings import tsne_coordinates
from ols.metrics.selective import is_correct, maximum_probability, normalized_maximum_logit, risk_coverage
from ols.tasks.classification import SELECTIVE
from ols.tasks.task import Task

TSNE_MIN_COUNT = 4
CLASSES_DRAWN = 30  # in the confusion matrix; with more, it is of groups
COLOURED_CLASSES = 20  # with more, the features are coloured by group
THUMBNAIL_SIZE = 176  # pixels


def write_page(
    folder: Path,
    report: ModelReport,
    predictions: dict[str, Predictions],
    task: Task,
    *,
    soft_labels: Tensor | None,
    read: Callable[[int], Image.Image],
) -> None:
    """Write `report.json`, `report.md` and `report.html`.

    Args:
        folder: Where to.
        report: What `build_model_report` made of the predictions.
        predictions: Of each split, with features, for the figures.
        task: What was predicted.
        soft_labels: What the loss had learned `[K, K]`, if it learns soft labels.
        read: Returns an image of the split that is reported in full, by its index.
    """
    write_file(folder / "report.json", json.dumps(asdict(report), indent=1, allow_nan=False))
    write_file(folder / "report.md", render_markdown(report, task))
    pictures = [read(error.index) for error in report.shown_split.errors]
    figures = draw_figures(report, predictions[report.shown], task, soft_labels)
    write_file(folder / "report.html", render_page(report, task, figures, pictures))


def render_markdown(report: ModelReport, task: Task) -> str:
    """Return facts and headline table as Markdown."""
    return _environment().get_template("report.md.j2").render(**_context(report, task))


def render_page(report: ModelReport, task: Task, figures: dict[str, Figure], pictures: list[Image.Image]) -> str:
    """Return the page.

    Args:
        report: What `build_model_report` returns.
        task: What was predicted.
        figures: What `draw_figures` returns.
        pictures: Of the report's `errors`, in their order.
    """
    shown = report.shown_split
    scores = [shown.raw, shown.scaled, shown.normalized_logit]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            **_context(report, task),
            shown=shown,
            group_rows=group_rows(shown),
            chosen_by=table_row(task.selects[0], [shown.raw]),
            occurring=[record for record in shown.classes if record.images],
            predicted=[record for record in shown.classes if record.predicted.images],
            worst_accuracy=worst_by_accuracy(shown.classes),
            worst_calibration=worst_by_calibration(shown.classes),
            selective_rows=[table_row(name, scores) for name in SELECTIVE],
            embedding_rows=[table_row(name, [shown.embeddings]) for name in EMBEDDINGS],
            figures={name: _figure_uri(figure) for name, figure in figures.items()},
            pictures=[_picture_uri(picture) for picture in pictures],
            conditions=json.dumps(report.conditions, indent=1),
        )
    )


def draw_figures(
    report: ModelReport, predictions: Predictions, task: Task, soft_labels: Tensor | None
) -> dict[str, Figure]:
    """Draw the figures of the split that is shown; those of the task under its names with `_raw` and `_scaled`."""
    shown = report.shown_split
    logits, targets, temperature = predictions.logits, predictions.targets, report.temperature.value
    correct = is_correct(logits, targets)
    figures: dict[str, Figure] = {}
    tables: dict[str, dict[str, Tensor]] = {}
    for name, title, values in (("raw", "raw", logits), ("scaled", "temperature-scaled", logits / temperature)):
        metric = task.build_metric()
        metric.update(values, targets)
        tables[name] = metric.tables()
        drawn = task.draw(tables[name], title=title)
        figures |= {f"{figure}_{name}": picture for figure, picture in drawn.items()}
    scores = {
        "maximum probability, raw": maximum_probability(logits),
        "maximum probability, scaled": maximum_probability(logits / temperature),
        "normalised maximum logit": normalized_maximum_logit(logits),
    }
    curves = {name: risk_coverage(score, correct) for name, score in scores.items()}
    pairs = {name: (curve.coverage, curve.risk) for name, curve in curves.items()}
    figures["risk_coverage"] = draw_risk_coverage(pairs, title="")
    figures["groups"] = calibration_by_group(shown.groups)
    # Classes where they can be read, else their groups
    names = predictions.classes if len(predictions.classes) <= CLASSES_DRAWN else predictions.groups
    figures["confusion"] = confusion_matrix(*_confusion(tables["raw"]["confusion"], names), title="")
    features = predictions.required_features()
    usable = features.isfinite().all(dim=1)
    if usable.sum() >= TSNE_MIN_COUNT:
        chosen, coordinates = tsne_coordinates(features[usable])
        named = predictions.classes if len(predictions.classes) <= COLOURED_CLASSES else predictions.groups
        names = sorted(set(named))
        label_of_class = np.array([names.index(name) for name in named])
        labels = label_of_class[targets[usable][chosen].numpy()]
        figures["embedding"] = embedding(coordinates, labels, names, title="")
    if soft_labels is not None:
        figures["soft_labels"] = soft_label_heatmap(soft_labels, predictions.classes, predictions.groups, title="")
    return figures


def _confusion(of_classes: Tensor, name_of_class: list[str]) -> tuple[np.ndarray, list[str]]:
    """Sum a confusion matrix of classes `[K, K + 1]`, its last column no prediction, by their names `[G, G]`."""
    names = list(dict.fromkeys(name_of_class))
    member = np.array([[name == of for name in names] for of in name_of_class], np.int64)  # [K, G]
    return member.T @ of_classes[:, :-1].numpy() @ member, names


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ols.evaluation.report", ""),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": number, "count": "{:,}".format, "escaped": markdown_text}
    environment.globals["ece_sentence"] = ece_sentence
    return environment


def _context(report: ModelReport, task: Task) -> dict[str, Any]:
    """Return what both templates show, as text."""
    return {
        "report": report,
        "facts": facts(report),
        "sentences": sentences(report, task),
        "headline": headline(report, task),
    }


def _picture_uri(image: Image.Image) -> str:
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _figure_uri(figure: Figure) -> str:
    file = io.BytesIO()
    # A fixed salt and no date: the same findings give the same page.
    with rc_context({"svg.hashsalt": "ols"}):
        figure.savefig(file, format="svg", dpi=160, metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
