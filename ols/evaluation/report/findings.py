"""What the predictions of a split say: every figure of a report, from logits and labels alone."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from ols.evaluation.predictions import Predictions
from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.calibration_error import calibration_errors, reliability_intervals
from ols.metrics.calibration_noise import ece_noise
from ols.metrics.classification import ClassificationMetrics
from ols.metrics.embeddings import embedding_metrics
from ols.metrics.scaling import TemperatureScaling
from ols.metrics.selective import is_correct, maximum_probability, normalized_maximum_logit, selective_metrics
from ols.runs.trained_model import Trained

FORMAT = 1
ERRORS_SHOWN = 24
PAIRS_SHOWN = 20
BIN = ("images", "confidence", "accuracy", "accuracy_low", "accuracy_high")

Findings = dict[str, Any]
"""What JSON can hold."""


def build_report(
    trained: Trained, predictions: dict[str, Predictions], *, splits: list[str], conditions: dict[str, Any]
) -> Findings:
    """Return the whole report of a model.

    Args:
        trained: What the predictions are of.
        predictions: Of each split; those of `val` among them, which the temperature is fitted on.
        splits: What is reported; the last one is `shown` in full.
        conditions: Versions, device, date, commit of the report itself.
    """
    val = predictions["val"]
    temperature = temperature_findings(val)
    labels = None
    if trained.soft_labels is not None:
        labels = soft_label_findings(trained.soft_labels, val.classes, val.groups)
    return {
        "format": FORMAT,
        "name": trained.name,
        "architecture": trained.architecture,
        "epoch": trained.epoch,
        "seed": trained.config.get("seed"),
        "loss": trained.config.get("loss"),
        "preprocessing": vars(trained.preprocessing),
        "shown": splits[-1],
        "temperature": {"fitted_on": "val", **temperature},
        "splits": {split: split_findings(predictions[split], temperature["value"]) for split in reversed(splits)},
        "soft_labels": labels,
        "conditions": {"report": conditions, "predictions": {split: predictions[split].conditions for split in splits}},
    }


def temperature_findings(predictions: Predictions) -> Findings:
    """Fit a temperature to the predictions of a split that is neither train nor test.

    Returns:
        `images`, `value`, its interval `low` and `high`, and `failure`: None, or why no temperature fits, as where
        every prediction is right; `value` is 1 then.
    """
    finite = predictions.logits.isfinite().all(dim=1)
    found: Findings = {"images": int(finite.sum()), "value": 1.0, "low": None, "high": None, "failure": None}
    try:
        scaling = TemperatureScaling().fit(predictions.logits[finite], predictions.targets[finite])
    except ValueError as error:
        return found | {"failure": str(error)}
    low, high = scaling.interval
    return found | {"value": scaling.temperature, "low": low, "high": high}


def split_findings(predictions: Predictions, temperature: float) -> Findings:
    """Return what the predictions of a split say, raw and with their logits divided by a temperature.

    The accuracy of a class is that of its images. Its calibration is that of the images it is *predicted* for: given
    the true class, not even a perfectly calibrated model is calibrated. A group is what an image shows.

    Args:
        predictions: With features.
        temperature: Of another split.

    Returns:
        `images`, `accuracy` and its interval; `raw` and `scaled`: the metrics of all images, selective prediction by
        maximum probability, and `reliability`, of 15 bins the count, confidence, accuracy and its interval;
        `normalized_logit`: selective prediction by that score; `groups`, `modalities`, `classes`: a record of each;
        `confused`: the most frequent pairs; `errors`: the most confident ones; `embeddings`.
    """
    logits, targets = predictions.logits, predictions.targets
    classes, groups = predictions.classes, predictions.groups
    both = {"raw": logits, "scaled": logits / temperature}
    finite = logits.isfinite().all(dim=1)
    predicted = torch.where(finite, logits.nan_to_num().argmax(dim=1), -1)
    correct = is_correct(logits, targets)

    group_of = sorted(set(groups))
    group = torch.tensor([group_of.index(name) for name in groups])[targets]  # [N]
    modalities = [name.split("/")[0] for name in groups]
    modality_of = sorted(set(modalities))
    modality = torch.tensor([modality_of.index(name) for name in modalities])[targets]

    def subset(chosen: Tensor) -> Findings:
        return _accuracy(correct[chosen]) | {
            name: _calibration(values[chosen], targets[chosen]) for name, values in both.items()
        }

    found = _accuracy(correct)
    for name, values in both.items():
        metrics = ClassificationMetrics(len(classes), classwise=True)
        metrics.update(values, targets)
        selective = selective_metrics(maximum_probability(values), correct)
        found[name] = _plain(metrics.compute() | selective)
        table = metrics.reliability()
        found[name] |= {"top1_low": found["accuracy_low"], "top1_high": found["accuracy_high"]}
        rows = torch.cat([table, reliability_intervals(table)], dim=1).tolist()
        found[name]["reliability"] = [_plain(dict(zip(BIN, row, strict=True))) for row in rows]
    found["normalized_logit"] = _plain(selective_metrics(normalized_maximum_logit(logits), correct))
    found["groups"] = [{"group": name} | subset(group == i) for i, name in enumerate(group_of) if (group == i).any()]
    found["modalities"] = [
        {"modality": name} | subset(modality == i) for i, name in enumerate(modality_of) if (modality == i).any()
    ]
    found["classes"] = [
        {"class": name, "group": groups[k]}
        | _accuracy(correct[targets == k])
        | {"predicted": _as_predicted(predicted == k, both, targets, correct)}
        for k, name in enumerate(classes)
    ]
    found["confused"] = _confused_pairs(predicted, targets, classes, groups)
    found["errors"] = _confident_errors(predictions, predicted, both)
    usable = predictions.features.isfinite().all(dim=1)
    found["embeddings"] = _plain(embedding_metrics(predictions.features[usable], targets[usable]))
    return found


def soft_label_findings(soft_labels: Tensor, classes: list[str], groups: list[str], *, count: int = 3) -> Findings:
    """Return what soft labels say of the classes.

    Args:
        soft_labels: Rows are true classes `[K, K]`.
        classes: Label of each class.
        groups: Modality and anatomy of each class.
        count: Neighbours of each class.

    Returns:
        `classes`: of each class its `own` probability and its nearest `neighbours`; `within_group`: the share of the
        probability off the diagonal that lies inside the group of its class, and `within_group_uniform`: the share
        that lay there if all wrong classes were equal.
    """
    soft_labels = soft_labels.double()
    off = soft_labels - soft_labels.diagonal().diag()
    group = torch.tensor([groups.index(name) for name in groups])
    same = (group[:, None] == group) & ~torch.eye(len(classes), dtype=torch.bool)
    nearest = off.topk(min(count, len(classes) - 1), dim=1)
    uniform = same.sum() / (len(classes) * (len(classes) - 1))
    return {
        **_plain({"within_group": off[same].sum() / off.sum(), "within_group_uniform": uniform}),
        "classes": [
            {
                "class": name,
                "group": groups[k],
                "own": float(soft_labels[k, k]),
                "neighbours": [
                    {"class": classes[j], "group": groups[j], "probability": probability}
                    for probability, j in zip(nearest.values[k].tolist(), nearest.indices[k].tolist(), strict=True)
                ],
            }
            for k, name in enumerate(classes)
        ],
    }


def _accuracy(correct: Tensor) -> Findings:
    """Return number of images, accuracy and its 95 % interval (Wilson)."""
    count = len(correct)
    if count == 0:
        return {"images": 0, "accuracy": None, "accuracy_low": None, "accuracy_high": None}
    accuracy = float(correct.double().mean())
    ((low, high),) = reliability_intervals(torch.tensor([[count, accuracy, accuracy]], dtype=torch.float64)).tolist()
    return {"images": count, "accuracy": accuracy, "accuracy_low": low, "accuracy_high": high}


def _calibration(logits: Tensor, targets: Tensor) -> Findings:
    """Return mean confidence and the ECE with its interval and null."""
    histogram = CalibrationHistogram()
    histogram.update(logits, targets)
    count, confidence, _ = histogram.bins.sum(dim=0)
    ece = calibration_errors(histogram.bins)["ece"]
    return _plain({"mean_confidence": confidence / count, "ece": ece, **ece_noise(histogram.bins)})


def _as_predicted(chosen: Tensor, both: dict[str, Tensor], targets: Tensor, correct: Tensor) -> Findings:
    """Return how many images a class is predicted for, the fraction that is right, and calibration of these images."""
    count = int(chosen.sum())
    if count == 0:
        return {"images": 0}
    calibration = {name: _calibration(values[chosen], targets[chosen]) for name, values in both.items()}
    return {"images": count, "precision": float(correct[chosen].double().mean()), **calibration}


def _confused_pairs(predicted: Tensor, targets: Tensor, classes: list[str], groups: list[str]) -> list[Findings]:
    """Return the most frequent errors, with the share of the true class's images that they are."""
    wrong = (predicted != targets) & (predicted >= 0)
    pairs = Counter(zip(targets[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    sizes = targets.bincount(minlength=len(classes)).tolist()
    ordered = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:PAIRS_SHOWN]
    return [
        {
            "true": classes[true],
            "true_group": groups[true],
            "predicted": classes[guess],
            "predicted_group": groups[guess],
            "images": count,
            "share": count / sizes[true],
            "reverse": pairs[guess, true],
        }
        for (true, guess), count in ordered
    ]


def _confident_errors(predictions: Predictions, predicted: Tensor, both: dict[str, Tensor]) -> list[Findings]:
    """Return the errors of the highest confidence; of equal ones, the earlier in the data set."""
    wrong = ((predicted != predictions.targets) & (predicted >= 0)).nonzero().squeeze(1)
    probs = {name: values[wrong].double().softmax(dim=1) for name, values in both.items()}
    order = probs["raw"].amax(dim=1).argsort(descending=True, stable=True)[:ERRORS_SHOWN]
    return [
        {
            "index": int(predictions.indices[wrong[i]]),
            "sample_id": predictions.sample_ids[wrong[i]],
            "true": predictions.classes[predictions.targets[wrong[i]]],
            "predicted": predictions.classes[predicted[wrong[i]]],
            "confidence": float(probs["raw"][i].max()),
            "confidence_scaled": float(probs["scaled"][i].max()),
            "probability_of_true": float(probs["raw"][i, predictions.targets[wrong[i]]]),
        }
        for i in order.tolist()
    ]


def _plain(values: dict[str, Any]) -> Findings:
    """Return scalars as floats; what is not finite becomes None, which JSON can hold."""
    floats = {name: float(value) for name, value in values.items()}
    return {name: value if abs(value) < float("inf") else None for name, value in floats.items()}
