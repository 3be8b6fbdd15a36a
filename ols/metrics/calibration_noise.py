"""How far an expected calibration error is chance: its interval, and what a perfectly calibrated model would show."""

import numpy as np
import torch
from torch import Tensor

from ols.metrics.calibration_error import ECE_BINS, ece_bins

RESAMPLES = 1000
CELLS_PER_BIN = 16


def ece_noise(bins: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """Return `ece_low` and `ece_high`, a 95 % interval of the ECE, and `ece_null`, what perfect calibration would show.

    The null: correct predictions are drawn anew with the confidences as their probabilities; `ece_null` is the mean
    ECE of 1,000 draws. It is above 0, and falls with the root of N.

    The interval: samples are drawn anew, with replacement, 1,000 times. Chance inflates the ECE of a sample, and that
    of a resample twice, so that the common percentile interval lies too high: near perfect calibration it never holds
    the true ECE. This is the basic interval, [2 ECE - q97.5, 2 ECE - q2.5], widened to hold the ECE itself, and 0
    where the ECE does not exceed the 97.5 % quantile of the null.

    Both draw from 240 cells of confidence, by right and wrong, instead of samples: the cells keep their mean
    confidence, and what varies inside of 1/240 is nothing beside the variance of right and wrong.

    Args:
        bins: Histogram `[3840, 3]`: count, sum of confidences, number correct.
        seed: Of the draws. The same histogram gives the same interval on every process.
    """
    ece = (ece_bins(bins)[:, 1:].diff(dim=1).abs().sum() / bins[:, 0].sum()).item()
    cells = bins.view(ECE_BINS * CELLS_PER_BIN, -1, 3).sum(dim=1).cpu().numpy()
    filled = cells[:, 0] > 0
    count, confidence, correct = cells[filled].T
    total = int(count.sum())
    if total == 0:
        return {name: torch.tensor(torch.nan, dtype=torch.float64) for name in ("ece_low", "ece_high", "ece_null")}
    rng = np.random.default_rng(seed)
    coarse = np.eye(ECE_BINS)[filled.nonzero()[0] // CELLS_PER_BIN]  # [cells, 15]
    mean = (confidence / count).clip(0, 1)
    null_correct = rng.binomial(count.astype(np.int64), mean, (RESAMPLES, len(count)))
    null = np.abs((confidence - null_correct) @ coarse).sum(axis=1) / total
    drawn = rng.multinomial(total, np.concatenate([correct, count - correct]) / total, RESAMPLES)
    right, wrong = np.split(drawn, 2, axis=1)
    resampled = np.abs((right * (mean - 1) + wrong * mean) @ coarse).sum(axis=1) / total
    lower, upper = np.quantile(resampled, (0.025, 0.975))
    low = 0.0 if ece <= np.quantile(null, 0.975) else min(max(2 * ece - upper, 0.0), ece)
    found = {"ece_low": low, "ece_high": max(2 * ece - lower, ece), "ece_null": null.mean()}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}
