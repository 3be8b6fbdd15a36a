"""What a run reports that finds the pixels of a mask."""

import torch
from torch import Tensor

from ols.metrics.arguments import class_indices, usable_rows, whole_number
from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.composed import ComposedMetric


class SegmentationMetrics(ComposedMetric):
    """Dice and IoU of each image, and calibration of its pixels.

    Results: `nll` and the calibration errors of `CalibrationHistogram` over all pixels, and

    - `dice` and `iou`: means over the images with a mask; `dice_q25`, `dice_median`, `dice_q75` and those of the IoU
      are quartiles of these images. Of several foreground classes an image has the mean over those that it shows.
    - `empty_masks`: images without foreground, which have no part in these; `empty_found`: the share of them where some
      foreground is predicted, NaN without one.
    - `count` and `nonfinite`: images, by whether all their outputs are numbers; one that is not has Dice and IoU 0.

    A pixel is predicted as the class of its largest logit. The state grows by 16 bytes an image.

    Args:
        num_classes: K, the background among them, as class 0.
        kwargs: Arguments of `torchmetrics.Metric`.

    Raises:
        ValueError: There are fewer than two classes.
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False

    overlaps: list[Tensor]  # of each batch [B, 2] float64: Dice and IoU, NaN without a mask
    images: Tensor  # [3] int64: numbers, no numbers, and empty masks where something is predicted

    def __init__(self, num_classes: int, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = whole_number("num_classes", num_classes)
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, the background and a foreground, got {num_classes}")
        self.histogram = CalibrationHistogram(self.num_classes, **kwargs)
        self.add_state("overlaps", [], dist_reduce_fx="cat")
        self.add_state("images", torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            outputs: Logits `[B, K, H, W]`, never probabilities.
            target: Class of each pixel, of any integer type `[B, H, W]`.

        Raises:
            ValueError: The shapes are others, or the targets no integers.
        """
        outputs, target = outputs.detach(), class_indices(target)
        shape = outputs.shape
        if outputs.ndim != 4 or shape[1] != self.num_classes or target.shape != (shape[0], *shape[2:]):
            raise ValueError(
                f"expected outputs [B, {self.num_classes}, H, W] and target [B, H, W], got {list(shape)} and "
                f"{list(target.shape)}"
            )
        rows = outputs.movedim(1, -1).reshape(-1, self.num_classes)
        self.histogram.update(rows, target.flatten())
        finite = usable_rows(rows).view(len(outputs), -1).all(dim=1)
        predicted = outputs.nan_to_num(neginf=-torch.inf).argmax(dim=1)
        both, true, found = [], [], []
        for k in range(1, self.num_classes):
            is_true, is_found = (target == k).flatten(1), (predicted == k).flatten(1) & finite[:, None]
            both.append((is_true & is_found).sum(dim=1))
            true.append(is_true.sum(dim=1))
            found.append(is_found.sum(dim=1))
        overlap, size, claimed = (torch.stack(parts, dim=1).double() for parts in (both, true, found))  # [B, K - 1]
        shown = size > 0
        dice = (2 * overlap / (size + claimed)).where(shown, torch.nan)
        iou = (overlap / (size + claimed - overlap)).where(shown, torch.nan)
        self.overlaps.append(torch.stack([dice.nanmean(dim=1), iou.nanmean(dim=1)], dim=1))
        invented = (~shown.any(dim=1) & (claimed > 0).any(dim=1)).sum()
        self.images += torch.stack([finite.sum(), (~finite).sum(), invented])

    def compute(self) -> dict[str, Tensor]:
        """Return the results as scalars, on the CPU."""
        wanted = ("nll", "ece", "ece_low", "ece_high", "ece_null")
        pixels = self.histogram.compute()
        results = {name: pixels[name].double() for name in wanted}
        overlaps, images = self._overlaps(), self.images.cpu().double()
        masked = overlaps[~overlaps[:, 0].isnan()]
        quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        for column, name in enumerate(("dice", "iou")):
            values = masked[:, column]
            results[name] = values.mean()
            parts = values.quantile(quartiles) if len(values) else torch.full((3,), torch.nan, dtype=torch.float64)
            results |= {f"{name}_{end}": part for end, part in zip(("q25", "median", "q75"), parts, strict=True)}
        results["empty_masks"] = torch.tensor(len(overlaps) - len(masked), dtype=torch.float64)
        results["empty_found"] = images[2] / results["empty_masks"]
        return results | {"count": images[0], "nonfinite": images[1]}

    def tables(self) -> dict[str, Tensor]:
        """Return what is no scalar, of all processes, on the CPU.

        Returns:
            `reliability` of the pixels, see `CalibrationHistogram`, and `overlaps`: Dice and IoU of each image, float64
            `[N, 2]`, NaN without a mask.
        """
        with self.histogram.sync_context(), self.sync_context():
            return {"reliability": self.histogram.reliability().cpu(), "overlaps": self._overlaps()}

    def _overlaps(self) -> Tensor:
        """Return Dice and IoU of each image `[N, 2]`, on the CPU; the state is a list, or merged over processes."""
        state = self.overlaps
        whole = torch.cat(state) if isinstance(state, list) and state else torch.as_tensor(state, dtype=torch.float64)
        return whole.cpu().reshape(-1, 2)


def found_foreground(logits: Tensor) -> Tensor:
    """Return the pixels of one image that are predicted as foreground, bool `[H, W]`; none where a logit is no number.

    Args:
        logits: `[K, H, W]`.
    """
    if not usable_rows(logits.flatten(1).T).all():
        return torch.zeros(logits.shape[1:], dtype=torch.bool)
    return logits.argmax(dim=0) > 0


def order_by_dice(overlaps: Tensor) -> list[int]:
    """Return the images with a mask, the worst first, from Dice and IoU of each image `[N, 2]`."""
    dice = overlaps[:, 0]
    with_mask = (~dice.isnan()).nonzero().squeeze(1)
    return with_mask[dice[with_mask].argsort(stable=True)].tolist()
