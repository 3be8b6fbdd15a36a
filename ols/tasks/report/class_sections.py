"""A report of classes: what is shown of its numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from ols.figures import calibration_by_group, confusion_matrix, embedding, soft_label_heatmap
from ols.figures import risk_coverage as draw_risk_coverage
from ols.metrics.embeddings import tsne_coordinates
from ols.metrics.measures import find_measure
from ols.metrics.selective import is_correct, maximum_probability, normalized_maximum_logit, risk_coverage
from ols.tasks.report.class_numbers import number_classes
from ols.tasks.report.class_records import ClassReport, Measured, SoftLabelReport, SplitReport, Subset
from ols.tasks.report.class_tables import (
    accuracy_table,
    calibration_table,
    confused_table,
    group_table,
    rest_table,
    soft_label_table,
    worst_by_accuracy,
    worst_by_calibration,
)
from ols.tasks.report.intervals import clusters_of, interval_note
from ols.tasks.report.parts import (
    Card,
    Column,
    Drawing,
    Drawings,
    Exhibit,
    Gallery,
    Part,
    Predicted,
    Report,
    Section,
    Table,
    Text,
    Tone,
)
from ols.tasks.report.wording import interval_text, measure_card, measure_row, measure_rows, number, percent, some_names
from ols.tasks.task import Task, draw_reliability

TSNE_MIN_COUNT = 4
CLASSES_DRAWN = 30  # in the confusion matrix; with more, it is of groups
COLOURED_CLASSES = 20  # with more, the features are coloured by group
ALL_SHOWN = 40  # classes of a table that is not folded
EMBEDDINGS = ("knn_accuracy", "silhouette", "inter_class_separation", "intra_class_variance")


def report_classes(
    task: Task,
    predictions: Mapping[str, Predicted],
    splits: Sequence[str],
    *,
    soft_labels: Tensor | None,
    selective: Sequence[str],
    curves: Sequence[Section] = (),
) -> Report:
    """Return the report of a task of classes.

    Args:
        task: What was predicted.
        predictions: Of each split, with features; those of `val` among them, which the temperature is fitted on.
        splits: What is reported; the first one is shown in full.
        soft_labels: What the loss had learned `[K, K]`, if it learns soft labels.
        selective: Measures of selective prediction.
        curves: Sections of the task's own, which stand before reliability.
    """
    numbers = number_classes(predictions, task, splits, soft_labels)
    shown, predicted = numbers.shown_split, predictions[numbers.shown]
    scaled = predicted.logits / numbers.temperature.value
    columns = [values for found in numbers.splits.values() for values in (found.raw, found.scaled)]
    sections = [
        *curves,
        _reliability(task, predicted, scaled, shown),
        _selective(predicted, scaled, shown, selective),
        _groups(shown),
        _classes(shown),
        _confused(task, predicted, shown),
        _errors(shown),
        *_features(task, predicted, shown),
        *_soft_labels(task, soft_labels, numbers.soft_labels),
    ]
    intervals = "Intervals are of 95 %."
    if clusters_of(predicted) is not None:
        drawn = task.statistics(predicted.logits, predicted.targets)
        intervals = interval_note(predicted, [find_measure(name).label for name in drawn])
    return Report(
        subject="a classifier",
        cards=_cards(task, numbers),
        sentences=sentences(numbers, task),
        note=f"{intervals} The null of an ECE is what a perfectly calibrated model with the same confidences and as "
        "many images would show on average: an ECE near its null is no evidence of miscalibration.",
        images={split: found.images for split, found in numbers.splits.items()},
        tones=("raw", "scaled"),
        measures=measure_rows(task.report, columns),
        measures_note="Raw, and with all logits divided by the temperature, which changes no prediction. The arrow "
        "says what is better.",
        sections=sections,
        record=asdict(numbers),
    )


def sentences(numbers: ClassReport, task: Task) -> list[str]:
    """Return what the numbers of the split that is shown amount to."""
    found, temperature = numbers.shown_split, numbers.temperature
    said = task.remarks(found.raw)
    for values, words in ((found.raw, "Raw confidence"), (found.scaled, "Scaled confidence")):
        over, under, low = (values[name] for name in ("overconfidence", "underconfidence", "ece_low"))
        if over is None or under is None or low is None:  # of no images
            continue
        direction = "too high" if over > under else "too low"
        verdict = f"is miscalibrated, mostly {direction}" if low > 0 else "cannot be told from perfect calibration"
        said.append(f"{words} {verdict}: {ece_sentence(values)}")
    low, high = temperature.low, temperature.high
    if temperature.failure:
        said.append(f"No temperature fits, the scaled figures repeat the raw ones: {temperature.failure}.")
    elif low is not None and high is not None and low <= 1 <= high:
        said.append("The interval of the temperature holds 1: scaling is not shown to change anything.")
    if temperature.masked:
        said.append(
            f"{temperature.masked:,} images of {temperature.fitted_on} have no part in the temperature: the model "
            "masks their class."
        )
    if lone := [record.name for record in found.classes if record.rest.auc is None]:
        said.append(f"Without an AUC, as no image or every image is of the class: {some_names(lone)}.")
    worst = min(found.groups, key=lambda record: math.inf if record.accuracy is None else record.accuracy)
    said.append(
        f"The group of the lowest accuracy is {worst.name}: {percent(worst.accuracy)} "
        f"({percent(worst.accuracy_low)} to {percent(worst.accuracy_high)}) of {worst.images:,} images."
    )
    if found.raw["nll"] is None and found.raw["count"]:
        said.append("The NLL is infinite: the model gives some labels no probability at all.")
    if found.raw["nonfinite"]:
        said.append(f"{found.raw['nonfinite']:.0f} images had non-finite logits: errors that no ECE or NLL counts.")
    return said


def ece_sentence(values: Measured) -> str:
    """Return an ECE with all that belongs to it."""
    return (
        f"ECE {number(values['ece'])} ({interval_text('ece', values)}), null {number(values['ece_null'])}, "
        f"N = {values['count']:,.0f}."
    )


def group_rows(found: SplitReport) -> list[tuple[Subset, bool]]:
    """Return each modality (True), followed by its groups (False), but for a group that is a modality itself."""
    rows = []
    for modality in found.modalities:
        rows.append((modality, True))
        rows += [(group, False) for group in found.groups if group.name.startswith(f"{modality.name}/")]
    return rows


def _cards(task: Task, numbers: ClassReport) -> list[Card]:
    found, temperature = numbers.shown_split, numbers.temperature
    notes = [f"{interval_text('ece', one)}, null {number(one['ece_null'])}" for one in (found.raw, found.scaled)]
    eces = [
        Card("ECE, raw", number(found.raw["ece"]), notes[0], "raw"),
        Card("ECE, temperature-scaled", number(found.scaled["ece"]), notes[1], "scaled"),
    ]
    interval = f"{number(temperature.low, 3)} to {number(temperature.high, 3)}"
    note = f"{interval}, {temperature.images:,} images"
    return [
        measure_card(task.selects[0], found.raw, split=numbers.shown, images=found.images),
        *eces,
        Card(f"Temperature, fitted on {temperature.fitted_on}", number(temperature.value, 3), note),
    ]


def _reliability(task: Task, predicted: Predicted, scaled: Tensor, shown: SplitReport) -> Section:
    drawings = []
    for logits, title, alt, values in (
        (predicted.logits, "raw", "of the raw confidence", shown.raw),
        (scaled, "temperature-scaled", "after temperature scaling", shown.scaled),
    ):
        metric = task.build_metric()
        metric.update(logits, predicted.targets)
        figure = draw_reliability(metric.tables(), title=title)
        caption = f"{'Raw' if logits is predicted.logits else 'Scaled'}: {ece_sentence(values)}"
        drawings.append(Drawing(figure, f"Reliability diagram {alt}", caption))
    introduction = (
        "Accuracy of the images whose confidence lies in a bin, with its 95 % interval (Wilson), and how many they "
        "are. On the diagonal, confidence is what it says."
    )
    return Section("reliability", "Reliability", [Text(introduction, "introduction"), Drawings(drawings)])


def _selective(predicted: Predicted, scaled: Tensor, shown: SplitReport, names: Sequence[str]) -> Section:
    correct = is_correct(predicted.logits, predicted.targets)
    scores = {
        "maximum probability, raw": maximum_probability(predicted.logits),
        "maximum probability, scaled": maximum_probability(scaled),
        "normalised maximum logit": normalized_maximum_logit(predicted.logits),
    }
    curves = {name: risk_coverage(score, correct) for name, score in scores.items()}
    figure = draw_risk_coverage({name: (curve.coverage, curve.risk) for name, curve in curves.items()}, title="")
    tones: tuple[Tone, ...] = ("raw", "scaled", "")
    columns = [Column(""), *(Column(name, True, tone) for name, tone in zip(scores, tones, strict=True))]
    rows = [measure_row(name, [shown.raw, shown.scaled, shown.normalized_logit]) for name in names]
    introduction = (
        "If the model may decline the images that it is least sure of: the error rate (risk) of those it answers, "
        "against the share that it answers (coverage). The logit-normalised score divides the logits by their norm; "
        "it often repairs the ordering that label smoothing damages, and no temperature changes it."
    )
    parts: list[Part] = [
        Text(introduction, "introduction"),
        Drawings([Drawing(figure, "Risk against coverage")]),
        Table(columns, rows),
    ]
    return Section("selective", "Selective prediction", parts)


def _groups(shown: SplitReport) -> Section:
    drawing = Drawing(
        calibration_by_group(shown.groups),
        "Accuracy and mean confidence of each group",
        "Accuracy with its 95 % interval, and mean confidence before and after scaling.",
    )
    introduction = "By modality and anatomy of the true class. The confidence of a group should meet its accuracy."
    parts: list[Part] = [Text(introduction, "introduction"), Drawings([drawing]), group_table(group_rows(shown))]
    return Section("groups", "Groups", parts)


def _classes(shown: SplitReport) -> Section:
    occurring = [record for record in shown.classes if record.images]
    predicted = [record for record in shown.classes if record.predicted.images]
    worst, worst_calibrated = worst_by_accuracy(shown.classes), worst_by_calibration(shown.classes)
    fold = "" if len(occurring) <= ALL_SHOWN else f"All {len(occurring)} classes that occur"
    parts: list[Part] = [
        Text(f"The {len(worst)} of the lowest accuracy", "heading"),
        accuracy_table(worst),
        Text("Against the rest", "heading"),
        Text(
            "Each class as a question of yes or no. The AUC is that of its probability (DeLong's interval); "
            "sensitivity, specificity and the predictive values are those of what is predicted, the most probable "
            "class.",
            "introduction",
        ),
        rest_table(occurring, fold=fold),
        Text(f"The {len(worst_calibrated)} that are calibrated worst", "heading"),
        Text(
            "Of the images that a class is predicted for: how often that is right, how confident it is, and the ECE; "
            "the classes that are predicted for at least ten images, by how far the raw ECE exceeds its null.",
            "introduction",
        ),
        calibration_table(worst_calibrated),
        accuracy_table(occurring, fold=f"Accuracy of all {len(occurring)} classes that occur"),
        calibration_table(predicted, fold=f"Calibration of all {len(predicted)} classes that are predicted at all"),
    ]
    return Section("classes", "Classes", parts)


def _confused(task: Task, predicted: Predicted, shown: SplitReport) -> Section:
    metric = task.build_metric()
    metric.update(predicted.logits, predicted.targets)
    # Classes where they can be read, else their groups
    names = task.classes if len(task.classes) <= CLASSES_DRAWN else task.groups
    drawing = Drawing(
        confusion_matrix(*_confusion(metric.tables()["confusion"], names), title=""),
        "Confusion matrix",
        "Share of the images of a row that are predicted as the column, in percent.",
    )
    return Section("confused", "Confused pairs", [Drawings([drawing]), confused_table(shown.confused)])


def _confusion(of_classes: Tensor, name_of_class: list[str]) -> tuple[np.ndarray, list[str]]:
    """Sum a confusion matrix of classes `[K, K + 1]`, its last column no prediction, by their names `[G, G]`."""
    names = list(dict.fromkeys(name_of_class))
    member = np.array([[name == of for name in names] for of in name_of_class], np.int64)  # [K, G]
    return member.T @ of_classes[:, :-1].numpy() @ member, names


def _errors(shown: SplitReport) -> Section:
    exhibits = [
        Exhibit(
            error.index,
            error.sample_id,
            f"{error.true}, predicted as {error.predicted}",
            [
                [
                    (error.predicted, "strong"),
                    (percent(error.confidence), ""),
                    (f"({percent(error.confidence_scaled)})", "soft"),
                ],
                [("labelled", "soft"), (error.true, ""), (percent(error.probability_of_true), "soft")],
            ],
        )
        for error in shown.errors
    ]
    introduction = "The errors of the highest confidence, scaled in brackets. Some of them may be errors of the labels."
    return Section("errors", "Confident errors", [Text(introduction, "introduction"), Gallery(exhibits)])


def _features(task: Task, predicted: Predicted, shown: SplitReport) -> list[Section]:
    features = predicted.required_features()
    usable = features.isfinite().all(dim=1)
    if usable.sum() < TSNE_MIN_COUNT:
        return []
    chosen, coordinates = tsne_coordinates(features[usable])
    named = task.classes if len(task.classes) <= COLOURED_CLASSES else task.groups
    names = sorted(set(named))
    label_of_class = np.array([names.index(name) for name in named])
    figure = embedding(coordinates, label_of_class[predicted.targets[usable][chosen].numpy()], names, title="")
    caption = "t-SNE of at most 2,000 images; distances between far clusters mean little."
    parts: list[Part] = [
        Text("What the classifier sees: the penultimate features.", "introduction"),
        Drawings([Drawing(figure, "t-SNE of the features", caption)]),
        Table([Column(""), Column("", True)], [measure_row(name, [shown.embeddings]) for name in EMBEDDINGS]),
    ]
    return [Section("features", "Features", parts)]


def _soft_labels(task: Task, soft_labels: Tensor | None, found: SoftLabelReport | None) -> list[Section]:
    if soft_labels is None or found is None:
        return []
    figure = soft_label_heatmap(torch.as_tensor(soft_labels), task.classes, task.groups, title="")
    caption = "Rows are true classes; classes are ordered by modality and anatomy."
    introduction = (
        "What the loss had learned by this epoch: of each class, the probabilities that it trains towards. "
        f"{percent(found.within_group)} of the probability off the diagonal lies inside the group of the class; if all "
        f"wrong classes were equal, {percent(found.within_group_uniform)} would."
    )
    parts: list[Part] = [
        Text(introduction, "introduction"),
        Drawings([Drawing(figure, "Matrix of soft labels", caption)]),
        soft_label_table(found.classes, unfolded=len(found.classes) <= ALL_SHOWN),
    ]
    return [Section("soft-labels", "Soft labels", parts)]
