"""Every number of a report of classes, from logits and labels alone."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ols.metrics.arguments import usable_rows
from ols.metrics.auc import auc
from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.calibration_error import calibration_errors, reliability_intervals
from ols.metrics.calibration_noise import ece_noise
from ols.metrics.embeddings import embedding_metrics
from ols.metrics.scaling import TemperatureScaling, possible_rows
from ols.metrics.selective import is_correct, maximum_probability, normalized_maximum_logit, selective_metrics
from ols.tasks.report.class_records import (
    Accuracy,
    AgainstTheRest,
    AsPredicted,
    Calibration,
    ClassRecord,
    ClassReport,
    ConfidentError,
    ConfusedPair,
    Neighbour,
    ReliabilityBin,
    SoftLabel,
    SoftLabelReport,
    SplitReport,
    Subset,
    Temperature,
)
from ols.tasks.report.intervals import clusters_of, drawn_intervals, or_none, plain
from ols.tasks.report.parts import Predicted
from ols.tasks.task import Task

ERRORS_SHOWN = 24
PAIRS_SHOWN = 20


def number_classes(
    predictions: Mapping[str, Predicted], task: Task, splits: Sequence[str], soft_labels: Tensor | None
) -> ClassReport:
    """Return every number of a report of classes.

    Args:
        predictions: Of each split; those of `val` among them, which the temperature is fitted on.
        task: What was predicted.
        splits: What is reported; the first one is shown in full.
        soft_labels: What the loss had learned `[K, K]`, if it learns soft labels.
    """
    temperature = fit_temperature(predictions["val"])
    labels = None if soft_labels is None else report_soft_labels(soft_labels, task.classes, task.groups)
    found = {split: report_split(predictions[split], task, temperature.value) for split in splits}
    return ClassReport(splits[0], temperature, found, labels)


def fit_temperature(predictions: Predicted) -> Temperature:
    """Fit a temperature to the predictions of a split that is neither train nor test."""
    fitted = possible_rows(predictions.logits, predictions.targets)
    images, masked = int(fitted.sum()), int((usable_rows(predictions.logits) & ~fitted).sum())
    try:
        scaling = TemperatureScaling().fit(predictions.logits[fitted], predictions.targets[fitted])
    except ValueError as error:
        return Temperature(images, 1.0, None, None, failure=str(error), masked=masked)
    return Temperature(images, scaling.temperature, *scaling.interval, masked=masked)


def report_split(predictions: Predicted, task: Task, temperature: float) -> SplitReport:
    """Return what the predictions of a split say, raw and with their logits divided by a temperature.

    Args:
        predictions: With features.
        task: What was predicted.
        temperature: Of another split.
    """
    logits, targets = predictions.logits, predictions.targets
    classes, groups = task.classes, task.groups
    both = {"raw": logits, "scaled": logits / temperature}
    finite = usable_rows(logits)
    predicted = torch.where(finite, logits.nan_to_num(neginf=-torch.inf).argmax(dim=1), -1)
    probs = logits.double().softmax(dim=1)
    correct = is_correct(logits, targets)
    accuracy = _accuracy(correct)

    def subsets(of_class: list[str]) -> list[Subset]:
        names = sorted(set(of_class))
        label = torch.tensor([names.index(name) for name in of_class])[targets]  # [N]
        return [
            Subset(
                **vars(_accuracy(correct[label == i])),
                name=name,
                raw=_calibration(logits[label == i], targets[label == i]),
                scaled=_calibration(both["scaled"][label == i], targets[label == i]),
            )
            for i, name in enumerate(names)
            if (label == i).any()
        ]

    statistics = task.statistics(logits, targets)
    if clusters_of(predictions) is None:  # whose intervals have formulas
        statistics = {name: statistic for name, statistic in statistics.items() if name not in ("top1", "auc")}
    drawn = drawn_intervals(statistics, predictions)
    measured, reliability = {}, {}
    for name, values in both.items():
        metrics = task.build_metric(thorough=True)
        metrics.update(values, targets)
        table = metrics.tables()["reliability"]
        selective = selective_metrics(maximum_probability(values), correct)
        measured[name] = plain(metrics.compute()) | plain(selective)
        measured[name] |= {"top1_low": accuracy.accuracy_low, "top1_high": accuracy.accuracy_high}
        measured[name] |= drawn
        rows = torch.cat([table, reliability_intervals(table)], dim=1).tolist()
        reliability[name] = [ReliabilityBin(row[0], *map(or_none, row[1:])) for row in rows]
    records = [
        ClassRecord(
            **vars(_accuracy(correct[targets == k])),
            name=name,
            group=groups[k],
            predicted=_as_predicted(predicted == k, both, targets, correct),
            rest=_against_the_rest(probs[finite, k], targets[finite] == k, predicted[finite] == k),
        )
        for k, name in enumerate(classes)
    ]
    areas = [record.rest.auc for record in records if record.rest.auc is not None]
    for found in measured.values():
        found["macro_auc"] = sum(areas) / len(areas) if areas else None
    features = predictions.required_features()
    usable = features.isfinite().all(dim=1)
    return SplitReport(
        **vars(accuracy),
        raw=measured["raw"],
        scaled=measured["scaled"],
        normalized_logit=plain(selective_metrics(normalized_maximum_logit(logits), correct)),
        reliability=reliability,
        groups=subsets(groups),
        modalities=subsets([name.split("/")[0] for name in groups]),
        classes=records,
        confused=_confused_pairs(predicted, targets, classes, groups),
        errors=_confident_errors(predictions, classes, predicted, both),
        embeddings=plain(embedding_metrics(features[usable], targets[usable])),
    )


def report_soft_labels(
    soft_labels: Tensor, classes: list[str], groups: list[str], *, count: int = 3
) -> SoftLabelReport:
    """Return what soft labels say of the classes.

    Args:
        soft_labels: Rows are true classes `[K, K]`.
        classes: Label of each class.
        groups: Modality and anatomy of each class.
        count: Neighbours of each class.
    """
    soft_labels = soft_labels.double()
    off = soft_labels - soft_labels.diagonal().diag()
    group = torch.tensor([groups.index(name) for name in groups])
    same = (group[:, None] == group) & ~torch.eye(len(classes), dtype=torch.bool)
    nearest = off.topk(min(count, len(classes) - 1), dim=1)
    uniform = same.sum() / (len(classes) * (len(classes) - 1))
    rows = [
        SoftLabel(
            name=name,
            group=groups[k],
            own=float(soft_labels[k, k]),
            neighbours=[
                Neighbour(classes[j], groups[j], probability)
                for probability, j in zip(nearest.values[k].tolist(), nearest.indices[k].tolist(), strict=True)
            ],
        )
        for k, name in enumerate(classes)
    ]
    return SoftLabelReport(or_none(off[same].sum() / off.sum()), or_none(uniform), rows)


def _accuracy(correct: Tensor) -> Accuracy:
    """Return number of images, accuracy and its 95 % interval (Wilson)."""
    count = len(correct)
    if count == 0:
        return Accuracy(0, None, None, None)
    accuracy = float(correct.double().mean())
    ((low, high),) = reliability_intervals(torch.tensor([[count, accuracy, accuracy]], dtype=torch.float64)).tolist()
    return Accuracy(count, accuracy, low, high)


def _calibration(logits: Tensor, targets: Tensor) -> Calibration:
    """Return mean confidence and the ECE with its interval and null."""
    histogram = CalibrationHistogram()
    histogram.update(logits, targets)
    count, confidence, _ = histogram.bins.sum(dim=0)
    ece = calibration_errors(histogram.bins)["ece"]
    return Calibration(**plain({"mean_confidence": confidence / count, "ece": ece, **ece_noise(histogram.bins)}))


def _against_the_rest(score: Tensor, positive: Tensor, predicted: Tensor) -> AgainstTheRest:
    """Return how well a class is told from all others, by its probability and by what is predicted."""
    area = auc(score.numpy(), positive.numpy())
    counts = (~positive).sum(), predicted.sum(), (~predicted).sum()
    right = (~positive & ~predicted).sum(), (positive & predicted).sum(), (~positive & ~predicted).sum()
    specificity, ppv, npv = (or_none(hits / of) if of else None for hits, of in zip(right, counts, strict=True))
    return AgainstTheRest(or_none(area.value), or_none(area.low), or_none(area.high), specificity, ppv, npv)


def _as_predicted(chosen: Tensor, both: dict[str, Tensor], targets: Tensor, correct: Tensor) -> AsPredicted:
    """Return how many images a class is predicted for, the fraction that is right, and calibration of these images."""
    count = int(chosen.sum())
    if count == 0:
        return AsPredicted(0)
    calibration = {name: _calibration(values[chosen], targets[chosen]) for name, values in both.items()}
    return AsPredicted(count, float(correct[chosen].double().mean()), **calibration)


def _confused_pairs(predicted: Tensor, targets: Tensor, classes: list[str], groups: list[str]) -> list[ConfusedPair]:
    """Return the most frequent errors, with the share of the true class's images that they are."""
    wrong = (predicted != targets) & (predicted >= 0)
    pairs = Counter(zip(targets[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    sizes = targets.bincount(minlength=len(classes)).tolist()
    ordered = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:PAIRS_SHOWN]
    return [
        ConfusedPair(
            true=classes[true],
            true_group=groups[true],
            predicted=classes[guess],
            predicted_group=groups[guess],
            images=count,
            share=count / sizes[true],
            reverse=pairs[guess, true],
        )
        for (true, guess), count in ordered
    ]


def _confident_errors(
    predictions: Predicted, classes: list[str], predicted: Tensor, both: dict[str, Tensor]
) -> list[ConfidentError]:
    """Return the errors of the highest confidence; of equal ones, the earlier in the data set."""
    wrong = ((predicted != predictions.targets) & (predicted >= 0)).nonzero().squeeze(1)
    probs = {name: values[wrong].double().softmax(dim=1) for name, values in both.items()}
    order = probs["raw"].amax(dim=1).argsort(descending=True, stable=True)[:ERRORS_SHOWN]
    return [
        ConfidentError(
            index=int(predictions.indices[wrong[i]]),
            sample_id=predictions.sample_ids[wrong[i]],
            true=classes[predictions.targets[wrong[i]]],
            predicted=classes[predicted[wrong[i]]],
            confidence=float(probs["raw"][i].max()),
            confidence_scaled=float(probs["scaled"][i].max()),
            probability_of_true=float(probs["raw"][i, predictions.targets[wrong[i]]]),
        )
        for i in order.tolist()
    ]
