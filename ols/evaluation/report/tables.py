"""Findings as text: the rows of tables, and sentences."""

from pathlib import Path
from typing import Any

from ols.evaluation.report.findings import Findings

WORST = 10
WORST_MIN_COUNT = 10  # images that a class is predicted for, to be among the worst calibrated

# Rows of tables: key, label, format, what is better, and what it is.
SELECTIVE = [
    ("aurc", "AURC", "number", "lower", "area under risk against coverage"),
    ("e_aurc", "E-AURC", "number", "lower", "above what the best ordering of the same errors gives"),
    ("failure_auroc", "failure AUROC", "number", "higher", "right ranked above wrong"),
    ("coverage_at_risk_1", "coverage at 1 % risk", "percent", "higher", ""),
    ("coverage_at_risk_5", "coverage at 5 % risk", "percent", "higher", ""),
]
HEADLINE = {
    "Accuracy": [
        ("top1", "Top-1", "percent", "higher", ""),
        ("top5", "Top-5", "percent", "higher", ""),
        ("balanced_accuracy", "balanced accuracy", "percent", "higher", "mean over the classes that occur"),
        ("macro_f1", "macro F1", "percent", "higher", "mean over the classes that occur"),
    ],
    "Calibration": [
        ("ece", "ECE", "number", "lower", "15 bins of equal width"),
        ("overconfidence", "overconfidence", "number", "lower", "part of the ECE where confidence is above accuracy"),
        ("underconfidence", "underconfidence", "number", "lower", "part of the ECE where it is below"),
        ("ece_equal_mass", "ECE, equal mass", "number", "lower", "15 bins of equally many images"),
        ("ece_classwise", "ECE, class-wise", "number", "lower", "mean over classes, of every class's probability"),
        ("ece_debiased", "debiased calibration error", "number", "lower", "l2, Kumar et al. 2019"),
        ("smooth_ece", "SmoothECE", "number", "lower", "no bins"),
        ("mce", "MCE", "number", "lower", "largest gap of a bin of at least 10 images"),
        ("mean_confidence", "mean confidence", "percent", "", ""),
        ("mean_confidence_on_errors", "mean confidence on errors", "percent", "lower", ""),
    ],
    "Selective prediction": SELECTIVE,
    "Probabilities": [
        ("nll", "NLL", "number", "lower", "nats"),
        ("brier", "Brier score", "number", "lower", "over all classes, at most 2"),
        ("brier_reliability", "top-label Brier, reliability", "number", "lower", "what calibration could remove"),
        (
            "brier_resolution",
            "top-label Brier, resolution",
            "number",
            "higher",
            "how far it sorts right from wrong",
        ),
    ],
}

EMBEDDINGS = [
    ("knn_accuracy", "kNN accuracy", "percent", "higher", "leave one out, 10 neighbours"),
    ("silhouette", "silhouette", "number", "higher", "in [-1, 1]"),
    ("inter_class_separation", "separation of classes", "number", "higher", "over the variance inside them"),
    ("intra_class_variance", "variance inside classes", "number", "", "squared feature units"),
]


def worst_by_accuracy(classes: list[Findings]) -> list[Findings]:
    """Return the ten classes of the lowest accuracy, of those that occur; of equal ones, the larger first."""
    occurring = [record for record in classes if record["images"]]
    return sorted(occurring, key=lambda record: (record["accuracy"], -record["images"]))[:WORST]


def worst_by_calibration(classes: list[Findings]) -> list[Findings]:
    """Return the ten classes whose raw ECE is furthest above its null, of those predicted for ten images or more."""

    def excess(record: Findings) -> float:
        return record["predicted"]["raw"]["ece"] - record["predicted"]["raw"]["ece_null"]

    predicted = [record for record in classes if record["predicted"]["images"] >= WORST_MIN_COUNT]
    return sorted(predicted, key=excess, reverse=True)[:WORST]


