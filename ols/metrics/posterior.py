"""Metrics against a known truth: the distribution of labels given the image, and which classes are confused."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def posterior_calibration(logits: Tensor, posterior: Tensor, *, latent: Tensor | None = None) -> dict[str, float]:
    """Compare predictions with the true P(label | image), which no binning then has to estimate.

    Rows with a non-finite logit are left out and counted, as in `CalibrationHistogram`. All in float64.

    Args:
        logits: Logits `[N, K]`, never probabilities.
        posterior: P(label | image) `[N, K]`; with `latent` it is P(label | latent class) `[K, K]`, row = latent class.
        latent: Latent class of each image, int64 `[N]`.

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
        if latent.shape != logits.shape[:1] or ((latent < 0) | (latent >= num_classes)).any():
            raise ValueError(f"latent must hold {len(logits)} rows of posterior, below {num_classes}")
        posterior = posterior[latent]  # [N, K]
    finite = logits.isfinite().all(dim=1)  # [N]
    log_probs, posterior = logits[finite].double().log_softmax(dim=1), posterior[finite]
    log_confidence, predicted = log_probs.max(dim=1)
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
        ValueError: If the shapes are not `[K, K]`, `[K, K]` and `[K]`, or a row is no distribution.
    """
    k = len(groups)
    for name, matrix in (("soft_labels", soft_labels), ("reference", reference)):
        if matrix.shape != (k, k):
            raise ValueError(
                f"{name} must have shape {[k, k]}, a row and column for each of groups, got {list(matrix.shape)}"
            )
    learnt = (soft_labels != 0).any(1)  # [K]
    names = {group: number for number, group in enumerate(groups)}
    group = torch.tensor([names[name] for name in groups])
    same = group[:, None] == group
    others = ~torch.eye(k, dtype=torch.bool)
    rows = [matrix.detach().cpu().double()[learnt.cpu()] for matrix in (soft_labels, reference)]
    same, others = same[learnt.cpu()], others[learnt.cpu()]
    for name, matrix in zip(("soft_labels", "reference"), rows, strict=True):
        _check_distributions(name, matrix)
    result = {}
    for suffix, chosen in (("", others), ("_within", others & same)):
        correlations = [_rank_correlation(*pair, where) for *pair, where in zip(*rows, chosen, strict=True)]
        defined = [value for value in correlations if value is not None]
        result[f"rank_correlation{suffix}"] = sum(defined) / len(defined) if defined else float("nan")
        result[f"undefined_rows{suffix}"] = len(correlations) - len(defined)
    for prefix, matrix in zip(("", "reference_"), rows, strict=True):
        off_diagonal = (matrix * others).sum()
        result[f"{prefix}off_diagonal"] = (off_diagonal / len(matrix)).item()
        result[f"{prefix}within_group_share"] = ((matrix * (others & same)).sum() / off_diagonal).item()
    result["mean_absolute_difference"] = (rows[0] - rows[1]).abs().mean().item()
    divergence = torch.xlogy(rows[1], rows[1]) - torch.xlogy(rows[1], rows[0])  # F.kl_div has nan where both are 0
    result["kl"] = divergence.sum(1).mean().item()
    result["zero_rows"] = int((~learnt).sum())
    return result


def _rank_correlation(first: Tensor, second: Tensor, where: Tensor) -> float | None:
    """Spearman's rank correlation of some entries of two rows; None where it is undefined."""
    from scipy.stats import spearmanr  # a second of imports

    first, second = first[where], second[where]
    if any((row == row[:1]).all() for row in (first, second)):
        return None
    return float(spearmanr(first, second).statistic)


def _check_distributions(name: str, rows: Tensor) -> None:
    wrong = ~((rows >= 0).all(1) & ((rows.sum(1) - 1).abs() < 1e-3))
    if wrong.any():
        raise ValueError(f"{name} must hold distributions in its rows, got sum {rows[wrong][0].sum():.6g}")
