"""Progressive self-distillation: the teacher of a sample is what the model predicted for it an epoch ago."""

from typing import Literal

import torch
from torch import Tensor

from ols.losses.base import check_interval, check_whole
from ols.losses.collecting import CollectingLoss, Reduce
from ols.losses.focal import label_losses
from ols.losses.soft_targets import flatten_classes, soft_target_cross_entropy


class ProgressiveSelfKD(CollectingLoss):
    """Cross entropy against `(1 - a_t) e_y + a_t P_{t-1}(x)`, with `a_t = final_distill_weight t / epochs`.

    Kim et al., Self-Knowledge Distillation with Progressive Refinement of Targets, ICCV 2021 (PS-KD). t = 1, 2, ... is
    the epoch, and P_{t-1}(x) the model's prediction of the same sample in the epoch before, in training, under that
    epoch's augmentation, as in the authors' code. A sample that never had one, as in the first epoch, has the hard
    label; one that was left out of an epoch keeps what it had. Class indices only: a mixed image has no past.

    `forward(logits, target, index)` takes the number of each sample in training (`needs_index`). Memory is two tables
    of N x K numbers: at N = 100,000 and K = 165, 66 MB in float16 and 132 MB in float32, on the device of the loss; and
    a trainer that can undo a step copies one of them at each step. Keep the loss outside a DistributedDataParallel
    module. On all ranks together each sample is seen once an epoch, or the mean of its predictions is taken.

    Args:
        num_classes: K, at least 1.
        final_distill_weight: Share of the past prediction in the last epoch, in [0, 1]; the paper's alpha_T.
        memory: Type of the tables, "float16" or "float32"; float16 keeps probabilities to 3 digits, and none below
            6e-8.
        num_samples: N, of the training data; needed before the first training step.
        epochs: Epochs of the whole training, T; needed likewise.
        weight: Weight of each class `[K]`; the label's weight multiplies the whole sample.
        ignore_index: Class index that neither counts nor collects.
        reduction: "none", "mean" or "sum", as in torch.

    Raises:
        ValueError: Also for probability targets in training, or without an index.
    """

    takes_probabilities = False
    needs_index = True
    past_probs: Tensor  # [N, K], of the epoch before; rows of 0 where there is none
    epochs_ended: Tensor  # []
    prob_sums: Tensor  # [N, K], of this epoch
    seen_counts: Tensor  # [N], how often this epoch has predicted a sample

    def __init__(
        self,
        num_classes: int,
        *,
        final_distill_weight: float = 0.8,
        memory: Literal["float16", "float32"] = "float16",
        num_samples: int | None = None,
        epochs: int | None = None,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(num_classes, weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.final_distill_weight = check_interval("final_distill_weight", final_distill_weight, "[0, 1]")
        if memory not in ("float16", "float32"):
            raise ValueError(f"memory must be 'float16' or 'float32', got {memory!r}")
        self.memory = memory
        self.num_samples = None if num_samples is None else check_whole("num_samples", num_samples, at_least=1)
        self.epochs = None if epochs is None else check_whole("epochs", epochs, at_least=1)
        table = torch.zeros(self.num_samples or 0, self.num_classes, dtype=getattr(torch, memory))
        self.register_buffer("past_probs", table)
        self.register_buffer("epochs_ended", torch.zeros((), dtype=torch.int64))
        self.register_buffer("prob_sums", torch.zeros_like(table))
        self.register_buffer("seen_counts", torch.zeros(len(table), dtype=torch.int64))

    def collected(self) -> dict[str, Tensor]:
        """Return this rank's `prob_sums` and `seen_counts`, themselves and not copies."""
        return {"prob_sums": self.prob_sums, "seen_counts": self.seen_counts}

    def forward(self, logits: Tensor, target: Tensor, index: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            logits: As in every loss.
            target: Class indices.
            index: Number of each sample in [0, N), whole numbers of the target's shape; required in training, ignored
                in eval.

        Raises:
            ValueError: In training, without an index of that shape, `num_samples` or `epochs`.
        """
        logits, target = self.checked(logits, target)
        if not self.training:
            return self.cross_entropy(logits, target)
        for name in ("num_samples", "epochs"):
            if getattr(self, name) is None:
                raise ValueError(f"{name} must be given to {type(self).__name__} for training, got None")
        if target.is_floating_point():
            label_losses(self, logits, target)  # which refuses it
        if index is None or index.shape != target.shape or index.dtype not in (torch.int32, torch.int64):
            got = None if index is None else f"{index.dtype} {tuple(index.shape)}"
            raise ValueError(f"index must hold whole numbers of shape {tuple(target.shape)}, got {got}")
        return self.training_loss(logits, target, index.long())

    def training_loss(  # type: ignore[override]  # only its own forward calls it
        self, logits: Tensor, target: Tensor, index: Tensor
    ) -> Tensor:
        """Return the loss against the past predictions, and collect the present ones."""
        hard = label_losses(self, logits, target)
        if target.numel() == 0:
            return self.reduce_samples(hard, target)
        rows, index = flatten_classes(logits), index.flatten()
        past = self.past_probs.index_select(0, index).to(rows.dtype)  # [B, K]
        mass = past.sum(1, keepdim=True)
        soft, probs, _ = soft_target_cross_entropy(rows, past / mass.masked_fill(mass == 0, 1))
        if self.is_collecting:
            counts = (target.flatten() != self.ignore_index) & probs.isfinite().all(1)
            found = torch.where(counts.unsqueeze(1), probs, 0)
            self.prob_sums.index_add_(0, index, found.to(self.prob_sums.dtype))
            self.seen_counts.index_add_(0, index, counts.long())
        share = (self.distill_weight * (mass.squeeze(1) != 0)).to(rows.dtype)
        return self.reduce_samples(torch.lerp(hard, soft, share), target)

    @property
    def distill_weight(self) -> Tensor:
        """Share of the past prediction in this epoch, `a_t`, a tensor without dimensions."""
        epochs = self.epochs or 1
        return self.final_distill_weight * (self.epochs_ended + 1).clamp(max=epochs) / epochs

    def end_epoch(self, *, reduce: Reduce | None = None) -> dict[str, float]:
        """Make this epoch's predictions of all ranks the next one's past, on every rank; others keep what they have.

        Args:
            reduce: Returns a tensor summed over ranks, or sums it in place and returns None; instead of an all-reduce
                over the default process group, if there is one.

        Returns:
            By tag: the share of the past predictions in the next epoch, and the fraction of samples that have one.

        Raises:
            ValueError: The default group cannot reduce on the device of the loss.
        """
        self.reduce_collected(reduce)
        counts = self.seen_counts.unsqueeze(1)
        self.prob_sums.div_(counts.clamp(min=1))
        torch.where(counts > 0, self.prob_sums, self.past_probs, out=self.past_probs)
        for sums in self.collected().values():
            sums.zero_()
        self.epochs_ended += 1
        known = (self.past_probs.amax(1) > 0).double().mean().item() if self.num_samples else 0.0
        return {"past/distill_weight": self.distill_weight.item(), "past/known_fraction": known}

    def _load_from_state_dict(self, *args):
        super()._load_from_state_dict(*args)
        self.keep_on_rank_0()
