"""What each measure is, said once: what it is called, which way is better, and how it is printed.

Tables, reports, the choice of an epoch and comparisons of runs look a measure up here by its name. Importing this
module loads neither torch nor anything else.
"""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Measure:
    """A number that says what a model is worth, or how it behaves.

    Args:
        label: What tables call it.
        higher_is_better: Which way is better; None where neither is.
        percent: Whether it is a fraction that tables print in percent.
        whole: Whether it is a number of things.
        scaled: Whether it is taken of logits divided by a temperature; None where that does not change it.
        note: What a reader may not know, such as its unit or how it is estimated.
        interval: Whether every evaluation gives its 95 % interval, as `NAME_low` and `NAME_high`.
    """

    label: str
    higher_is_better: bool | None
    percent: bool = False
    whole: bool = False
    scaled: bool | None = None
    note: str = ""
    interval: bool = False

    @property
    def arrow(self) -> str:
        """An arrow to where better is; empty where neither way is."""
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]

    def is_better(self, value: float, than: float) -> bool:
        """Return whether a value is better than another; every number is better than NaN, and NaN than nothing.

        Raises:
            ValueError: Neither way is better.
        """
        if self.higher_is_better is None:
            raise ValueError(f"neither way is better of {self.label}")
        if math.isnan(value) or math.isnan(than):
            return math.isnan(than) and not math.isnan(value)
        return value > than if self.higher_is_better else value < than

    def text(self, value: float | None, *, digits: int = 4) -> str:
        """Return a value as a table prints it: a fraction in percent with two digits less; None and NaN are n/a."""
        if value is None or math.isnan(value):
            return "n/a"
        if self.whole:
            return f"{value:,.0f}"
        return f"{value:.{max(digits - 2, 0)}%}" if self.percent else f"{value:.{digits}f}"


_OCCURRING = "mean over the classes that occur"

