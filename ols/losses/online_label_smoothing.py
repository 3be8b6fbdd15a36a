"""Online label smoothing: the soft labels of an epoch are what the model predicted in the one before."""

import warnings
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ols.losses.base import check_interval, check_whole
from ols.losses.collecting import CollectingLoss, Reduce
from ols.losses.collecting_cross_entropy import CollectingCrossEntropy
from ols.losses.soft_targets import flatten_classes, one_hot_labels, soft_target_cross_entropy

ROWS_AT_ONCE = 256  # of a K x K matrix: a copy of a whole one would be a third beside the two of the state

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "robust": {"initial": "smoothed", "hard_weight": 0.8},
    "official_cifar": {"initial": "zeros", "unseen": "uniform"},
    "official_finegrained": {"loss_scale": 2.0, "freeze_above": 0.88, "unseen": "uniform"},
}


class OnlineLabelSmoothing(CollectingLoss):
    """Cross entropy against `hard_weight e_y + (1 - hard_weight) soft_labels[y]`, with soft labels learnt as it trains.

    Zhang et al., Delving Deep into Label Smoothing, IEEE TIP 2021; the paper's alpha is `hard_weight`. In training mode
    with gradients enabled, every sample whose label has the largest logit (a tie counts) adds its probabilities to its
    class; `end_epoch()` turns the sums into the next soft labels. Class weights multiply the whole sample. Memory is
    two K x K matrices: 0.2 MB at K = 165, 8 MB at 1,000, 3.8 GB at 21,841. A masked class (a logit of -inf) makes the
    loss inf where its soft label is not 0.

    All probability targets are trained on; rows of one class are collected. These are one-hot rows, and one-hot rows
    that were smoothed evenly, as timm's Mixup does by 0.1 unless told otherwise: one entry is above all others, and
    these are equal. Of two classes a smoothed row looks like a mixed one and is not collected.

    Keep the loss outside a DistributedDataParallel module, which would overwrite the other ranks' sums at each forward.

    Args:
        num_classes: K, at least 1.
        hard_weight: Share of the hard label, in [0, 1].
        initial: Soft labels S of the first epoch: "uniform" (1 / K, the paper), "smoothed"
            (`(1 - smoothing) e_y + smoothing / K`), "hard" (e_y), "zeros" (the authors' CIFAR script), or distributions
            `[K, K]`, a row per class.
        smoothing: Smoothing of `initial="smoothed"` and of `prior_count`, in [0, 1), over all K classes.
        unseen: Next row of a class without a correct prediction: "keep" its row or "uniform" (the authors' code).
        momentum: Share m of the old soft labels in the next ones, `S[y] <- m S[y] + (1 - m) new row`, in [0, 1); 0 is
            the paper.
        prior_count: Correct predictions that the evenly smoothed label (by `smoothing`) counts as in each new row, not
            negative: `(sum of n predictions + prior_count * smoothed label) / (n + prior_count)`; 0 is the paper.
        min_correct: Correct predictions that a class must have had since training began, over all epochs and ranks,
            for its first row of its own; before, it keeps its row of `initial`, best "smoothed" or "hard", whatever
            `unseen` is. With n_y the total after an epoch, `S[y] <- new row if n_y >= min_correct, else S[y]`. 0, the
            paper, and 1 with `unseen="keep"` are the same.
        loss_scale: Factor of the training loss, positive.
        freeze_above: Keep the row of a seen class once its maximum has reached this, in (0, 1]; None for never.
        weight: Weight of each class `[K]`; the label's weight multiplies the whole sample.
        ignore_index: Class index that neither counts nor collects.
        reduction: "none", "mean" or "sum", as in torch.
    """

    soft_labels: Tensor  # [K, K], row = true class, sums to 1
    _prob_sums: Tensor  # [K + 1, K], the last row of samples that do not count
    _correct_counts: Tensor  # [K + 1]
    total_correct: Tensor  # [K], correct predictions in the epochs ended; only with `min_correct`
    presets = PRESETS

    def __init__(
        self,
        num_classes: int,
        *,
        hard_weight: float = 0.5,
        initial: Literal["uniform", "smoothed", "hard", "zeros"] | Tensor = "uniform",
        smoothing: float = 0.1,
        unseen: Literal["keep", "uniform"] = "keep",
        momentum: float = 0.0,
        prior_count: float = 0.0,
        min_correct: int = 0,
        loss_scale: float = 1.0,
        freeze_above: float | None = None,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(num_classes, weight=weight, ignore_index=ignore_index, reduction=reduction)
        num_classes = self.num_classes
        if unseen not in ("keep", "uniform"):
            raise ValueError(f"unseen must be 'keep' or 'uniform', got {unseen!r}")
        self.hard_weight = check_interval("hard_weight", hard_weight, "[0, 1]")
        self.unseen = unseen
        self.momentum = check_interval("momentum", momentum, "[0, 1)")
        self.prior_count = check_interval("prior_count", prior_count, "[0, inf)")
        self.min_correct = check_whole("min_correct", min_correct, at_least=0)
        self.loss_scale = check_interval("loss_scale", loss_scale, "(0, inf)")
        self.freeze_above = None if freeze_above is None else check_interval("freeze_above", freeze_above, "(0, 1]")
        self.smoothing = check_interval("smoothing", smoothing, "[0, 1)")
        self.register_buffer("soft_labels", _initial_soft_labels(num_classes, initial, self.smoothing))
        # One row more than classes: it takes the samples that do not count, which no operation then has to select.
        self.register_buffer("_prob_sums", self.soft_labels.new_zeros(num_classes + 1, num_classes), persistent=False)
        self.register_buffer("_correct_counts", torch.zeros(num_classes + 1, dtype=torch.int64), persistent=False)
        self.register_buffer("_one", torch.ones(1, dtype=torch.int64), persistent=False)
        self.register_buffer(
            "_minus_hard_weight", self.soft_labels.new_full((1, 1), -self.hard_weight), persistent=False
        )
        if self.min_correct:
            self.register_buffer("total_correct", torch.zeros(num_classes, dtype=torch.int64))
        self._has_zero_rows = isinstance(initial, str) and initial == "zeros"

    @classmethod
    def preset(cls, name: Literal["paper", "robust", "official_cifar", "official_finegrained"], num_classes: int):
        """Return a variant by name: the paper's, the advised one, or the authors' CIFAR or fine-grained script."""
        if name not in PRESETS:
            raise ValueError(f"name must be one of {', '.join(PRESETS)}, got {name!r}")
        return cls(num_classes, **PRESETS[name])

    @property
    def prob_sums(self) -> Tensor:
        """This epoch's sums of predicted probabilities, `[K, K]`, of the samples predicted correctly."""
        return self._prob_sums[: self.num_classes]

    @property
    def correct_counts(self) -> Tensor:
        """This epoch's numbers of samples predicted correctly, `[K]`, int64."""
        return self._correct_counts[: self.num_classes]

    def artifacts(self) -> dict[str, Tensor]:
        """Return the soft labels `[K, K]`, row = true class."""
        return {"soft_labels": self.soft_labels}

    def collected(self) -> dict[str, Tensor]:
        """Return this rank's `prob_sums` and `correct_counts`, themselves and not copies."""
        return {"prob_sums": self.prob_sums, "correct_counts": self.correct_counts}

    def training_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss against the current soft labels, and collect for the next ones."""
        if target.numel() == 0:
            return self.cross_entropy(logits, target)  # an empty batch has torch's loss
        rows = flatten_classes(logits)  # [B, K]
        if target.is_floating_point() or self._has_zero_rows:
            return self._general_loss(rows, target)
        state = self._buffers  # each attribute that is a buffer costs a call of nn.Module.__getattr__
        loss = CollectingCrossEntropy.apply(
            rows,
            target if target.ndim == 1 else target.flatten(),
            (state["soft_labels"], state["_label_weights"], state["_one"], state["_minus_hard_weight"]),
            (state["_prob_sums"], state["_correct_counts"]) if self.is_collecting else None,
            self.hard_weight,
            self.loss_scale,
            self.ignore_index,
            self.reduction,
        )
        return loss.view(target.shape) if self.reduction == "none" else loss

    def _general_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss where the one fused pass does not serve: probability targets, and rows of zeros.

        Args:
            logits: `[B, K]`.
            target: Probabilities, or class indices, as they were given.
        """
        soft, labels, eligible = (
            self._mixed(logits, target) if target.is_floating_point() else self._rows(logits, target)
        )
        losses, probs, top = soft_target_cross_entropy(logits, soft)
        self._collect(logits, probs, top, labels, eligible)
        return self.loss_scale * self.reduce_samples(losses, target)

    def _mixed(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mixture of soft labels that probabilities are of classes `[B, K]`, labels, and which are clear."""
        if target.requires_grad:
            raise ValueError("target must not require grad: the loss has a gradient in the logits only")
        target_probs = flatten_classes(target).to(logits.dtype)  # [B, K]
        with torch.autocast(logits.device.type, enabled=False):
            soft = target_probs @ self.soft_labels.to(logits.dtype)
        soft.mul_(1 - self.hard_weight).add_(target_probs, alpha=self.hard_weight)
        return soft, *one_hot_labels(target_probs)

    def _rows(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the targets of class indices `[B, K]`, where rows of zeros leave the hard part alone, and labels."""
        labels = target.flatten()
        F.nll_loss(logits.detach(), labels, ignore_index=self.ignore_index)  # torch's error for a label out of range
        ignored = labels == self.ignore_index
        labels = labels.masked_fill(ignored, 0)
        soft = self.soft_labels.index_select(0, labels).to(logits.dtype).mul_(1 - self.hard_weight)
        soft.scatter_add_(1, labels.unsqueeze(1), torch.full_like(soft[:, :1], self.hard_weight))
        return soft, labels, ~ignored

    def _collect(self, logits: Tensor, probs: Tensor, top: Tensor, labels: Tensor, eligible: Tensor) -> None:
        """Add the probabilities `[B, K]` of eligible rows, predicted correctly, to the sums of their labels `[B]`."""
        if not self.is_collecting:
            return
        gap = top - logits.detach().gather(1, labels.unsqueeze(1)).squeeze(1)  # nan beside a logit of nan or inf
        rows = labels.masked_fill(~(eligible & (gap == 0)), self.num_classes)
        self._prob_sums.index_add_(0, rows, probs.to(self._prob_sums.dtype))
        self._correct_counts.index_add_(0, rows, torch.ones_like(rows))

    def end_epoch(self, *, reduce: Reduce | None = None) -> dict[str, float]:
        """Turn the sums of all ranks into the next soft labels, on every rank, and start the next epoch's sums.

        With nothing collected on any rank the soft labels stay as they are, with a warning.

        Args:
            reduce: Returns a tensor summed over ranks, or sums it in place and returns None; instead of an all-reduce
                over the default process group, if there is one.

        Returns:
            By tag: mean and minimum of the diagonal, mean entropy of the rows in nats, mean effective smoothing
            (the mass that targets put on other classes), and the number of classes without a correct prediction.

        Raises:
            ValueError: The default group cannot reduce on the device of the loss.
        """
        self.reduce_collected(reduce)
        seen = self.correct_counts > 0  # [K]
        if seen.any():
            self._replace_soft_labels(seen)
        else:
            warnings.warn(
                "end_epoch: no correct prediction was collected, so the soft labels stay; of probability targets only "
                "one-hot rows are collected, smoothed ones too where there are three classes or more",
                stacklevel=2,
            )
        self._prob_sums.zero_()
        self._correct_counts.zero_()
        diagonal = self.soft_labels.diagonal()
        return {
            "soft_labels/mean_diagonal": diagonal.mean().item(),
            "soft_labels/min_diagonal": diagonal.min().item(),
            "soft_labels/mean_entropy": _row_entropies(self.soft_labels).mean().item(),
            "soft_labels/effective_smoothing": (1 - self.hard_weight) * (1 - diagonal.mean().item()),
            "soft_labels/unseen_classes": float(self.num_classes - seen.sum().item()),
        }

    def _replace_soft_labels(self, seen: Tensor) -> None:
        """Move the rows of the classes seen, `[K]`, towards this epoch's mean predictions; overwrites the sums."""
        waiting = torch.zeros_like(seen)
        if self.min_correct:
            waiting = self.total_correct.add_(self.correct_counts) < self.min_correct
        sums = self.prob_sums
        if self.prior_count:
            sums += self.prior_count * self.smoothing / self.num_classes
            sums.diagonal().add_(self.prior_count * (1 - self.smoothing))
        sums.div_(sums.sum(1, keepdim=True).masked_fill_(~seen.unsqueeze(1), 1))
        empty = self.soft_labels.sum(1) == 0
        share = torch.full_like(sums[:, 0], 1 - self.momentum).masked_fill_(empty, 1)
        if self.freeze_above is not None:
            share.masked_fill_(self.soft_labels.amax(1) >= self.freeze_above, 0)
        share.masked_fill_(~seen | waiting, 0)
        self.soft_labels.lerp_(sums, share.unsqueeze(1))
        uniform = ~seen & ~waiting if self.unseen == "uniform" else (~seen | waiting) & empty  # never a row of zeros
        self.soft_labels.masked_fill_(uniform.unsqueeze(1), 1 / self.num_classes)
        self._has_zero_rows = False

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + name: value for name, value in self.collected().items()})

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        state = dict(state_dict)
        for name in ("soft_labels", "prob_sums", "correct_counts"):
            key, own = prefix + name, getattr(self, name)
            if key in state and state[key].shape != own.shape:
                raise ValueError(f"{key} must have shape {tuple(own.shape)}, got {tuple(state[key].shape)}")
        if prefix + "soft_labels" in state:
            _check_distributions(f"{prefix}soft_labels", state[prefix + "soft_labels"], zeros_allowed=True)
        for name in ("prob_sums", "correct_counts"):
            saved = state.pop(prefix + name, None)
            if saved is not None:
                getattr(self, name).copy_(saved)
            elif strict:
                missing_keys.append(prefix + name)
        super()._load_from_state_dict(state, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        self.keep_on_rank_0()
        self._has_zero_rows = bool((self.soft_labels.sum(1) == 0).any())

    def extra_repr(self) -> str:
        """Return the configuration."""
        return f"{super().extra_repr()}, hard_weight={self.hard_weight}, unseen={self.unseen!r}"


def _initial_soft_labels(num_classes: int, initial: str | Tensor, smoothing: float) -> Tensor:
    if isinstance(initial, Tensor):
        if initial.shape != (num_classes, num_classes) or not initial.is_floating_point():
            expected = f"a floating point tensor of shape {(num_classes, num_classes)}"
            raise ValueError(f"initial must be {expected}, got {initial.dtype} {tuple(initial.shape)}")
        _check_distributions("initial", initial)
        return initial.detach().to(torch.promote_types(initial.dtype, torch.float32), copy=True)
    smoothings = {"uniform": 1.0, "smoothed": smoothing, "hard": 0.0}
    if isinstance(initial, str) and initial == "zeros":
        return torch.zeros(num_classes, num_classes, dtype=torch.float32)
    if not isinstance(initial, str) or initial not in smoothings:
        raise ValueError(f"initial must be 'uniform', 'smoothed', 'hard', 'zeros' or a tensor, got {initial!r}")
    hard = torch.eye(num_classes, dtype=torch.float32)
    return hard.mul_(1 - smoothings[initial]).add_(smoothings[initial] / num_classes)


def _check_distributions(name: str, matrix: Tensor, *, zeros_allowed: bool = False) -> None:
    for start in range(0, len(matrix), ROWS_AT_ONCE):
        rows = matrix[start : start + ROWS_AT_ONCE]
        mass = rows.double().sum(1)
        right = (rows >= 0).all(1) & ((mass - 1).abs() < 1e-3)
        if zeros_allowed:
            right |= (rows == 0).all(1)
        if not right.all():
            row = int(right.logical_not().nonzero()[0])
            raise ValueError(
                f"{name} must hold distributions in its rows, got sum {mass[row]:.6g} in row {start + row}"
            )


def _row_entropies(matrix: Tensor) -> Tensor:
    """Return the entropy of each row, in nats."""
    # Results kept one by one would lie between the freed copies on the heap, which could not be used again.
    entropies = matrix.new_empty(len(matrix))
    for rows, part in zip(matrix.split(ROWS_AT_ONCE), entropies.split(ROWS_AT_ONCE), strict=True):
        torch.sum(torch.special.entr(rows), 1, out=part)
    return entropies
