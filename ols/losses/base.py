"""The contract of every loss: `nn.CrossEntropyLoss`, plus an end of epoch."""

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ols.losses.soft_targets import cross_entropy, flatten_classes

CLASS_INDEX_TYPES = frozenset(
    {
        torch.bool,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
    }
)


class TrainerLoss(nn.Module):
    """What a trainer asks of a loss beside its value; here the answers of one that learns nothing."""

    needs_teacher: bool = False
    needs_index: bool = False  # takes the numbers of the samples as a third argument in training
    takes_probabilities: bool = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # options of published variants, by name

    def end_epoch(self, *, reduce: Callable[[Tensor], Tensor | None] | None = None) -> dict[str, float]:
        """End the epoch on every rank and return its diagnostics by tag; nothing to do for a loss without state."""
        return {}

    def sum_over_ranks(self, *, reduce: Callable[[Tensor], Tensor | None] | None = None) -> None:
        """Gather on rank 0 what the ranks collected, before a checkpoint inside an epoch; nothing without state."""

    def collected(self) -> dict[str, Tensor]:
        """Return this rank's sums of this epoch, themselves and not copies, by name in the state dict; none without."""
        return {}

    def artifacts(self) -> dict[str, Tensor]:
        """Return what the loss has learned and a run shows, themselves and not copies, by name; none without state."""
        return {}

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Collect nothing inside: for the second forward pass of SAM, R-Drop or LBFGS."""
        yield


class LabelLoss(TrainerLoss, ABC):
    """A classification loss that takes the place of `nn.CrossEntropyLoss`.

    Logits are `(K,)`, `(N, K)` or `(N, K, d1..dk)`; targets are class indices of that shape without K, of any integer
    type or boolean, or probabilities of the logits' shape. Everything is computed in float32 (float64 stays), whatever
    the autocast state. In training
    mode `forward` is the loss of the class; after `eval()` it is plain cross entropy for every class, so that
    validation losses compare across methods. Classes masked by a logit of `-inf` cost nothing unless the target gives
    them mass.

    Class weights act as in torch for plain cross entropy and label smoothing; in every other loss the weight of the
    true label multiplies the whole sample. The mean is torch's: over the sum of the weights of the labels for class
    indices, over the number of samples for probabilities.

    Args:
        num_classes: K, at least 1.
        weight: Weight of each class `[K]`, not negative; None weighs all classes 1.
        ignore_index: Class index that does not count; only without probability targets may it be a class.
        reduction: "none" keeps the shape of the class indices, "mean" and "sum" give a scalar.

    Raises:
        ValueError: An argument of the constructor or of `forward` is not what it should be; the message names it.
    """

    takes_probabilities = True
    _label_weights: Tensor  # [K + 1]: of each class, and 0 for an ignored label

    def __init__(
        self,
        num_classes: int,
        *,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__()
        self.num_classes = check_whole("num_classes", num_classes, at_least=1)
        self.ignore_index = check_whole("ignore_index", ignore_index)
        self.reduction = check_reduction(reduction)
        self._is_weighted = weight is not None
        # Not in the state dict: class weights are configuration, and the state dict holds what training learned.
        self.register_buffer("_label_weights", _checked_label_weights(weight, self.num_classes), persistent=False)

    @property
    def weight(self) -> Tensor | None:
        """Weight of each class, `[K]`; None if all are 1."""
        return self._label_weights[: self.num_classes] if self._is_weighted else None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss: a scalar, or with `reduction='none'` one value per class index."""
        logits, target = self.checked(logits, target)
        return self.training_loss(logits, target) if self.training else self.cross_entropy(logits, target)

    @abstractmethod
    def training_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of what `checked` returns; what a subclass defines."""

    def cross_entropy(self, logits: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return torch's cross entropy under this loss's weight, ignore_index and reduction."""
        return cross_entropy(
            logits,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=label_smoothing,
        )

    def hard_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross entropy of each sample `[B]`, not weighted, 0 where it is ignored."""
        return cross_entropy(logits, target, ignore_index=self.ignore_index, reduction="none").flatten()

    def reduce_samples(self, losses: Tensor, target: Tensor) -> Tensor:
        """Weigh each sample's loss by its label, leave ignored samples out, and reduce as `reduction` says."""
        losses = losses.flatten()  # [B]
        if target.is_floating_point():
            weights = self.mixed_weights(flatten_classes(target).to(losses.dtype))
            losses = losses * weights
            count: int | Tensor = len(losses)
        else:
            labels = target.flatten()
            ignored = labels == self.ignore_index
            weights = self._label_weights.to(losses.dtype).index_select(
                0, labels.masked_fill(ignored, self.num_classes)
            )
            losses = (losses * weights).masked_fill(ignored, 0)
            count = weights.sum()
        if self.reduction == "none":
            return losses.view(sample_shape(target))
        return losses.sum() if self.reduction == "sum" else losses.sum() / count

    def mixed_weights(self, target_probs: Tensor) -> Tensor:
        """Return the weight of each sample `[B]` of probability targets `[B, K]`: the mean weight of its label."""
        if self.weight is None:
            return target_probs.new_ones(len(target_probs))
        return (target_probs * self.weight.to(target_probs.dtype)).sum(1)

    def checked(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return both arguments in the types that the rest of a loss computes in, after a check of their shapes.

        The only place where a type is converted: nothing behind it meets another.

        Returns:
            The logits in float32 or float64; the target as int64 class indices, or as probabilities in the logits'
            type.
        """
        shape, dtype = logits.shape, logits.dtype
        class_dim = 1 if len(shape) > 1 else 0
        if len(shape) == 0 or shape[class_dim] != self.num_classes:
            raise ValueError(
                f"logits must have {self.num_classes} classes in dimension {class_dim}, got {tuple(shape)}"
            )
        if not dtype.is_floating_point:
            raise ValueError(f"logits must be floating point, got {dtype}")
        if dtype not in (torch.float32, torch.float64):
            logits = logits.float()
        if target.dtype.is_floating_point:
            if self.ignore_index >= 0:
                raise ValueError(f"ignore_index must be negative with target probabilities, got {self.ignore_index}")
            if target.shape != shape:
                expected = f"of the logits' shape {tuple(shape)}"
                raise ValueError(f"target probabilities must be {expected}, got {tuple(target.shape)}")
            return logits, target if target.dtype == logits.dtype else target.to(logits.dtype)
        if target.dtype not in CLASS_INDEX_TYPES:
            raise ValueError(f"target must hold class indices or probabilities, got {target.dtype}")
        if target.shape != shape[:class_dim] + shape[class_dim + 1 :]:
            samples = tuple(shape[:class_dim] + shape[class_dim + 1 :])
            raise ValueError(f"target class indices must have shape {samples}, got {tuple(target.shape)}")
        return logits, target if target.dtype == torch.int64 else target.long()

    def extra_repr(self) -> str:
        """Return what `print` shows of the configuration."""
        return f"{self.num_classes}, ignore_index={self.ignore_index}, reduction={self.reduction!r}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        """Move the state; widen it, never narrow it: a float16 sum of probabilities soon stops growing."""

        def widen(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            dtype = torch.promote_types(tensor.dtype, moved.dtype)
            return moved if moved.dtype == dtype else tensor.to(device=moved.device, dtype=dtype)

        return super()._apply(widen, recurse)


def sample_shape(target: Tensor) -> torch.Size:
    """Return the shape of a target without its class dimension: that of `reduction="none"`."""
    if not target.is_floating_point():
        return target.shape
    return target.shape[:1] + target.shape[2:] if target.ndim > 1 else torch.Size()


def check_reduction(reduction: Literal["none", "mean", "sum"]) -> Literal["none", "mean", "sum"]:
    """Return how a loss reduces, if it is one of torch's three.

    Raises:
        ValueError: It is none of them.
    """
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    return reduction


def check_interval(name: str, value: Any, interval: str) -> float:
    """Return a number as Python's if it lies in the interval, written as "[0, 1)".

    Args:
        name: What the error calls it.
        value: Python's number, NumPy's, or a tensor or array of one.
        interval: Its bounds.

    Raises:
        ValueError: It is no number, or lies outside.
    """
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    given = _python_number(value)
    number = float(given) if isinstance(given, numbers.Real) else math.nan  # which lies nowhere
    above = low < number if interval[0] == "(" else low <= number
    below = number < high if interval[-1] == ")" else number <= high
    if not (above and below):
        raise ValueError(f"{name} must lie in {interval}, got {given!r}")
    return number


def check_whole(name: str, value: Any, *, at_least: int | None = None) -> int:
    """Return a whole number as Python's.

    Args:
        name: What the error calls it.
        value: Python's integer, NumPy's, or a tensor or array of one.
        at_least: Its smallest value; None for no bound.

    Raises:
        ValueError: It is no whole number, or is below the bound.
    """
    number = _python_number(value)
    is_whole = isinstance(number, numbers.Integral) and not isinstance(number, bool)
    if not is_whole or (at_least is not None and number < at_least):
        bound = "" if at_least is None else f" of at least {at_least}"
        raise ValueError(f"{name} must be a whole number{bound}, got {number!r}")
    return int(number)


def _python_number(value: Any) -> Any:
    """Return NumPy's number, or an array or tensor without dimensions, as Python's; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value


def _checked_label_weights(weight: Tensor | None, num_classes: int) -> Tensor:
    if weight is None:
        weight = torch.ones(num_classes, dtype=torch.float32)
    elif not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.shape != (num_classes,):
        got = f"{weight.dtype} {tuple(weight.shape)}" if isinstance(weight, Tensor) else repr(weight)
        raise ValueError(f"weight must be a floating point tensor of shape ({num_classes},), got {got}")
    elif not (weight.isfinite() & (weight >= 0)).all():
        raise ValueError(f"weight must be finite and not negative, got {weight.tolist()}")
    return F.pad(weight.detach().to(torch.promote_types(weight.dtype, torch.float32)), (0, 1))