MEASURES = {
    # Of predictions
    "top1": Measure("Top-1", True, percent=True),
    "top5": Measure("Top-5", True, percent=True),
    "balanced_accuracy": Measure("balanced accuracy", True, percent=True, note=_OCCURRING),
    "macro_f1": Measure("macro F1", True, percent=True, note=_OCCURRING),
    "sensitivity": Measure("sensitivity", True, percent=True, note="positives that are predicted as such"),
    "specificity": Measure("specificity", True, percent=True, note="negatives that are predicted as such"),
    # Of the order that a score of the positive class gives
    "auc": Measure("AUC", True, note="probability that a positive is scored above a negative", interval=True),
    "macro_auc": Measure("AUC, one against the rest", True, note=_OCCURRING),
    "average_precision": Measure("average precision", True, note="precision over recall; chance is the prevalence"),
    "sensitivity_at_90_specificity": Measure("sensitivity at 90 % specificity", True, percent=True),
    # Of labels, each by itself
    "mean_auc": Measure("mean AUC", True, note="mean over the labels with 10 positives and 10 negatives or more"),
    "mean_average_precision": Measure("mean average precision", True, note="mean over the same labels"),
    "mean_sensitivity_at_90_specificity": Measure(
        "mean sensitivity at 90 % specificity", True, percent=True, note="mean over the same labels"
    ),
    "labels_in_mean": Measure(
        "labels in the mean", None, whole=True, note="those with 10 positives and 10 negatives or more"
    ),
    # Of numbers
    "mae": Measure("MAE", False, note="in the unit of the target", interval=True),
    "rmse": Measure("RMSE", False, note="in the unit of the target"),
    "r2": Measure("R2", True, note="1 is perfect, 0 is predicting the mean of these very images"),
    "bias": Measure("bias", None, note="mean of prediction less target"),
    "mae_of_mean": Measure("MAE of the mean", None, note="of predicting the mean of the training images"),
    "rmse_of_mean": Measure("RMSE of the mean", None, note="of predicting the mean of the training images"),
    # Of masks
    "dice": Measure("Dice", True, note="mean over the images with a mask"),
    "dice_q25": Measure("Dice, lower quartile", True),
    "dice_median": Measure("Dice, median", True),
    "dice_q75": Measure("Dice, upper quartile", True),
    "iou": Measure("IoU", True, note="mean over the images with a mask"),
    "iou_q25": Measure("IoU, lower quartile", True),
    "iou_median": Measure("IoU, median", True),
    "iou_q75": Measure("IoU, upper quartile", True),
    "empty_masks": Measure("empty masks", None, whole=True, note="images without foreground, outside the means"),
    "empty_found": Measure("found where there is none", False, percent=True, note="of the empty masks"),
    # Of probabilities
    "nll": Measure("NLL", False, scaled=False, note="nats"),
    "brier": Measure("Brier score", False, scaled=False, note="over all classes, at most 2"),
    "brier_positive": Measure("Brier score", False, scaled=False, note="of the positive class, at most 1"),
    "brier_top_label": Measure("top-label Brier score", False, scaled=False, note="of the confidence, at most 1"),
    "brier_reliability": Measure(
        "top-label Brier, reliability", False, scaled=False, note="what calibration could remove"
    ),
    "brier_resolution": Measure(
        "top-label Brier, resolution", True, scaled=False, note="how far it sorts right from wrong"
    ),
    "mean_confidence": Measure("mean confidence", None, percent=True, scaled=False),
    "mean_confidence_on_errors": Measure("mean confidence on errors", False, percent=True, scaled=False),
    # Of calibration
    "ece": Measure("ECE", False, scaled=False, note="15 bins of equal width", interval=True),
    "overconfidence": Measure(
        "overconfidence", False, scaled=False, note="part of the ECE where confidence is above accuracy"
    ),
    "underconfidence": Measure("underconfidence", False, scaled=False, note="part of the ECE where it is below"),
    "ece_equal_mass": Measure("ECE, equal mass", False, scaled=False, note="15 bins of equally many images"),
    "ece_classwise": Measure(
        "ECE, class-wise", False, scaled=False, note="mean over classes, of every class's probability"
    ),
    "ece_debiased": Measure("debiased calibration error", False, scaled=False, note="l2, Kumar et al. 2019"),
    "smooth_ece": Measure("SmoothECE", False, scaled=False, note="no bins"),
    "mce": Measure("MCE", False, scaled=False, note="largest gap of a bin of at least 10 images"),
    # Of selective prediction
    "aurc": Measure("AURC", False, scaled=False, note="area under risk against coverage"),
    "e_aurc": Measure("E-AURC", False, scaled=False, note="above what the best ordering of the same errors gives"),
    "failure_auroc": Measure("failure AUROC", True, scaled=False, note="right ranked above wrong"),
    "coverage_at_risk_1": Measure("coverage at 1 % risk", True, percent=True, scaled=False),
    "coverage_at_risk_5": Measure("coverage at 5 % risk", True, percent=True, scaled=False),
    # Of the penultimate features
    "knn_accuracy": Measure("kNN accuracy", True, percent=True, note="leave one out, 10 neighbours"),
    "silhouette": Measure("silhouette", True, note="in [-1, 1]"),
    "inter_class_separation": Measure("class separation", True, note="over the variance inside classes"),
    "intra_class_variance": Measure("variance inside classes", None, note="squared feature units"),
    # Against a known P(label | image)
    "posterior_kl": Measure("KL from the truth", False, scaled=False, note="nats"),
    "confidence_error": Measure("confidence less truth, absolute", False, scaled=False),
}
"""Every measure by its name. Where dividing logits by a temperature changes one, `NAME_scaled` is its value after."""

MEASURES |= {
    f"{name}_scaled": replace(measure, label=f"{measure.label}, scaled", scaled=True)
    for name, measure in MEASURES.items()
    if measure.scaled is False
}


def find_measure(name: str) -> Measure:
    """Return what the measure of a name is.

    Raises:
        ValueError: There is none; the message has the known ones.
    """
    if name not in MEASURES:
        raise ValueError(f"unknown measure {name!r}; known: {', '.join(MEASURES)}")
    return MEASURES[name]
