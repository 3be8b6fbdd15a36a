"""Calibration after training: scalings of the logits, fitted on a split that is neither train nor test."""

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_ITERATIONS = 1000


class TemperatureScaling:
    """Divides logits by one temperature T (Guo et al. 2017), the minimiser of the NLL on the data it is fitted to.

    `fit` sets `temperature` and `interval`, a 95 % interval: normal on log T, with the sandwich variance, which holds
    whether or not the scaled model is right. T > 1 says that the model was overconfident.
    """

    temperature: float
    interval: tuple[float, float]

    def fit(self, logits: Tensor, targets: Tensor) -> Self:
        """Fit T by LBFGS on log T, in float64.

        Args:
            logits: `[N, K]`.
            targets: Class indices `[N]`.

        Raises:
            ValueError: Shapes do not fit, a logit is not finite, or no temperature minimises the NLL: it falls for
                T -> 0 if every target has the highest logit of its row, and for T -> infinity if the logits of the
                targets are on average no higher than the others.
            RuntimeError: LBFGS did not reach the minimum.
        """
        logits = _checked(logits, targets)
        target_logits = logits.gather(1, targets[:, None]).squeeze(1)
        # The NLL is convex in 1 / T: its slopes at both ends tell whether it has a minimum.
        if (target_logits - logits.mean(dim=1)).sum() <= 0:
            raise ValueError("the logits tell nothing of the targets: the NLL falls as T goes to infinity")
        if (target_logits == logits.amax(dim=1)).all():
            raise ValueError(f"every one of {len(logits)} targets has the highest logit: the NLL falls as T goes to 0")
        log_scale = logits.std(dim=1).mean().log()  # so that logits of any unit start near T = 1
        log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        scaled = logits / log_scale.exp()
        _minimise(lambda: F.cross_entropy(scaled * (-log_t).exp(), targets), [log_t])
        self.temperature = float((log_t.detach() + log_scale).exp())
        # Of each sample's NLL, with respect to log T
        z = logits / self.temperature
        probs = z.softmax(dim=1)
        mean = (probs * z).sum(dim=1)
        slope = z.gather(1, targets[:, None]).squeeze(1) - mean
        curvature = (probs * (z - mean[:, None]).square()).sum()
        half = 1.959963984540054 * float(slope.square().sum().sqrt() / curvature)
        # Far beyond what floats hold where the curvature vanishes
        low, high = math.exp(max(-half, -700)), math.exp(min(half, 700))
        self.interval = (self.temperature * low, self.temperature * high)
        return self

    def __call__(self, logits: Tensor) -> Tensor:
        """Return logits / T."""
        return logits / self.temperature


class VectorScaling:
    """Multiplies the logits of each class by a weight and adds a bias (Guo et al. 2017), minimising the NLL.

    `fit` sets `weight` and `bias`, float64 `[K]`; the mean bias is 0, which the softmax does not see.
    """

    weight: Tensor
    bias: Tensor

    def fit(self, logits: Tensor, targets: Tensor) -> Self:
        """Fit weight and bias by LBFGS, in float64, from the identity.

        Args:
            logits: `[N, K]`.
            targets: Class indices `[N]`.

        Raises:
            ValueError: Shapes do not fit, a logit is not finite, or a class has no sample: its bias would fall without
                end.
            RuntimeError: LBFGS did not reach a minimum; there is none if a scaling separates the classes.
        """
        logits = _checked(logits, targets)
        absent = (targets.bincount(minlength=logits.shape[1]) == 0).nonzero().flatten().tolist()
        if absent:
            named = ", ".join(map(str, absent[:10])) + (" ..." if absent[10:] else "")
            raise ValueError(f"vector scaling needs samples of every class; none of class {named}")
        unit = logits.std()
        weight = unit.expand(logits.shape[1]).clone().requires_grad_()
        bias = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)
        scaled = logits / unit
        _minimise(lambda: F.cross_entropy(scaled * weight + bias, targets), [weight, bias])
        self.weight, self.bias = weight.detach() / unit, bias.detach() - bias.detach().mean()
        return self

    def __call__(self, logits: Tensor) -> Tensor:
        """Return weight * logits + bias, of the type of the logits."""
        return logits * self.weight.to(logits) + self.bias.to(logits)


def _checked(logits: Tensor, targets: Tensor) -> Tensor:
    if logits.ndim != 2 or targets.shape != logits.shape[:1] or logits.shape[1] < 2 or not len(logits):
        raise ValueError(
            f"expected logits [N, K] of two classes or more and targets [N], "
            f"got {list(logits.shape)} and {list(targets.shape)}"
        )
    bad = int((~logits.isfinite().all(dim=1)).sum())
    if bad:
        raise ValueError(f"{bad} of {len(logits)} rows have non-finite logits")
    return logits.detach().cpu().double()


def _minimise(nll, parameters: list[Tensor]) -> None:
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=MAX_ITERATIONS,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nll()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
        closure()
    slope = max(float(parameter.grad.abs().max()) for parameter in parameters if parameter.grad is not None)
    if not slope < 1e-6:
        raise RuntimeError(f"the scaling did not reach a minimum of the NLL: its slope is {slope:.1e}")