def group_rows(found: Findings) -> list[Findings]:
    """Return each modality, followed by its groups, but for a group that is a modality itself."""
    rows = []
    for modality in found["modalities"]:
        rows += [modality, *(g for g in found["groups"] if g["group"].startswith(f"{modality['modality']}/"))]
    return rows


def table_row(columns: list[Findings], key: str, label: str, form: str, better: str, note: str) -> dict[str, Any]:
    """Return a row of figures as text; an accuracy and an ECE do not stand without what belongs to them."""
    cells = []
    for values in columns:
        below = []
        if key == "top1":
            below = [f"{percent(values['top1_low'])} to {percent(values['top1_high'])}"]
        if key == "ece":
            below = [
                f"{number(values['ece_low'])} to {number(values['ece_high'])}",
                f"null {number(values['ece_null'])}, N = {values['count']:,.0f}",
            ]
        cells.append({"value": (percent if form == "percent" else number)(values[key]), "below": below})
    return {"label": label, "arrow": {"higher": "↑", "lower": "↓", "": ""}[better], "note": note, "cells": cells}


def facts(report: Findings) -> list[str]:
    """Return what the report is of, in a few words each."""
    loss = report["loss"] or {}
    options = ", ".join(f"{key} {value}" for key, value in loss.items() if key != "name" and value is not None)
    environment = report["conditions"]["predictions"][report["shown"]]
    return [
        fact
        for fact in (
            report["architecture"],
            loss.get("name", "") + (f" ({options})" if options else ""),
            f"seed {report['seed']}" if report["seed"] is not None else "",
            f"epoch {report['epoch']}" if report["epoch"] is not None else "",
            f"{report['preprocessing']['image_size']} px",
            Path(environment["data"]).name,
            environment["device"],
            f"torch {environment['versions']['torch']}",
            environment["date"][:10],
            f"commit {environment['commit'][:7]}" if environment["commit"] else "",
        )
        if fact
    ]


def sentences(report: Findings) -> list[str]:
    """Return what the figures of the split that is shown amount to."""
    found = report["splits"][report["shown"]]
    said = []
    for name, words in (("raw", "Raw confidence"), ("scaled", "Scaled confidence")):
        values = found[name]
        if not values["count"]:
            continue
        direction = "too high" if values["overconfidence"] > values["underconfidence"] else "too low"
        if values["ece_low"] > 0:
            verdict = f"is miscalibrated, mostly {direction}"
        else:
            verdict = "cannot be told from perfect calibration"
        said.append(f"{words} {verdict}: {ece_sentence(values)}")
    temperature = report["temperature"]
    if temperature["failure"]:
        said.append(f"No temperature fits, the scaled figures repeat the raw ones: {temperature['failure']}.")
    elif temperature["low"] <= 1 <= temperature["high"]:
        said.append("The interval of the temperature holds 1: scaling is not shown to change anything.")
    worst = min(found["groups"], key=lambda record: record["accuracy"])
    said.append(
        f"The group of the lowest accuracy is {worst['group']}: {percent(worst['accuracy'])} "
        f"({percent(worst['accuracy_low'])} to {percent(worst['accuracy_high'])}) of {worst['images']:,} images."
    )
    if found["raw"]["nonfinite"]:
        said.append(f"{found['raw']['nonfinite']:.0f} images had non-finite logits: errors that no ECE or NLL counts.")
    return said


def ece_sentence(values: Findings) -> str:
    """Return an ECE with all that belongs to it."""
    return (
        f"ECE {number(values['ece'])} ({number(values['ece_low'])} to {number(values['ece_high'])}), "
        f"null {number(values['ece_null'])}, N = {values['count']:,.0f}."
    )


def percent(value: float | None) -> str:
    """Return a fraction in percent."""
    return "n/a" if value is None else f"{value:.1%}"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with a fixed number of digits."""
    return "n/a" if value is None else f"{value:.{digits}f}"
