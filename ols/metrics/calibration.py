"""Calibration from one histogram of the top-label confidence."""

import torch
from torch import Tensor
from torchmetrics import Metric

ECE_BINS = 15
FINE_PER_BIN = 256


class CalibrationHistogram(Metric):
    """Streaming calibration: per fine bin of the top-label confidence, the sums of count, confidence and correct.

    3,840 right-closed bins of equal width over (0, 1], float64: 90 KiB however many samples; states add, so one
    reduction merges processes. Softmax, log-softmax and sums are taken in float64. Rows with a non-finite logit are
    left out of the sums and counted.

    Results: `ece` (Guo et al. 2017: equal width, 15 right-closed bins, the last closed at 1), `nll` (nats),
    `count` (rows in the sums), `nonfinite` (rows left out). All are NaN or 0 before the first update.

    Args:
        kwargs: Arguments of `torchmetrics.Metric`.
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False

    bins: Tensor  # [3840, 3] float64: count, sum of confidences, number correct
    nll_sum: Tensor  # [] float64, nats
    nonfinite: Tensor  # [] int64

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.set_dtype(torch.float64)
        self.add_state("bins", torch.zeros(ECE_BINS * FINE_PER_BIN, 3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("nll_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("nonfinite", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            logits: Logits `[B, K]`, never probabilities.
            target: Class indices `[B]`.

        Raises:
            ValueError: If the shapes are not `[B, K]` and `[B]`.
        """
        if logits.ndim != 2 or target.shape != logits.shape[:1]:
            raise ValueError(
                f"expected logits [B, K] and target [B], got {list(logits.shape)} and {list(target.shape)}"
            )
        finite = logits.isfinite().all(dim=1)  # [B]
        log_probs = torch.where(finite[:, None], logits.double(), 0.0).log_softmax(dim=1)  # [B, K]
        log_confidence, predicted = log_probs.max(dim=1)
        confidence = log_confidence.exp()
        bin_index = (confidence * len(self.bins)).ceil().long().sub_(1).clamp_(0, len(self.bins) - 1)
        row = torch.stack([torch.ones_like(confidence), confidence, (predicted == target).double()], dim=1)  # [B, 3]
        self.bins.index_add_(0, bin_index, row * finite[:, None])
        self.nll_sum -= (log_probs.gather(1, target[:, None]).squeeze(1) * finite).sum()
        self.nonfinite += (~finite).sum()

    def reliability(self) -> Tensor:
        """Return count, mean confidence and accuracy of the 15 bins, float64 `[15, 3]`; NaN where a bin is empty.

        Of this process alone, unless called within `sync_context()`.
        """
        count, confidence, correct = self._ece_bins()
        return torch.stack([count, confidence / count, correct / count], dim=1)

    def compute(self) -> dict[str, Tensor]:
        """Return the results as scalars."""
        count, confidence, correct = self._ece_bins()
        total = count.sum()
        return {
            "ece": (confidence - correct).abs().sum() / total,
            "nll": self.nll_sum / total,
            "count": total,
            "nonfinite": self.nonfinite,
        }

    def _ece_bins(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.bins.view(ECE_BINS, FINE_PER_BIN, 3).sum(dim=1).unbind(dim=1)
