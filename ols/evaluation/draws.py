"""Measures of a binary classifier as functions of how often each image counts, for intervals over patients."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ols.evaluation.folds import OutOfFold
from ols.evaluation.predictions import Predictions
from ols.metrics.auc import auc_of_counts
from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.calibration_error import ECE_BINS
from ols.metrics.calibration_noise import ece_noise
from ols.metrics.resampling import Statistic


@dataclass(frozen=True)
class BinaryOutputs:
    """What a binary classifier said of each image.

    Args:
        score: Logit of the positive class less that of the negative, float64 `[N]`.
        positive: Whether each image is positive, bool `[N]`.
        patients: What each belongs to, `[N]`.
        sample_ids: Name of each, `[N]`.
        folds: Number of the fold whose model said it, `[N]`; None where one model said all. Scores of two models need
            not be of one scale: the AUC is the mean of those within the folds, as an order across them says little.

    Raises:
        ValueError: A score is NaN.
    """

    score: NDArray
    positive: NDArray
    patients: NDArray
    sample_ids: list[str]
    folds: NDArray | None = None

    def __post_init__(self):
        if missing := int(np.isnan(self.score).sum()):
            raise ValueError(f"{missing} of {len(self.score)} scores are NaN")

    @classmethod
    def of(cls, predictions: Predictions, positive: str, *, folds: NDArray | None = None) -> "BinaryOutputs":
        """Take the outputs of a binary task, or those of one of several labels for the images where it is known.

        Args:
            predictions: Of two classes, or of several labels.
            positive: Label of the positive class, or one of the labels.
            folds: Number of the fold that each image was predicted in, `[N]`.

        Raises:
            ValueError: They are of neither, no class or label is of the name, or a score is NaN.
        """
        classes, logits = predictions.classes, predictions.logits.to(torch.float64).numpy()
        targets, known = predictions.targets.numpy(), np.full(len(logits), True)
        labels = targets.shape == logits.shape
        if logits.ndim != 2 or not (labels or (len(classes) == 2 and targets.ndim == 1)):
            raise ValueError(f"expected predictions of two classes or of labels, got {predictions.task} of {classes}")
        if positive not in classes:
            raise ValueError(f"no class is named {positive!r}; there are {', '.join(classes)}")
        number = classes.index(positive)
        if labels:
            score, is_positive, known = logits[:, number], targets[:, number] == 1, ~np.isnan(targets[:, number])
        else:
            score, is_positive = logits[:, number] - logits[:, 1 - number], targets == number
        return cls(
            score[known],
            is_positive[known],
            np.array(predictions.patients)[known],
            [name for name, is_known in zip(predictions.sample_ids, known, strict=True) if is_known],
            None if folds is None else folds[known],
        )

    @classmethod
    def of_folds(cls, found: OutOfFold, positive: str) -> "BinaryOutputs":
        """Take the outputs of all folds; arguments and errors as in `of`."""
        sizes = [len(fold.sample_ids) for fold in found.folds]
        return cls.of(found.pooled(), positive, folds=np.repeat(np.arange(len(sizes)), sizes))

    @classmethod
    def of_trainings(cls, found: Mapping[str, Predictions], positive: str) -> "BinaryOutputs":
        """Take the outputs of several trainings, such as those with other seeds, each on its own test images.

        An image that several have been tested on counts once for each, and belongs to its patient every time. The AUC
        is the mean over trainings; other measures are of all outputs together.

        Args:
            found: Predictions of two classes by the name of the training.
            positive: Label of the positive class.

        Raises:
            ValueError: As in `of`.
        """
        each = [cls.of(one, positive) for one in found.values()]
        return cls(
            np.concatenate([one.score for one in each]),
            np.concatenate([one.positive for one in each]),
            np.concatenate([one.patients for one in each]),
            [f"{name} of {training}" for training, one in zip(found, each, strict=True) for name in one.sample_ids],
            np.repeat(np.arange(len(each)), [len(one.score) for one in each]),
        )

    def in_order_of(self, sample_ids: list[str]) -> "BinaryOutputs":
        """Return the same outputs with the images in another order, those of one name in the order that they have.

        Raises:
            ValueError: They are of other images.
        """
        own, asked = (np.argsort(names, kind="stable") for names in (self.sample_ids, sample_ids))
        if sorted(self.sample_ids) != sorted(sample_ids):
            raise ValueError(f"predictions of other images: {len(own)} and {len(asked)} names differ")
        order = np.empty_like(own)
        order[asked] = own
        folds = None if self.folds is None else self.folds[order]
        return BinaryOutputs(self.score[order], self.positive[order], self.patients[order], list(sample_ids), folds)

    def measures(self) -> Mapping[str, Statistic]:
        """Return measures by name, each from counts float64 `[R, N]` to `[R]`; NaN where it is undefined.

        `auc`; `ece` of the top label in 15 bins of equal width; `confidence`, its mean, and by how much it
        is above the accuracy; `sensitivity` and `specificity` of the label that is predicted, the positive one above a
        probability of one half.
        """
        confidence = self._confidence()
        return {
            "auc": self._auc,
            "ece": self._ece,
            "confidence": lambda counts: _mean(confidence, counts),
            "confidence_less_accuracy": lambda counts: _mean(confidence - self._correct(), counts),
            "sensitivity": lambda counts: _mean(self.score > 0, counts * self.positive),
            "specificity": lambda counts: _mean(self.score <= 0, counts * ~self.positive),
        }

    def ece_null(self) -> float:
        """Return the ECE that perfect calibration would show with as many images of these confidences."""
        half, right = torch.from_numpy(self.score) / 2, torch.from_numpy(self.positive).long()
        histogram = CalibrationHistogram()
        histogram.update(torch.stack([-half, half], dim=1), right)
        return float(ece_noise(histogram.bins)["ece_null"])

    def _auc(self, counts: NDArray) -> NDArray:
        if self.folds is None:
            return auc_of_counts(self.score, self.positive, counts)
        inside = [self.folds == number for number in np.unique(self.folds)]
        each = [auc_of_counts(self.score[own], self.positive[own], counts[:, own]) for own in inside]
        return np.mean(each, axis=0)

    def _correct(self) -> NDArray:
        return (self.score > 0) == self.positive

    def _confidence(self) -> NDArray:
        return 1 / (1 + np.exp(-np.abs(self.score)))

    def _ece(self, counts: NDArray) -> NDArray:
        confidence, correct = self._confidence(), self._correct()
        member = np.eye(ECE_BINS)[np.ceil(confidence * ECE_BINS).astype(np.int64).clip(1) - 1]  # right-closed bins
        total = counts.sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.abs((counts * (confidence - correct)) @ member).sum(axis=1) / total


def _mean(values: NDArray, counts: NDArray) -> NDArray:
    with np.errstate(invalid="ignore"):
        return counts @ values.astype(np.float64) / counts.sum(axis=1)
