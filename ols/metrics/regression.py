"""What a run reports that predicts a number of each image."""

import torch
from torch import Tensor

from ols.metrics.arguments import real_number
from ols.metrics.auc import Z
from ols.metrics.wide_state import WideStateMetric

BINS = 60  # of a side of the histogram, over 3 standard deviations to either side of the mean


class RegressionMetrics(WideStateMetric):
    """Errors in the target's unit, beside those of predicting the mean of the training images for every image.

    Results: `mae` with its 95 % interval of independent images, `rmse`, `bias` (the mean of prediction less target),
    `r2` (1 less the squared error over that of the mean of these very targets, as in scikit-learn; NaN where they are
    all equal), `mae_of_mean` and `rmse_of_mean` of the training mean, `count` and `nonfinite`. An image whose output is
    no number counts in `nonfinite` alone. The state does not grow with the number of images.

    Args:
        mean: Mean of the training targets, in their unit.
        std: Their standard deviation, by which outputs are multiplied; positive.
        kwargs: Arguments of `torchmetrics.Metric`.

    Raises:
        ValueError: The standard deviation is not positive.
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False

    sums: Tensor  # [7] float64: images, and of error e and target t less the mean |e|, e^2, e, t, t^2, |t|
    nonfinite: Tensor  # [] int64
    histogram: Tensor  # [BINS, BINS] int64: images by target and prediction, what is outside in the outermost

    def __init__(self, *, mean: float = 0.0, std: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.mean, self.std = real_number("mean", mean), real_number("std", std)
        if self.std <= 0:
            raise ValueError(f"std must be positive, got {std}")
        self.add_state("sums", torch.zeros(7, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("nonfinite", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("histogram", torch.zeros(BINS, BINS, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            outputs: In standard deviations from the mean, `[B, 1]`.
            target: In their unit, `[B]`.

        Raises:
            ValueError: The shapes are others.
        """
        if outputs.shape != (len(target), 1) or target.ndim != 1:
            raise ValueError(
                f"expected outputs [B, 1] and target [B], got {list(outputs.shape)} and {list(target.shape)}"
            )
        outputs = outputs.detach().double().squeeze(1)
        finite = outputs.isfinite()
        self.nonfinite += (~finite).sum()
        predicted, true = outputs[finite] * self.std, target.double()[finite] - self.mean
        error = predicted - true
        terms = [torch.ones_like(error), error.abs(), error.square(), error, true, true.square(), true.abs()]
        self.sums += torch.stack(terms).sum(dim=1)
        place = [((value / self.std + 3) * BINS / 6).long().clamp(0, BINS - 1) for value in (true, predicted)]
        self.histogram.view(-1).index_add_(0, place[0] * BINS + place[1], torch.ones_like(place[0]))

    def compute(self) -> dict[str, Tensor]:
        """Return the results as scalars, on the CPU."""
        count, absolute, squared, error, true, true_squared, true_absolute = self.sums.cpu().unbind()
        mae = absolute / count
        spread = ((squared - count * mae.square()).clamp(min=0) / (count - 1)).sqrt()  # of the absolute errors
        half = Z * spread / count.sqrt() if count > 1 else torch.tensor(torch.nan, dtype=torch.float64)
        about_the_mean = true_squared - true.square() / count
        varies = about_the_mean > 1e-12 * true_squared
        return {
            "mae": mae,
            "mae_low": (mae - half).clamp(min=0),
            "mae_high": mae + half,
            "rmse": (squared / count).sqrt(),
            "bias": error / count,
            "r2": torch.where(varies, 1 - squared / about_the_mean, torch.nan),
            "mae_of_mean": true_absolute / count,
            "rmse_of_mean": (true_squared / count).sqrt(),
            "count": count,
            "nonfinite": self.nonfinite.cpu().double(),
        }

    def tables(self) -> dict[str, Tensor]:
        """Return `agreement`: images by target and prediction, int64 `[60, 60]` over the mean +- 3 sd, on the CPU."""
        with self.sync_context():
            return {"agreement": self.histogram.cpu()}
