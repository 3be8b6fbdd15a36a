"""Calibration from one histogram of the top-label confidence, filled in one pass over the logits."""

from functools import lru_cache

import torch
from torch import Tensor

from ols.metrics.arguments import class_indices, whole_number, yes_or_no
from ols.metrics.calibration_error import ECE_BINS, FINE_BINS, brier_decomposition, calibration_errors, reliability
from ols.metrics.calibration_noise import ece_noise
from ols.metrics.smooth_ece import smooth_ece
from ols.metrics.wide_state import WideStateMetric


class CalibrationHistogram(WideStateMetric):
    """Streaming calibration: per fine bin of the top-label confidence, the sums of count, confidence and correct.

    3,840 right-closed bins of equal width over (0, 1], float64: 90 KiB however many samples; states add, so one
    reduction merges processes. The softmax is taken in float32, of float64 logits in float64; sums over samples in
    float64. A logit of -inf is a masked class. Rows with NaN or +inf, or of masked classes alone, have no
    probabilities: they are counted, and left out of everything else.

    Results, NaN where they do not exist (before the first update, for one):

    - `count` and `nonfinite`: rows in the sums, and rows left out.
    - `nll` (nats); `brier` over all classes, in [0, 2]; `brier_top_label`, of confidence against being right, in
      [0, 1], and its parts, see `brier_decomposition`; `mean_confidence`, `mean_confidence_on_errors`.
    - `ece` and other errors: see `calibration_errors`, `smooth_ece` and `ece_noise`, which gives its interval and null.
    - `ece_classwise`, if switched on (Kull et al. 2019): the mean over classes of the ECE, of 15 bins of equal width,
      of the probability of a class as that of the label being this class.

    Args:
        num_classes: K, if it is to be checked; needed for `classwise`.
        classwise: Whether to sum what `ece_classwise` needs, which costs more than all else here.
        kwargs: Arguments of `torchmetrics.Metric`.

    Raises:
        ValueError: `num_classes` is no positive whole number, or missing for `classwise`.
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False

    bins: Tensor  # [3840, 3] float64: count, sum of confidences, number correct
    moments: Tensor  # [2, 5] float64: sums of 1, confidence, correct, NLL, Brier; and of these times the confidence
    seen: Tensor  # [] int64: rows, finite or not
    classwise_excess: Tensor  # [K, 15] float64, if switched on: sum of probabilities less number of labels

    def __init__(self, num_classes: int | None = None, *, classwise: bool = False, **kwargs):
        if num_classes is not None:
            num_classes = whole_number("num_classes", num_classes)
            if num_classes < 1:
                raise ValueError(f"num_classes must be positive, got {num_classes}")
        classwise = yes_or_no("classwise", classwise)
        super().__init__(**kwargs)
        self.add_state("bins", torch.zeros(FINE_BINS, 3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("moments", torch.zeros(2, 5, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("seen", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.num_classes, self.classwise = num_classes, classwise
        if classwise:
            if num_classes is None:
                raise ValueError("classwise needs num_classes")
            excess = torch.zeros(num_classes, ECE_BINS, dtype=torch.float64)
            self.add_state("classwise_excess", excess, dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor, prediction: tuple[Tensor, Tensor] | None = None) -> None:
        """Add a batch.

        Args:
            logits: Logits `[B, K]`, never probabilities.
            target: Class indices `[B]`, of any integer type.
            prediction: What `predict` returns of them, where that is known already.

        Raises:
            ValueError: The shapes are not `[B, K]` and `[B]`, or the targets no integers.
        """
        logits, target = logits.detach(), class_indices(target)
        top, predicted = self.predict(logits, target) if prediction is None else prediction
        target_shifted = (logits.gather(1, target[:, None]).double() - top.double()).squeeze(1)
        # Half precision in float32
        exps = (logits - top.to(torch.promote_types(logits.dtype, torch.float32))).exp_()  # [B, K]
        total = exps.sum(dim=1).double()
        confidence, finite = total.reciprocal(), total == total
        if self.classwise:
            self._add_classwise(exps[finite] * confidence[finite, None], target[finite])
        nll = total.log().sub_(target_shifted)
        # Times confidence: sum of squared probabilities - 2 target probability
        squares = torch.linalg.vector_norm(exps, dim=1).double().square_()
        brier = torch.sub(squares.mul_(confidence), target_shifted.exp_(), alpha=2)
        rows = torch.stack([finite.double(), confidence, (predicted == target).double(), nll, brier], dim=1)
        rows.nan_to_num_(0, posinf=torch.inf)  # the NLL of a label that is masked
        bin_index = (rows[:, 1] * FINE_BINS).ceil_().long().sub_(1).clamp_(min=0)
        self.bins.index_add_(0, bin_index, rows[:, :3])
        self.moments.addmm_(rows[:, :2].T, rows)
        self.seen.add_(len(rows))

    def predict(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the highest logit of each row `[B, 1]` and its class `[B]`; NaN and K where a row is not finite.

        Raises:
            ValueError: The shapes are not `[B, K]` and `[B]`.
        """
        if logits.ndim != 2 or target.shape != logits.shape[:1] or self.num_classes not in (None, logits.shape[1]):
            raise ValueError(
                f"expected logits [B, {self.num_classes or 'K'}] and target [B], "
                f"got {list(logits.shape)} and {list(target.shape)}"
            )
        top = logits.amax(dim=1, keepdim=True)
        top = torch.add(top, top, alpha=0)  # 0 times infinity is NaN
        # As `argmax`, the first of equals, in less time: comparisons that write numbers are cheap.
        num_classes = logits.shape[1]
        reached = torch.ge(logits, top, out=torch.empty_like(logits, dtype=torch.float32))
        reached = reached.mul_(_descending(num_classes, logits.device)).amax(dim=1)
        return top, reached.long().neg_().add_(num_classes)

    def _add_classwise(self, probs: Tensor, target: Tensor) -> None:
        bin_index = (probs * ECE_BINS).ceil_().long().sub_(1).clamp_(min=0)
        bin_index += ECE_BINS * torch.arange(len(self.classwise_excess), device=probs.device)
        flat = self.classwise_excess.view(-1)
        flat.index_add_(0, bin_index.view(-1), probs.view(-1))
        of_target = bin_index.gather(1, target[:, None]).squeeze(1)
        flat.index_add_(0, of_target, torch.ones_like(of_target, dtype=flat.dtype), alpha=-1)

    def reliability(self) -> Tensor:
        """Return count, mean confidence and accuracy of the 15 bins, float64 `[15, 3]`; NaN where a bin is empty.

        Of this process alone, unless called within `sync_context()`.
        """
        return reliability(self.bins)

    def compute(self) -> dict[str, Tensor]:
        """Return the results as scalars, on the CPU."""
        bins, moments, seen = self.bins.cpu(), self.moments.cpu(), self.seen.cpu()
        total, confidence, correct, nll, _ = moments[0]
        _, square, right, _, brier = moments[1]  # each weighted by the confidence
        brier_top_label = (square - 2 * right + correct) / total
        results = {
            **calibration_errors(bins),
            **ece_noise(bins),
            "smooth_ece": smooth_ece(bins),
            "mean_confidence": confidence / total,
            "mean_confidence_on_errors": (confidence - right) / (total - correct),
            "nll": nll / total,
            "brier": (brier / total + 1).clamp(min=0),  # rounding leaves -1e-8 of a perfect model
            "brier_top_label": brier_top_label,
            **brier_decomposition(bins, brier_top_label),
            "count": total,
            "nonfinite": seen - total.long(),
        }
        if self.classwise:
            results["ece_classwise"] = self.classwise_excess.cpu().abs().sum() / (self.num_classes * total)
        return results


@lru_cache(maxsize=16)
def _descending(num_classes: int, device: torch.device) -> Tensor:
    return torch.arange(num_classes, 0, -1, dtype=torch.float32, device=device)
