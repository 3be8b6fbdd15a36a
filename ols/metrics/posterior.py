"""Metrics against a known truth: the distribution of labels given the image, and which classes are confused."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ols.metrics.arguments import class_indices, usable_rows


def posterior_calibration(logits: Tensor, posterior: Tensor, *, latent: Tensor | None = None) -> dict[str, float]:
    """Compare predictions with the true P(label | image), which no binning then has to estimate.

    Rows with a non-finite logit are left out and counted, as in `CalibrationHistogram`. All in float64.

    Args:
        logits: Logits `[N, K]`, never probabilities.
        posterior: P(label | image) `[N, K]`; with `latent` it is P(label | latent class) `[K, K]`, row = latent class.
        latent: Latent class of each image `[N]`, of any integer type.

    Returns:
        `posterior_kl`, the mean KL(posterior || prediction) in nats; `confidence_error`, the mean absolute difference
        between the confidence and the true probability of the predicted class, in [0, 1]; `confidence_bias`, the same
        with its sign, above 0 for over-confidence; `count` of rows and `nonfinite` rows left out. Means of nothing are
        NaN.

    Raises:
        ValueError: If shapes differ, `latent` is out of range, or a row of `posterior` is no distribution.
    """
    num_classes = logits.shape[-1]
    rows = len(logits) if latent is None else num_classes
    if logits.ndim != 2 or posterior.shape != (rows, num_classes):
        raise ValueError(f"posterior must have shape {[rows, num_classes]}, got {list(posterior.shape)}")
    posterior = posterior.double()
    _check_distributions("posterior", posterior)
    if latent is not None:
        latent = class_indices(latent, "latent")
        if latent.shape != logits.shape[:1] or ((latent < 0) | (latent >= num_classes)).any():
            raise ValueError(f"latent must hold {len(logits)} rows of posterior, below {num_classes}")
        posterior = posterior[latent]  # [N, K]
    finite = usable_rows(logits)  # [N]
    log_probs, posterior = logits[finite].double().log_softmax(dim=1), posterior[finite]
    log_confidence, predicted = log_probs.max(dim=1)
    log_probs = log_probs.masked_fill(posterior == 0, 0)  # adds nothing, not even where a masked class has -inf
    difference = log_confidence.exp() - posterior.gather(1, predicted[:, None]).squeeze(1)
    return {
        "posterior_kl": F.kl_div(log_probs, posterior, reduction="none").sum(1).mean().item(),
        "confidence_error": difference.abs().mean().item(),
        "confidence_bias": difference.mean().item(),
        "count": int(finite.sum()),
        "nonfinite": int((~finite).sum()),
    }


def soft_label_recovery(soft_labels: Tensor, reference: Tensor, groups: Sequence[str]) -> dict[str, float]:
    """Score how well learnt soft labels tell which classes are confused with which.

    Rank correlations are Spearman's over the entries off the diagonal, with the mean rank for ties, averaged over rows.
    They are undefined in a row where either matrix is constant off the diagonal (a hard label is); such rows are
    left out of that average and counted. Rows of zeros in `soft_labels` (no label learnt) are left out of everything
    and counted.

    Args:
        soft_labels: Learnt distributions, row = true class, `[K, K]`.
        reference: Known distributions, such as the readers' confusion or `ols_fixed_point` of it, `[K, K]`.
        groups: Group of each class, `[K]`.

    Returns:
        `rank_correlation` over all other classes and `undefined_rows` left out of it; `rank_correlation_within` over
        the other classes of the group and `undefined_rows_within`; `off_diagonal`, the mean mass off the diagonal, and
        `within_group_share`, the part of it that lies in the row's own group, each also as `reference_...`;
        `mean_absolute_difference` over all entries; `kl`, the mean KL(reference || soft label) in nats, inf where a
        soft label lacks what the reference has; `zero_rows`. Means of nothing are NaN.

    Raises:
        ValueError: If the shapes are not `[K, K]`, `[K, K]` and `[K]`, a row is no distribution, or all are zero.
    """
    k = len(groups)
    for name, matrix in (("soft_labels", soft_labels), ("reference", reference)):
        if matrix.shape != (k, k):
            raise ValueError(f"{name} must have shape {[k, k]}, as groups has, got {list(matrix.shape)}")
    learnt, known = (matrix.detach().cpu().double() for matrix in (soft_labels, reference))
    group = np.array(groups)
    others = ~torch.eye(k, dtype=torch.bool)
    within = others & torch.from_numpy(group[:, None] == group)
    filled = (learnt != 0).any(1)  # [K]
    if not filled.any():
        raise ValueError("soft_labels must not be all zero")
    learnt, known, others, within = (matrix[filled] for matrix in (learnt, known, others, within))  # each [<=K, K]
    _check_distributions("soft_labels", learnt)
    _check_distributions("reference", known)
    divergence = torch.xlogy(known, known) - torch.xlogy(known, learnt)  # F.kl_div has nan where both are 0
    result = {
        "mean_absolute_difference": (learnt - known).abs().mean().item(),
        "kl": divergence.sum(1).mean().item(),
        "zero_rows": int((~filled).sum()),
    }
    for prefix, matrix in (("", learnt), ("reference_", known)):
        result[f"{prefix}off_diagonal"] = matrix[others].sum().item() / len(matrix)
        result[f"{prefix}within_group_share"] = (matrix[within].sum() / matrix[others].sum()).item()
    for suffix, chosen in (("", others), ("_within", within)):
        correlations = [_rank_correlation(a[at], b[at]) for a, b, at in zip(learnt, known, chosen, strict=True)]
        defined = [correlation for correlation in correlations if correlation is not None]
        result[f"rank_correlation{suffix}"] = float(np.mean(defined)) if defined else float("nan")
        result[f"undefined_rows{suffix}"] = len(correlations) - len(defined)
    return result


def _rank_correlation(first: Tensor, second: Tensor) -> float | None:
    """Spearman's rank correlation of two vectors; None where one of them is constant, or empty."""
    from scipy.stats import spearmanr  # a second of imports

    if any((values == values[:1]).all() for values in (first, second)):
        return None
    return float(spearmanr(first, second).statistic)


def _check_distributions(name: str, rows: Tensor) -> None:
    wrong = ~((rows >= 0).all(1) & ((rows.sum(1) - 1).abs() < 1e-3))
    if wrong.any():
        raise ValueError(f"{name} must hold distributions in its rows, got sum {rows[wrong][0].sum():.6g}")
