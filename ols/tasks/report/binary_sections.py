"""How well positives are told from negatives, over all thresholds."""

from numpy.typing import NDArray

from ols.figures import precision_recall_curve, roc_curve
from ols.metrics.auc import auc, average_precision, roc_points, undefined_because
from ols.metrics.curves import precision_recall_band, precision_recall_points, roc_band
from ols.tasks.report.intervals import clusters_of
from ols.tasks.report.parts import Drawing, Drawings, Part, Predicted, Section, Text
from ols.tasks.report.wording import number

RESAMPLES = 500


def curve_sections(score: NDArray, is_positive: NDArray, predicted: Predicted, *, positive: str) -> list[Section]:
    """Return a section of the ROC and the precision-recall curve with their bands.

    Args:
        score: Of each image `[N]`, higher for what is taken for positive.
        is_positive: Which images are positive `[N]`.
        predicted: The images; those of a patient are drawn together.
        positive: Label of the positive class.
    """
    introduction = (
        f"Over all thresholds on the score of the positive class, {positive}: sensitivity against the rate of false "
        "alarms, and precision against recall. Dividing logits by a temperature does not change them."
    )
    parts: list[Part] = [Text(introduction, "introduction")]
    if reason := undefined_because(is_positive):
        parts.append(Text(f"There are no curves, as {reason}."))
        return [Section("roc", "ROC and precision", parts)]
    clusters = clusters_of(predicted)
    drawn = "images" if clusters is None else f"{len(set(predicted.patients)):,} patients, with all their images,"
    roc = roc_curve(
        roc_points(score, is_positive),
        title="",
        band=roc_band(score, is_positive, resamples=RESAMPLES, clusters=clusters),
    )
    precision = precision_recall_curve(
        precision_recall_points(score, is_positive),
        prevalence=float(is_positive.mean()),
        title="",
        band=precision_recall_band(score, is_positive, resamples=RESAMPLES, clusters=clusters),
    )
    area, average = auc(score, is_positive).value, average_precision(score, is_positive)
    bands = f"The band holds 95 % of the curves of {drawn} drawn anew, at each place by itself."
    parts.append(
        Drawings(
            [
                Drawing(roc, "ROC curve", f"ROC curve, AUC {number(area)}. {bands}"),
                Drawing(
                    precision,
                    "Precision against recall",
                    f"Precision against recall, average precision {number(average)}; chance is the prevalence, "
                    f"{number(float(is_positive.mean()))}. {bands}",
                ),
            ]
        )
    )
    return [Section("roc", "ROC and precision", parts)]
