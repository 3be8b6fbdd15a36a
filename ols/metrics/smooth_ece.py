"""SmoothECE of a histogram of the top-label confidence."""

import math

import torch
from torch import Tensor


def smooth_ece(bins: Tensor) -> Tensor:
    """Return SmoothECE (Blasiok and Nakkiran 2023), in [0, 1]; NaN where there is no sample.

    The signed gaps between confidence and being right are smoothed by a Gaussian kernel that is reflected at 0 and at
    1, and their absolute values integrated. The bandwidth (standard deviation) is the fixed point where it equals the
    error that it gives, from ten halvings of [0, 1], at least 0.001: as in `relplot`, which differs where confidences
    are 1: its grid mirrors the end point onto itself and so gives them half of their weight.

    Args:
        bins: Histogram `[3840, 3]`: count, sum of confidences, number correct.
    """
    total = bins[:, 0].sum()
    excess = (bins[:, 1] - bins[:, 2]) / total
    # Reflected at both ends, the gaps are even and periodic: a Gaussian multiplies each frequency.
    spectrum = torch.fft.rfft(torch.cat([excess, excess.flip(0)]))
    frequency = math.pi * torch.arange(len(spectrum), dtype=bins.dtype, device=bins.device)

    def error(bandwidth: float) -> Tensor:
        damped = spectrum * (-0.5 * (bandwidth * frequency) ** 2).exp()
        return torch.fft.irfft(damped, 2 * len(excess))[: len(excess)].abs().sum()

    above, below = 1.0, 0.0
    for _ in range(10):
        middle = (above + below) / 2
        if middle < 0.001 or middle < error(middle):
            below = middle
        else:
            above = middle
    return error(above)
