"""Calibration after training: scalings of the logits, fitted on a split that is neither train nor test.

A class is masked in a row where its logit is -inf or the lowest number of a floating type, which is how many models say
that a class cannot be. It has no probability under any scaling, and no part in the fit.
"""

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ols.metrics.arguments import class_indices, usable_rows

MAX_ITERATIONS = 1000
FARTHEST = 200.0  # nats of log T from where the search starts


class TemperatureScaling:
    """Divides logits by one temperature T (Guo et al. 2017), the minimiser of the NLL on the data it is fitted to.

    `fit` sets `temperature` and `interval`, a 95 % interval: normal on log T, with the sandwich variance, which holds
    whether or not the scaled model is right. T > 1 says that the model was overconfident.
    """

    temperature: float
    interval: tuple[float, float]

    def fit(self, logits: Tensor, targets: Tensor) -> Self:
        """Fit T in float64: the root of the derivative of the NLL, which is convex in 1 / T.

        A search by the value of the NLL would stop early where it is nearly flat, as a weak signal leaves it; the sign
        of the derivative is known to the last digits. No gradient is recorded, so tensors of `torch.inference_mode()`
        are as good as others.

        Args:
            logits: `[N, K]`; masked classes may be -inf.
            targets: Class indices `[N]`, of any integer type.

        Raises:
            ValueError: Shapes do not fit, a logit is NaN or inf, a target is masked, or no temperature minimises the
                NLL: it falls for T -> 0 if every target has the highest logit of its row, and for T -> infinity if the
                logits of the targets are on average no higher than the others.
        """
        from scipy.optimize import brentq  # which takes a while to import

        logits, masked, targets = _checked(logits, targets)
        above = (logits - logits.gather(1, targets[:, None])).masked_fill_(masked, 0)  # the target's logit, [N, K]
        total, size = float((above.sum(dim=1) / (~masked).sum(dim=1)).sum()), float(above.abs().sum())
        if total >= -4 * torch.finfo(torch.float64).eps * size:  # the derivative at 1 / T = 0, but for rounding
            raise ValueError("the logits tell nothing of the targets: the NLL falls as T goes to infinity")
        if not (above > 0).any():
            raise ValueError(f"every one of {len(logits)} targets has the highest logit: the NLL falls as T goes to 0")

        def slope(log_t: float) -> float:
            return float((_probs(above, masked, math.exp(log_t)) * above).sum())  # in 1 / T; it falls with T

        start = math.log(float(above.abs().sum() / (above != 0).sum()))
        low = high = start
        step = 1.0
        while slope(low) <= 0 and low > start - FARTHEST:
            low, step = low - step, 2 * step
        step = 1.0
        while slope(high) >= 0 and high < start + FARTHEST:
            high, step = high + step, 2 * step
        if slope(low) <= 0 or slope(high) >= 0:
            raise ValueError("the logits tell too little of the targets: no T that numbers hold minimises the NLL")
        log_t = brentq(slope, low, high, xtol=1e-13, rtol=1e-14)
        self.temperature = math.exp(log_t)
        # Of each sample's NLL, with respect to log T
        probs = _probs(above, masked, self.temperature)
        mean = (probs * above).sum(dim=1)
        slopes = mean / self.temperature
        curvature = (probs * (above - mean[:, None]).square()).sum() / self.temperature**2
        half = 1.959963984540054 * float(slopes.square().sum().sqrt() / curvature)
        # Far beyond what floats hold where the curvature vanishes
        least, most = math.exp(max(-half, -700)), math.exp(min(half, 700))
        self.interval = (self.temperature * least, self.temperature * most)
        return self

    def __call__(self, logits: Tensor) -> Tensor:
        """Return logits / T."""
        return logits / self.temperature


