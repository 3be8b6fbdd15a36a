"""Online label smoothing's one pass: the loss of a batch, and the probabilities it adds to the next soft labels."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ols.losses.soft_targets import refuse_second_derivative

LOG2_E = math.log2(math.e)


class CollectingCrossEntropy(torch.autograd.Function):
    """Cross entropy of class indices against `hard_weight e_y + (1 - hard_weight) soft_labels[y]`.

    Adds, in place, the probabilities of the rows predicted correctly to the sums of their class. The last row of the
    sums and counts belongs to no class: it takes the rows that are left out, so that no operation selects any. Every
    operation here is paid for at each step; `argmax`, fancy indexing, `index_put_` and one-hot products, which would
    read more easily, cost several times what these do.
    """

    @staticmethod
    def forward(
        ctx,
        logits: Tensor,
        labels: Tensor,
        soft_labels: Tensor,
        label_weights: Tensor,
        sums: Tensor | None,
        counts: Tensor | None,
        one: Tensor,
        minus_hard_weight: Tensor,
        hard_weight: float,
        loss_scale: float,
        ignore_index: int,
        reduction: str,
    ) -> Tensor:
        """Return the loss, a scalar or `[B]`.

        Args:
            ctx: What the backward pass needs: softmax minus target `[B, K]` and the factor of each row.
            logits: `[B, K]`, float32 or float64.
            labels: `[B]`, int64.
            soft_labels: `[K, K]`, each row a distribution.
            label_weights: `[K + 1]`, the last 0.
            sums: `[K + 1, K]`, or None to collect nothing.
            counts: `[K + 1]`, int64.
            one: 1, int64 `[1]`: a constant on the device, for it costs an operation to make one there.
            minus_hard_weight: The same for `-hard_weight`, `[1, 1]`.
            hard_weight: In [0, 1].
            loss_scale: Factor of the loss.
            ignore_index: Label that does not count.
            reduction: "none", "mean" or "sum".
        """
        top = logits.amax(1, keepdim=True)
        shifted = logits - top
        # nll_loss and not gather: torch's own error for a label out of range. 0 for an ignored label.
        gap = F.nll_loss(shifted, labels, reduction="none", ignore_index=ignore_index)
        ignored = labels == ignore_index
        rows = labels.masked_fill(ignored, len(soft_labels))
        labels = rows.clamp_max(len(soft_labels) - 1)
        soft = soft_labels.index_select(0, labels).to(logits.dtype)  # [B, K]
        if hard_weight == 1:
            soft.zero_()  # a masked class would cost inf, and no share of inf is 0

        expected = shifted.mul_(soft).nansum(1)  # nansum: 0 * -inf is 0
        probs = torch.sub(logits, top, out=shifted).mul_(LOG2_E).exp2_()
        norm = probs.sum(1, keepdim=True)
        probs.div_(norm)
        loss = norm.log_().squeeze(1).sub_(expected, alpha=1 - hard_weight).add_(gap, alpha=hard_weight)
        loss.masked_fill_(ignored, 0)
        factor = label_weights.index_select(0, rows).to(loss.dtype)

        if sums is not None:
            # A gap of nan or inf, beside a logit of nan or inf, is true as well: the row is left out.
            rows.masked_fill_(gap.bool(), len(soft_labels))
            sums.index_add_(0, rows, probs.to(sums.dtype))
            counts.index_add_(0, rows, one.expand_as(rows))

        if reduction == "mean":
            factor.div_(factor.sum())
        if loss_scale != 1:
            factor.mul_(loss_scale)

        error = probs.sub_(soft, alpha=1 - hard_weight)
        error.scatter_add_(1, labels.unsqueeze(1), minus_hard_weight.to(error.dtype).expand_as(top))
        ctx.save_for_backward(error, factor)
        return loss * factor if reduction == "none" else torch.dot(loss, factor)

    @staticmethod
    def backward(ctx, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient in the logits."""
        refuse_second_derivative()
        error, factor = ctx.saved_tensors
        return error * (grad_loss * factor).unsqueeze(1), *(None,) * 11
