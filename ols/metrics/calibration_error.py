"""Errors of calibration as functions of a histogram of the top-label confidence.

A histogram has 3,840 right-closed bins of equal width over (0, 1], float64 `[3840, 3]`: count, sum of confidences,
number correct. Right-closed: a confidence of m / M lies in the m-th of M bins, and exactly 1 in the last.
"""

import torch
from torch import Tensor

ECE_BINS = 15
FINE_BINS = ECE_BINS * 256
MCE_MIN_COUNT = 10


def calibration_errors(bins: Tensor) -> dict[str, Tensor]:
    """Return the calibration errors of a histogram, scalars; NaN where there is no sample.

    - `ece` (Guo et al. 2017, equation 3): 15 bins of equal width. `overconfidence` and `underconfidence` are the parts
      of bins whose confidence is above, and below, their accuracy: their sum is the ECE.
    - `mce`: the largest gap of a bin that holds at least 10 samples.
    - `ece_equal_mass`: 15 bins of equal mass; equal confidences on an edge are divided in proportion.
    - `ece_debiased` (Kumar et al. 2019, the debiased l2 error, with 15 bins of equal width): root of the mean over
      samples of `gap^2 - accuracy (1 - accuracy) / (count - 1)`, or 0 where that mean is negative; bins of one sample
      add nothing. Unlike the ECE, whose expectation is above 0 for a perfect model, and an l2 error: it weighs
      large gaps more.
    """
    count, confidence, correct = ece_bins(bins).unbind(dim=1)
    total = count.sum()
    excess = (confidence - correct) / total
    gap, accuracy = (confidence - correct) / count, correct / count
    large = torch.where(count >= MCE_MIN_COUNT, gap.abs(), -1.0).max()
    square = torch.where(count > 1, gap.square() - accuracy * (1 - accuracy) / (count - 1), 0.0)
    return {
        "ece": excess.abs().sum(),
        "mce": large.where(large >= 0, torch.nan),
        "ece_equal_mass": _equal_mass(bins),
        "ece_debiased": ((count * square).sum() / total).clamp(min=0).sqrt(),
        "overconfidence": excess.clamp(min=0).sum(),
        "underconfidence": (-excess).clamp(min=0).sum(),
    }


def brier_decomposition(bins: Tensor, brier_top_label: Tensor) -> dict[str, Tensor]:
    """Return `brier_reliability`, `brier_resolution` and `brier_uncertainty` of the top-label Brier score.

    Murphy (1973) over the 15 bins of the ECE; the resolution is the generalised one of Stephenson et al. (2008), which
    takes in how confidences vary inside a bin, so that reliability - resolution + uncertainty is the score itself.

    Args:
        bins: Histogram `[3840, 3]`.
        brier_top_label: Mean of (confidence - correct)^2.
    """
    count, confidence, correct = ece_bins(bins).unbind(dim=1)
    total = count.sum()
    accuracy = correct.sum() / total
    squares = torch.where(count > 0, (confidence - correct).square() / count, 0.0)
    calibration, uncertainty = squares.sum() / total, accuracy * (1 - accuracy)
    return {
        "brier_reliability": calibration,
        "brier_resolution": calibration + uncertainty - brier_top_label,
        "brier_uncertainty": uncertainty,
    }


def reliability(bins: Tensor) -> Tensor:
    """Return count, mean confidence and accuracy of the 15 bins, float64 `[15, 3]`; NaN where a bin is empty."""
    count, confidence, correct = ece_bins(bins).unbind(dim=1)
    return torch.stack([count, confidence / count, correct / count], dim=1)


def reliability_intervals(table: Tensor) -> Tensor:
    """Return Wilson's 95 % interval of each bin's accuracy, `[15, 2]`; NaN where a bin is empty.

    Args:
        table: What `reliability` returns.
    """
    z = 1.959963984540054  # the normal distribution's 97.5 % quantile
    count, _, accuracy = table.unbind(dim=1)
    middle = accuracy + z**2 / (2 * count)
    half = z * (accuracy * (1 - accuracy) / count + (z / (2 * count)) ** 2).sqrt()
    return torch.stack([middle - half, middle + half], dim=1) / (1 + z**2 / count)[:, None]


def ece_bins(bins: Tensor) -> Tensor:
    """Return the histogram's sums over 15 bins `[15, 3]`."""
    return bins.view(ECE_BINS, -1, 3).sum(dim=1)


def _equal_mass(bins: Tensor) -> Tensor:
    count, confidence, correct = bins.T
    total = count.sum()
    zero = count.new_zeros(1)
    mass = torch.cat([zero, count.cumsum(0)])  # [3841], at the edges of the fine bins
    excess = torch.cat([zero, (confidence - correct).cumsum(0)])
    wanted = total * torch.arange(1, ECE_BINS, dtype=mass.dtype, device=mass.device) / ECE_BINS
    right = torch.searchsorted(mass, wanted).clamp_(1, len(count))
    share = (wanted - mass[right - 1]) / count[right - 1]
    inner = excess[right - 1] + share * (excess[right] - excess[right - 1])
    return torch.cat([zero, inner, excess[-1:]]).diff().abs().sum() / total
