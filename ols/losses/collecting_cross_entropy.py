"""Online label smoothing's one pass: the loss of a batch, and the probabilities it adds to the next soft labels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ols.losses.soft_targets import refuse_second_derivative


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
        state: tuple[Tensor, ...],
        sums: tuple[Tensor, Tensor] | None,
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
            state: Soft labels `[K, K]`, each row a distribution; weights of the labels `[K + 1]`, the last 0; and two
                constants that would cost an operation to make on the device: 1, int64 `[1]`, and `-hard_weight`,
                `[1, 1]`. A tuple, because each argument of a Function costs.
            sums: Sums of probabilities `[K + 1, K]` and counts `[K + 1]`, int64; None collects nothing.
            hard_weight: In [0, 1].
            loss_scale: Factor of the loss.
            ignore_index: Label that does not count.
            reduction: "none", "mean" or "sum".
        """
        soft_labels, label_weights, one, minus_hard_weight = state
        dtype, num_classes = logits.dtype, len(soft_labels)
        top = logits.amax(1, keepdim=True)
        shifted = logits - top
        # nll_loss and not gather: torch's own error for a label out of range. 0 for an ignored label.
        gap = F.nll_loss(shifted, labels, reduction="none", ignore_index=ignore_index)
        ignored = labels == ignore_index
        rows = labels.masked_fill(ignored, num_classes)
        labels = rows.clamp_max(num_classes - 1)
        soft = _as_dtype(soft_labels.index_select(0, labels), dtype)  # [B, K]
        if hard_weight == 1:
            soft.zero_()  # a masked class would cost inf, and no share of inf is 0

        expected = shifted.mul_(soft).nansum(1)  # nansum: 0 * -inf is 0
        probs = torch.softmax(logits, 1, out=shifted)
        log_likelihood = probs.amax(1).log_()  # of the top class, which the shift has made that of logit 0
        log_likelihood.add_(expected, alpha=1 - hard_weight).sub_(gap, alpha=hard_weight).masked_fill_(ignored, 0)
        factor = _as_dtype(label_weights.index_select(0, rows), dtype)

        if sums is not None:
            # A gap of nan or inf, beside a logit of nan or inf, is true as well: the row is left out.
            rows.masked_fill_(gap.bool(), num_classes)
            prob_sums, correct_counts = sums
            prob_sums.index_add_(0, rows, _as_dtype(probs, prob_sums.dtype))
            correct_counts.index_add_(0, rows, one.expand_as(rows))

        if reduction == "mean":
            factor.div_(factor.sum())
        if loss_scale != 1:
            factor.mul_(loss_scale)

        error = probs.sub_(soft, alpha=1 - hard_weight)
        error.scatter_add_(1, labels.unsqueeze(1), _as_dtype(minus_hard_weight, dtype).expand_as(top))
        ctx.save_for_backward(error, factor)
        return log_likelihood * -factor if reduction == "none" else -torch.dot(log_likelihood, factor)

    @staticmethod
    def backward(ctx, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient in the logits."""
        refuse_second_derivative()
        error, factor = ctx.saved_tensors
        return error * (grad_loss * factor).unsqueeze(1), *(None,) * 7


def _as_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `tensor.to(dtype)`, without the cost of a call where there is nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
