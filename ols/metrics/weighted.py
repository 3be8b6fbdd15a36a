"""Measures of images that count a given number of times each, so that images can be drawn anew thousands of times.

A streaming metric reads every prediction once. A bootstrap needs the same measures of thousands of samples of the same
images, and all that changes between them is how often an image counts. So everything that does not depend on these
counts is computed once, and the rest is done for many samples at a time.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ols.metrics.arguments import class_indices
from ols.metrics.calibration_error import ECE_BINS

Counted = Callable[[NDArray], NDArray]
"""From how often each image counts, float64 `[R, N]`, to a measure of each sample `[R]`."""


def weighted_measures(logits: Tensor, targets: Tensor, names: Sequence[str]) -> dict[str, Counted]:
    """Return a function for each measure: from how often each image counts, to the measure of each sample.

    With counts of one, each is what the streaming metric of that name gives, but computed in float64:

    - `top1`; `top5`, which counts equal logits against the target.
    - `balanced_accuracy`: the mean recall of the classes that occur in a sample.
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
    return _mean(_correct(logits, targets))


def _top5(logits: Tensor, targets: Tensor) -> Counted:
    as_high = (logits >= logits.gather(1, targets[:, None])).sum(1)  # the target itself is one
    return _mean((as_high <= 5).double().numpy())


def _balanced_accuracy(logits: Tensor, targets: Tensor) -> Counted:
    one_hot = F.one_hot(targets, logits.shape[1]).double().numpy()  # [N, K]
    correct = _correct(logits, targets)

    def balanced_accuracy(counts: NDArray) -> NDArray:
        of_class, right = counts @ one_hot, (counts * correct) @ one_hot  # [R, K]
        recall = np.divide(right, of_class, out=np.zeros_like(right), where=of_class > 0)
        return recall.sum(1) / (of_class > 0).sum(1)

    return balanced_accuracy


def _nll(logits: Tensor, targets: Tensor) -> Counted:
    values = -logits.log_softmax(1).gather(1, targets[:, None]).squeeze(1).numpy()
    impossible = np.isinf(values)  # of a target that is masked; where it does not count, it must not give 0 x infinity
    mean = _mean(np.where(impossible, 0, values))
    return lambda counts: np.where(counts @ impossible > 0, np.inf, mean(counts))


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
    order, starts = _ranks((logits[:, 1] - logits[:, 0]).numpy())
    positive = (targets == 1).double().numpy()[order]

    def auc(counts: NDArray) -> NDArray:
        positives = np.add.reduceat(counts[:, order] * positive, starts, axis=1)
        negatives = np.add.reduceat(counts[:, order] * (1 - positive), starts, axis=1)
        above = positives.cumsum(1) - positives / 2  # of equal scores half
        pairs = positives.sum(1) * negatives.sum(1)
        won = (negatives * above).sum(1)
        return np.divide(won, pairs, out=np.full_like(won, np.nan), where=pairs > 0)

    return auc


WEIGHTED: dict[str, Callable[[Tensor, Tensor], Counted]] = {
    "top1": _top1,
    "top5": _top5,
    "balanced_accuracy": _balanced_accuracy,
    "auc": _auc,
    "nll": _nll,
    "ece": _ece,
    "aurc": _aurc,
}
"""What builds the function of a measure, from float64 logits `[N, K]` and class indices `[N]`."""


def _mean(values: NDArray) -> Counted:
    return lambda counts: counts @ values / counts.sum(1)


def _correct(logits: Tensor, targets: Tensor) -> NDArray:
    return (logits.argmax(1) == targets).double().numpy()


def _confidence(logits: Tensor) -> NDArray:
    return logits.softmax(1).amax(1).clamp(max=1).numpy()


def _ranks(score: NDArray) -> tuple[NDArray, NDArray]:
    """Return the order from the highest score `[N]`, and where each run of equal scores starts in it `[P]`."""
    order = np.argsort(-score, kind="stable")
    return order, np.flatnonzero(np.diff(score[order], prepend=np.inf))


def _at(table: NDArray, index: NDArray) -> NDArray:
    return table[index.astype(np.int64)]
