"""Measures of images that count a given number of times each, so that images can be drawn anew thousands of times.

A streaming metric reads every prediction once. A bootstrap needs the same measures of thousands of samples of the same
images, and all that changes between them is how often an image counts. So everything that does not depend on these
counts is computed once, and the rest is done for many samples at a time.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ols.metrics.arguments import class_indices, usable_rows
from ols.metrics.auc import auc_of_counts
from ols.metrics.calibration_error import ECE_BINS
from ols.metrics.resampling import mean_of_counts
from ols.metrics.selective import is_correct

Counted = Callable[[NDArray], NDArray]
"""From how often each image counts, float64 `[R, N]`, to a measure of each sample `[R]`."""


def weighted_measures(logits: Tensor, targets: Tensor, names: Sequence[str]) -> dict[str, Counted]:
    """Return a function for each measure: from how often each image counts, to the measure of each sample.

    With counts of one, each is what the streaming metric of that name gives, but computed in float64. Logits that are
    no distribution are an error in accuracies and in the order of scores, have no part in the NLL, and must not be
    there for ECE and AURC.

    - `top1`; `top5`, which counts equal logits against the target.
    - `balanced_accuracy`, `macro_f1`, `macro_auc`: the mean recall, F1 and AUC against the rest of the classes that
      occur in a sample.
    - `nll` (nats), infinite where the class of an image is masked.
    - `ece` with 15 right-closed bins of equal width (Guo et al. 2017).
    - `aurc` (Geifman et al. 2019): the mean error of the k most confident images over k = 1..N. Images of equal
      confidence, copies of an image among them, come in random order: it is the expectation over their orders.
    - `auc` of two classes: the probability that an image of class 1 is scored above one of class 0, ties half (Bamber
      1975), where the score is logit 1 less logit 0. NaN in a sample that lacks a class.

    Args:
        logits: Logits `[N, K]`.
        targets: Class indices `[N]`, of any integer type.
        names: Measures, which are named in this order in what is returned.

    Raises:
        ValueError: A measure is unknown, or `auc` is asked for where there are not two classes.
    """
    unknown = [name for name in names if name not in WEIGHTED]
    if unknown:
        raise ValueError(f"no measure of weighted images {unknown[0]!r}; known: {', '.join(WEIGHTED)}")
    logits, targets = logits.double().cpu(), class_indices(targets, "targets").cpu()
    return {name: WEIGHTED[name](logits, targets) for name in names}


def _top1(logits: Tensor, targets: Tensor) -> Counted:
    return mean_of_counts(_correct(logits, targets))


def _top5(logits: Tensor, targets: Tensor) -> Counted:
    as_high = (logits >= logits.gather(1, targets[:, None])).sum(1)  # the target itself is one
    return mean_of_counts(((as_high <= 5) & usable_rows(logits)).double().numpy())


def _balanced_accuracy(logits: Tensor, targets: Tensor) -> Counted:
    return _mean_of_classes(logits, targets, lambda hits, true, found: hits / true)


def _macro_f1(logits: Tensor, targets: Tensor) -> Counted:
    return _mean_of_classes(logits, targets, lambda hits, true, found: 2 * hits / (true + found))


def _mean_of_classes(logits: Tensor, targets: Tensor, of_class: Callable[..., NDArray]) -> Counted:
    """Return the mean over the classes that occur of a function of hits, images and predictions `[R, K]`."""
    usable = usable_rows(logits)
    is_true, is_found = (F.one_hot(x, logits.shape[1]).double() for x in (targets, logits.argmax(1)))  # [N, K]
    is_found *= usable[:, None]
    parts = [part.numpy() for part in (is_true * is_found, is_true, is_found)]

    def mean(counts: NDArray) -> NDArray:
        hits, true, found = (counts @ part for part in parts)
        with np.errstate(invalid="ignore"):
            return np.where(true > 0, of_class(hits, true, found), 0).sum(1) / (true > 0).sum(1)

    return mean


def _macro_auc(logits: Tensor, targets: Tensor) -> Counted:
    usable, scores = usable_rows(logits), logits.log_softmax(1)

    def macro_auc(counts: NDArray) -> NDArray:
        areas = []
        for k in range(logits.shape[1]):
            positive = targets == k
            wrong = torch.where(positive, -torch.inf, torch.inf).double()
            areas.append(auc_of_counts(torch.where(usable, scores[:, k], wrong), positive, counts))
        known = ~np.isnan(areas)
        with np.errstate(invalid="ignore"):
            return np.where(known, areas, 0).sum(0) / known.sum(0)

    return macro_auc


def _nll(logits: Tensor, targets: Tensor) -> Counted:
    return mean_of_counts(-logits.log_softmax(1).gather(1, targets[:, None]).squeeze(1).numpy())


def _ece(logits: Tensor, targets: Tensor) -> Counted:
    confidence = _confidence(logits)
    bins = np.eye(ECE_BINS)[np.maximum(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0)]
    gaps = bins * (confidence - _correct(logits, targets))[:, None]  # [N, 15]
    return lambda counts: np.abs(counts @ gaps).sum(1) / counts.sum(1)


def _aurc(logits: Tensor, targets: Tensor) -> Counted:
    order, starts = _ranks(_confidence(logits))
    wrong = 1 - _correct(logits, targets)[order]

    def aurc(counts: NDArray) -> NDArray:
        # A run of m equal confidences with k errors after W images with E errors: sum over j = 1..m of
        # (E + j k / m) / (W + j), which harmonic numbers give in one step.
        m = np.add.reduceat(counts[:, order], starts, axis=1)
        k = np.add.reduceat(counts[:, order] * wrong, starts, axis=1)
        upto, errors = m.cumsum(1), k.cumsum(1) - k
        most = int(upto[:, -1].max(initial=0))  # copies may be more than the images
        harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, most + 1))])
        rate = np.divide(k, m, out=np.zeros_like(k), where=m > 0)
        reach = _at(harmonic, upto) - _at(harmonic, upto - m)
        return (k + (errors - rate * (upto - m)) * reach).sum(1) / counts.sum(1)

    return aurc


def _auc(logits: Tensor, targets: Tensor) -> Counted:
    if logits.shape[1] != 2:
        raise ValueError(f"auc is a measure of two classes, got {logits.shape[1]}")
    return lambda counts: auc_of_counts(logits[:, 1] - logits[:, 0], targets == 1, counts)


WEIGHTED: dict[str, Callable[[Tensor, Tensor], Counted]] = {
    "top1": _top1,
    "top5": _top5,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "macro_auc": _macro_auc,
    "auc": _auc,
    "nll": _nll,
    "ece": _ece,
    "aurc": _aurc,
}
"""What builds the function of a measure, from float64 logits `[N, K]` and class indices `[N]`."""


def _correct(logits: Tensor, targets: Tensor) -> NDArray:
    return is_correct(logits, targets).double().numpy()


def _confidence(logits: Tensor) -> NDArray:
    return logits.softmax(1).amax(1).clamp(max=1).numpy()


def _ranks(score: NDArray) -> tuple[NDArray, NDArray]:
    """Return the order from the highest score `[N]`, and where each run of equal scores starts in it `[P]`."""
    order = np.argsort(-score, kind="stable")
    return order, np.flatnonzero(np.diff(score[order], prepend=np.inf))


def _at(table: NDArray, index: NDArray) -> NDArray:
    return table[index.astype(np.int64)]