class VectorScaling:
    """Multiplies the logits of each class by a weight and adds a bias (Guo et al. 2017), minimising the NLL.

    `fit` sets `weight` and `bias`, float64 `[K]`; the mean bias is 0, which the softmax does not see. A class that is
    masked in every row has weight 1 and bias 0.
    """

    weight: Tensor
    bias: Tensor

    def fit(self, logits: Tensor, targets: Tensor) -> Self:
        """Fit weight and bias by LBFGS, in float64, from the identity.

        Args:
            logits: `[N, K]`; masked classes may be -inf.
            targets: Class indices `[N]`, of any integer type.

        Raises:
            ValueError: Shapes do not fit, a logit is NaN or inf, a target is masked, or there is no minimum: a class
                has no sample, so that its bias would fall without end, a class is told from the others by its own logit
                alone, or a scaling separates all classes.
            RuntimeError: LBFGS did not reach a minimum; there may be none.
        """
        with torch.inference_mode(False), torch.enable_grad():
            logits, masked, targets = _checked(logits, targets)
            informative = (~masked).sum(dim=1) > 1  # a target that is the only class left is certain
            logits, masked, targets = logits[informative], masked[informative], targets[informative]
            num_classes = logits.shape[1]
            fitted = ~masked.all(dim=0) if len(logits) else torch.ones(num_classes, dtype=torch.bool)
            absent = ((targets.bincount(minlength=num_classes) == 0) & fitted).nonzero().flatten().tolist()
            if absent:
                named = ", ".join(map(str, absent[:10])) + (" ..." if absent[10:] else "")
                raise ValueError(f"vector scaling needs samples of every class; none of class {named}")
            for label in fitted.nonzero().flatten().tolist():
                if _is_separated(logits[:, label], targets == label, ~masked[:, label]):
                    raise ValueError(
                        f"class {label} is told from the others by its own logit alone, without an error: the NLL "
                        "falls without end"
                    )
            unit = logits[~masked].std()
            scaled = logits.masked_fill(masked, 0) / unit
            weight = unit.expand(num_classes).clone().requires_grad_()
            bias = torch.zeros(num_classes, dtype=torch.float64, requires_grad=True)

            def adjusted() -> Tensor:
                return (scaled * weight + bias).masked_fill(masked, -torch.inf)

            slope = _minimise(lambda: F.cross_entropy(adjusted(), targets), [weight, bias])
            best = adjusted().detach()
            others = best.scatter(1, targets[:, None], -torch.inf).amax(dim=1)
            if (best.gather(1, targets[:, None]).squeeze(1) > others).all():
                raise ValueError("a scaling separates the classes without an error: the NLL falls without end")
            if not slope < 1e-6:
                raise RuntimeError(f"the scaling did not reach a minimum of the NLL: its slope is {slope:.1e}")
            bias = bias.detach() - bias.detach()[fitted].mean()
            self.weight = torch.where(fitted, weight.detach() / unit, 1.0)
            self.bias = torch.where(fitted, bias, 0.0)
        return self

    def __call__(self, logits: Tensor) -> Tensor:
        """Return weight * logits + bias, of the type of the logits; masked classes stay as they are."""
        return torch.where(_masked(logits), logits, logits * self.weight.to(logits) + self.bias.to(logits))


def possible_rows(logits: Tensor, targets: Tensor) -> Tensor:
    """Return which rows have probabilities and a target that is not masked, bool `[N]`: those that can be fitted to.

    Args:
        logits: `[N, K]`.
        targets: Class indices `[N]`.
    """
    return usable_rows(logits) & ~_masked(logits).gather(1, class_indices(targets, "targets")[:, None]).squeeze(1)


def _checked(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits in float64, which of them are masked `[N, K]`, and int64 targets, all on the CPU and new."""
    if logits.ndim != 2 or targets.shape != logits.shape[:1] or logits.shape[1] < 2 or not len(logits):
        raise ValueError(
            f"expected logits [N, K] of two classes or more and targets [N], "
            f"got {list(logits.shape)} and {list(targets.shape)}"
        )
    logits, targets = logits.detach().cpu(), class_indices(targets, "targets").detach().cpu().clone()
    masked = _masked(logits)
    bad = int((~(logits.isfinite() | masked).all(dim=1) | masked.all(dim=1)).sum())
    if bad:
        raise ValueError(f"{bad} of {len(logits)} rows have non-finite logits")
    outside = int(((targets < 0) | (targets >= logits.shape[1])).sum())
    if outside:
        raise ValueError(f"targets must lie in [0, {logits.shape[1]}), which {outside} of {len(targets)} do not")
    impossible = int(masked.gather(1, targets[:, None]).sum())
    if impossible:
        raise ValueError(
            f"{impossible} of {len(targets)} targets are masked classes, whose NLL is infinite at any scale"
        )
    return logits.to(torch.float64, copy=True), masked, targets


def _masked(logits: Tensor) -> Tensor:
    """Return where a logit is -inf or the lowest number of its type, of bfloat16's too that was widened since."""
    return logits <= torch.finfo(torch.float16 if logits.dtype == torch.float16 else torch.bfloat16).min


def _probs(logits: Tensor, masked: Tensor, temperature: float) -> Tensor:
    return (logits / temperature).masked_fill_(masked, -torch.inf).softmax(dim=1)


def _is_separated(logit: Tensor, own: Tensor, counts: Tensor) -> bool:
    """Return whether a threshold on a class's logit `[N]` divides its samples from the others, wherever it counts."""
    inside, outside = logit[own], logit[~own & counts]
    if not len(outside):
        return True
    above = inside.min() >= outside.max() and inside.max() > outside.min()
    below = inside.max() <= outside.min() and inside.min() < outside.max()
    return bool(above or below)


def _minimise(nll, parameters: list[Tensor]) -> float:
    """Minimise by LBFGS, and return the largest slope that is left."""
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

    optimizer.step(closure)
    closure()
    return max(float(parameter.grad.abs().max()) for parameter in parameters if parameter.grad is not None)
