"""Cross entropy against distributions: pure functions, no state."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """`F.cross_entropy`, to the bit for finite logits, in which 0 * -inf is 0.

    A class masked by a logit of -inf costs nothing where its target mass is zero; torch gives nan. The smoothing
    convention is torch's: (1 - smoothing) e_y + smoothing / K.

    Args:
        logits: `(K,)`, `(N, K)` or `(N, K, d1..dk)`, float32 or float64.
        target: Class indices, or probabilities of the logits' shape.
        weight: `[K]` or None, of any floating point dtype.
        ignore_index: As in torch.
        reduction: As in torch.
        label_smoothing: In [0, 1].
    """
    if weight is not None:
        weight = weight.to(logits.dtype)
    massless = None
    if target.is_floating_point() and not label_smoothing:
        massless = target == 0
    if weight is not None and (target.is_floating_point() or label_smoothing):
        weightless = (weight == 0).view(-1, *[1] * (logits.ndim - 2))
        massless = weightless if massless is None else massless | weightless
    if massless is not None:
        logits = torch.where(massless & logits.isneginf(), torch.finfo(logits.dtype).min, logits)
    return F.cross_entropy(
        logits, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )


def flatten_classes(logits: Tensor) -> Tensor:
    """Return `(K,)`, `(N, K)` or `(N, K, d1..dk)` as rows `[B, K]`, in the order of the flattened class indices."""
    if logits.ndim == 1:
        return logits.unsqueeze(0)
    return logits if logits.ndim == 2 else logits.movedim(1, -1).flatten(0, -2)


def one_hot_labels(target_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest class of each row `[B]`, and whether the row is one-hot `[B]`, evenly smoothed or not.

    `(1 - s) e_y + s / K` has K - 1 equal entries whatever s is; a mixture of two classes has not, where K is above 2.
    """
    num_classes = target_probs.shape[1]
    top, labels = target_probs.max(1)
    low = target_probs.amin(1)
    if num_classes < 3:
        return labels, (top == 1) & (low == (1 if num_classes == 1 else 0))
    alike = (target_probs == low.unsqueeze(1)).sum(1) == num_classes - 1
    mass = top + (num_classes - 1) * low
    return labels, alike & ((mass - 1).abs() < 1e-2)  # as much as bfloat16 rounds


def soft_target_cross_entropy(logits: Tensor, target_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy `-sum_k q_k log p_k` of each row, in which 0 * -inf is 0.

    Rows of q need not sum to 1. The loss has one derivative, in the logits; a second one raises.

    Args:
        logits: `[B, K]`, float32 or float64.
        target_probs: q, `[B, K]`, not negative, in the dtype of the logits.

    Returns:
        The loss `[B]`, and without gradient the probabilities `[B, K]` and the largest logits `[B]`.
    """
    return _SoftTargetCrossEntropy.apply(logits, target_probs)


class _SoftTargetCrossEntropy(torch.autograd.Function):
    """Saves one tensor of B x K numbers, softmax minus target, where autograd would save three."""

    @staticmethod
    def forward(ctx, logits: Tensor, target_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        mass = target_probs.sum(1)
        top = logits.amax(1, keepdim=True)
        shifted_targets = (logits - top).mul_(target_probs)
        probs = torch.softmax(logits, 1)
        log_norm = probs.amax(1).log_().neg_()  # log sum_k exp(z_k - top)
        loss = torch.addcmul(-shifted_targets.nansum(1), mass, log_norm)  # nansum: 0 * -inf is 0
        ctx.save_for_backward(torch.addcmul(-target_probs, probs, mass.unsqueeze(1)))
        top = top.squeeze(1)
        ctx.mark_non_differentiable(probs, top)
        return loss, probs, top

    @staticmethod
    def backward(ctx, grad_loss: Tensor | None, *_unused: None) -> tuple[Tensor | None, None]:
        refuse_second_derivative()
        if grad_loss is None:
            return None, None
        (error,) = ctx.saved_tensors
        return error * grad_loss.unsqueeze(1), None


def refuse_second_derivative() -> None:
    """Raise inside a backward pass that is itself being recorded: its derivative would be silently wrong."""
    if torch.is_grad_enabled():
        raise RuntimeError("this loss can be differentiated only once: it does not support create_graph=True")
