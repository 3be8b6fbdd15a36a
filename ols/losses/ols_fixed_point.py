"""What online label smoothing converges to when the model fits it perfectly; derived in ols_fixed_point.md."""

import torch
from torch import Tensor

from ols.losses.base import check_interval


def ols_fixed_point(confusion: Tensor, hard_weight: float = 0.5) -> Tensor:
    """Soft labels that OLS converges to where an image's label is drawn from a known distribution.

    `S = w (I - (1 - w) Q)^-1 Q`, with w = `hard_weight`: the mean of Q^G over a geometric number G >= 1 of mean 1 / w.
    A perfect fit predicts row z of S for an image of latent class z. It holds for any class frequencies, where the
    latent class has the largest entry in its row of S, and in those of the epochs before; a diagonal of Q above
    1 / (1 + w) is enough. `OnlineLabelSmoothing` then approaches it by a factor 1 - w an epoch, from each of its
    initial soft labels but a tensor of other distributions.

    Args:
        confusion: Q, P(label | latent class) in rows, `[K, K]`.
        hard_weight: Share of the hard label, in (0, 1]; at 1 this is Q.

    Returns:
        Soft labels, distributions in rows, float64 `[K, K]`.

    Raises:
        ValueError: If `confusion` is not a square matrix of distributions, or has a row whose largest entry in the
            result is not, or not alone, on the diagonal; names the row.
    """
    hard_weight = check_interval("hard_weight", hard_weight, "(0, 1]")
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"confusion must have shape [K, K], got {list(confusion.shape)}")
    confusion = confusion.double()
    wrong = (confusion < 0).any(1) | ((confusion.sum(1) - 1).abs() > 1e-6)
    if wrong.any():
        raise ValueError(f"confusion must hold distributions in its rows, got row {int(wrong.nonzero()[0])}")
    identity = torch.eye(len(confusion), dtype=torch.float64, device=confusion.device)
    soft_labels = hard_weight * torch.linalg.solve(identity - (1 - hard_weight) * confusion, confusion)
    others = soft_labels.masked_fill(identity.bool(), -torch.inf)
    beaten = others.amax(1) >= soft_labels.diagonal()
    if beaten.any():
        raise ValueError(
            f"confusion row {int(beaten.nonzero()[0])}: its class would not be predicted, so OLS does not end there"
        )
    return soft_labels
