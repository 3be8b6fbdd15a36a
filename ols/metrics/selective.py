"""Selective prediction: how the errors fall among predictions when the least confident are handed to a reader."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ols.metrics.arguments import class_indices, real_number, usable_rows

RISKS = (0.01, 0.05)


@dataclass(frozen=True)
class RiskCoverage:
    """Risk against coverage: a threshold on the score accepts the most confident samples.

    Only what a threshold can accept is a point: samples of equal score are accepted together.

    Args:
        coverage: Fraction accepted, ascending to 1, float64 `[P]`.
        risk: Fraction of errors among the accepted, float64 `[P]`.
    """

    coverage: np.ndarray
    risk: np.ndarray


def maximum_probability(logits: Tensor) -> Tensor:
    """Return the maximum softmax probability, float64 `[N]`; -inf for rows `[N, K]` without one, see `usable_rows`."""
    return _of_finite(logits, logits.double().softmax(dim=1).amax(dim=1))


def normalized_maximum_logit(logits: Tensor, *, p: float = 2.0) -> Tensor:
    """Return the highest logit over the p-norm of the logits, both less their mean, float64 `[N]`.

    MaxLogit-pNorm of Cattelan and Silva (2023): of use where the norm of the logits carries no confidence, as after
    training with smoothed labels. -inf for rows without a distribution, 0 where all logits are equal. Masked classes
    count as absent.

    Args:
        logits: `[N, K]`.
        p: Order of the norm, best chosen on validation data.

    Raises:
        ValueError: `p` is not positive.
    """
    p = real_number("p", p)
    if not p > 0:
        raise ValueError(f"p must be positive, got {p}")
    masked = logits == -torch.inf  # classes that are not there
    centred = logits.double().masked_fill(masked, 0)
    centred = centred - centred.sum(dim=1, keepdim=True) / (~masked).sum(dim=1, keepdim=True)
    centred = centred.masked_fill(masked, 0)
    # Scaled to a maximum of 1 first, which changes nothing but that powers neither overflow nor vanish
    centred = centred / centred.abs().amax(dim=1, keepdim=True)
    score = centred.masked_fill(masked, -torch.inf).amax(dim=1) / torch.linalg.vector_norm(centred, ord=p, dim=1)
    return _of_finite(logits, score.nan_to_num(0.0))


def is_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Return which predictions are right, bool `[N]`; a row without a distribution is an error."""
    return (logits.argmax(dim=1) == class_indices(targets, "targets")) & usable_rows(logits)


def risk_coverage(score: Tensor, correct: Tensor) -> RiskCoverage:
    """Return the risk-coverage curve.

    Args:
        score: Confidence, higher for what is accepted earlier `[N]`.
        correct: Which predictions are right `[N]`.

    Raises:
        ValueError: Shapes differ or are empty, or a score is NaN.
    """
    accepted, errors = _groups(score, correct)
    return RiskCoverage(accepted / accepted[-1], errors / accepted)


def selective_metrics(score: Tensor, correct: Tensor) -> dict[str, float]:
    """Return what the risk-coverage curve says; nothing depends on the order of samples of equal score.

    - `aurc` (Geifman et al. 2019): mean, over n = 1 to N, of the risk of the n most confident; in a group of equal
      scores, its expectation over the orders.
    - `e_aurc`: `aurc` less that of a score that puts every error last; 0 is perfect.
    - `failure_auroc`: probability that a correct prediction has a higher score than an error, ties half; NaN if
      either is missing.
    - `coverage_at_risk_1`, `coverage_at_risk_5`: the largest coverage that a threshold reaches with at most 1 % and
      5 % errors among the accepted; 0 if none does.

    Args:
        score: Confidence, higher for what is accepted earlier `[N]`.
        correct: Which predictions are right `[N]`.

    Raises:
        ValueError: Shapes differ or are empty, or a score is NaN.
    """
    from sklearn.metrics import roc_auc_score

    accepted, errors = _groups(score, correct)
    count, wrong = int(accepted[-1]), int(errors[-1])
    n = np.arange(1, count + 1)
    aurc = float((np.interp(n, np.append(0, accepted), np.append(0, errors)) / n).mean())
    best = float((np.maximum(n - (count - wrong), 0) / n).mean())
    auroc = np.nan
    if 0 < wrong < count:
        auroc = float(roc_auc_score(correct.cpu().numpy(), np.unique(score.cpu().numpy(), return_inverse=True)[1]))
    found = {"aurc": aurc, "e_aurc": aurc - best, "failure_auroc": auroc}
    for risk in RISKS:
        reached = accepted[errors <= risk * accepted]
        found[f"coverage_at_risk_{100 * risk:.0f}"] = float(reached.max(initial=0) / count)
    return found


def _of_finite(logits: Tensor, score: Tensor) -> Tensor:
    return torch.where(usable_rows(logits), score, -torch.inf)


def _groups(score: Tensor, correct: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return, at the end of each group of equal scores from the highest, the samples and errors so far `[P]`."""
    if score.ndim != 1 or score.shape != correct.shape or not len(score):
        raise ValueError(f"expected score and correct [N], got {list(score.shape)} and {list(correct.shape)}")
    if score.isnan().any():
        raise ValueError(f"{int(score.isnan().sum())} scores are NaN")
    values, group = np.unique(-score.detach().cpu().numpy(), return_inverse=True)
    wrong = 1.0 - correct.detach().cpu().numpy()
    sizes, errors = np.bincount(group, minlength=len(values)), np.bincount(group, wrong, len(values))
    return sizes.cumsum().astype(np.float64), errors.cumsum()
