"""Label Smoothing++: how a class's smoothing mass is shared among the other classes is learnt."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ols.losses.base import check_interval
from ols.losses.collecting import CollectingLoss, Reduce
from ols.losses.soft_targets import flatten_classes, one_hot_labels, soft_target_cross_entropy


class LabelSmoothingPlusPlus(CollectingLoss):
    """Cross entropy against `(1 - smoothing) e_y + smoothing C[y]`; C has 0 on its diagonal, and is learnt.

    Chhabra et al., Label Smoothing++: Enhanced Label Regularization for Training Neural Networks, 2025. The paper
    learns C beside the network, from equal rows on, by the reverse cross entropy `-sum_k p_k log q_k` of the target q,
    with no gradient in p. In row y that is least at the mean prediction of the samples of class y, right or wrong,
    without their own class:

        C[y, k] = sum_n p_nk / sum_n sum_{j != y} p_nj,    k != y, over the samples n of class y

    Here C is this minimiser over an epoch, set by `end_epoch()`, where the authors' code takes a step of gradient
    descent a batch: it needs no optimizer, and is the same on all ranks. Their code also halves the loss. All
    probability targets are trained on; rows of one class are collected. A masked class (a logit of -inf) makes the loss
    inf where its target is not 0. Keep the loss outside a DistributedDataParallel module.

    Args:
        num_classes: K, at least 1.
        smoothing: Mass that goes to the other classes, in [0, 1); the paper's alpha.
        weight: Weight of each class `[K]`; the label's weight multiplies the whole sample.
        ignore_index: Class index that neither counts nor collects.
        reduction: "none", "mean" or "sum", as in torch.
    """

    relations: Tensor  # [K, K], C: row = true class, sums to 1, 0 on the diagonal
    prob_sums: Tensor  # [K, K], this epoch's sums of predicted probabilities by label

    def __init__(
        self,
        num_classes: int,
        *,
        smoothing: float = 0.1,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(num_classes, weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.smoothing = check_interval("smoothing", smoothing, "[0, 1)")
        others = 1 - torch.eye(self.num_classes, dtype=torch.float32)
        self.register_buffer("relations", others / max(1, self.num_classes - 1))
        self.register_buffer("prob_sums", torch.zeros_like(others))

    def artifacts(self) -> dict[str, Tensor]:
        """Return C `[K, K]`, row = true class."""
        return {"relations": self.relations}

    def collected(self) -> dict[str, Tensor]:
        """Return this rank's `prob_sums`, themselves and not a copy."""
        return {"prob_sums": self.prob_sums}

    def training_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss against the current targets, and collect for the next ones."""
        if target.numel() == 0:
            return self.cross_entropy(logits, target)  # an empty batch has torch's loss
        rows = flatten_classes(logits)  # [B, K]
        if target.is_floating_point():
            if target.requires_grad:
                raise ValueError("target must not require grad: the loss has a gradient in the logits only")
            target_probs = flatten_classes(target)
            with torch.autocast(logits.device.type, enabled=False):
                relations = target_probs @ self.relations.to(rows.dtype)
            labels, counts = one_hot_labels(target_probs)
        else:
            labels = target.flatten()
            F.nll_loss(rows.detach(), labels, ignore_index=self.ignore_index)  # torch's error, for a label out of range
            counts = labels != self.ignore_index
            labels = labels.masked_fill(~counts, 0)
            relations = self.relations.index_select(0, labels).to(rows.dtype)
            target_probs = torch.zeros_like(relations).scatter(1, labels.unsqueeze(1), 1.0)
        soft = (1 - self.smoothing) * target_probs + self.smoothing * relations
        losses, probs, _ = soft_target_cross_entropy(rows, soft)
        if self.is_collecting:
            counts = counts & probs.isfinite().all(1)
            found = torch.where(counts.unsqueeze(1), probs, 0)
            self.prob_sums.index_add_(0, labels, found.to(self.prob_sums.dtype))
        return self.reduce_samples(losses, target)

    def end_epoch(self, *, reduce: Reduce | None = None) -> dict[str, float]:
        """Turn the sums of all ranks into the next C, on every rank; a class without a sample keeps its row.

        Args:
            reduce: Returns a tensor summed over ranks, or sums it in place and returns None; instead of an all-reduce
                over the default process group, if there is one.

        Returns:
            Mean entropy of the rows in nats, by tag.

        Raises:
            ValueError: The default group cannot reduce on the device of the loss.
        """
        self.reduce_collected(reduce)
        self.prob_sums.fill_diagonal_(0)
        mass = self.prob_sums.sum(1, keepdim=True)
        self.relations.copy_(torch.where(mass > 0, self.prob_sums / mass, self.relations))
        self.prob_sums.zero_()
        return {"relations/mean_entropy": torch.special.entr(self.relations).sum(1).mean().item()}

    def _load_from_state_dict(self, *args):
        super()._load_from_state_dict(*args)
        self.keep_on_rank_0()
