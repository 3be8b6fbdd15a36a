"""Teacher-free knowledge distillation: a made-up teacher, or the model's own earlier self.

Yuan et al., Revisiting Knowledge Distillation via Label Smoothing Regularization, CVPR 2020.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from ols.losses.base import LabelLoss, check_interval
from ols.losses.soft_targets import cross_entropy, flatten_classes, soft_target_cross_entropy


class VirtualTeacherKD(LabelLoss):
    """`(1 - a) CE + a T^2 KL(teacher^T, p^T)` with a teacher that gives the label `correct_prob`: Tf-KD_reg.

    The other K - 1 classes share the rest. `form="paper"` tempers both sides by T, sums the KL over classes and
    averages it over samples. `form="release"` is what the authors' code computes: no temperature on the student, a
    softmax of p_d / T (of probabilities), the KL averaged over N * K and multiplied by `multiplier`. That is
    `effective_scale` times label smoothing by `effective_smoothing` plus a constant, and is computed so: with K = 165
    and multiplier 100, 0.9606 and 0.0631. Every class gets mass, so a masked class makes the loss inf.

    Args:
        num_classes: K, at least 1.
        distill_weight: Share of the teacher, in [0, 1]; the paper's alpha.
        temperature: T, positive.
        correct_prob: What the teacher gives the label, in [1 / K, 1].
        form: "paper" or "release".
        multiplier: Factor of the release form's KL; None is K, which undoes the division by K.
        weight: Weight of each class `[K]`; the label's weight multiplies the whole sample.
        ignore_index: Class index that does not count.
        reduction: "none", "mean" or "sum", as in torch.

    Raises:
        ValueError: `multiplier` given for the paper's form, which has none.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        distill_weight: float = 0.1,
        temperature: float = 20.0,
        correct_prob: float = 0.99,
        form: Literal["paper", "release"] = "paper",
        multiplier: float | None = None,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(num_classes, weight=weight, ignore_index=ignore_index, reduction=reduction)
        if form not in ("paper", "release"):
            raise ValueError(f"form must be 'paper' or 'release', got {form!r}")
        if multiplier is not None and form == "paper":
            raise ValueError(f"multiplier must be None with form='paper', got {multiplier!r}")
        self.distill_weight = check_interval("distill_weight", distill_weight, "[0, 1]")
        self.temperature = check_interval("temperature", temperature, "(0, inf)")
        least = 1 / self.num_classes if self.num_classes > 1 else 0  # a single class has mass 1 whatever the teacher
        self.correct_prob = check_interval("correct_prob", correct_prob, f"[{least}, 1]")
        self.form = form
        self.multiplier = (
            self.num_classes if multiplier is None else check_interval("multiplier", multiplier, "(0, inf)")
        )
        self._teacher_smoothing, self._teacher_entropy = self._tempered_teacher()

    @property
    def effective_scale(self) -> float | None:
        """Factor c of the release form, which is `c * CE(effective_smoothing) + const`; None for the paper's form."""
        return None if self.form == "paper" else self._as_label_smoothing()[0]

    @property
    def effective_smoothing(self) -> float | None:
        """Smoothing of the release form in torch's convention (smoothing / K); None for the paper's form."""
        return None if self.form == "paper" else self._as_label_smoothing()[1]

    def training_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the weighted loss; for probability targets the mixture of the classes' losses."""
        if self.form == "paper":
            distill = self.distill_weight * self.temperature**2
            tempered = cross_entropy(
                logits / self.temperature,
                target,
                ignore_index=self.ignore_index,
                reduction="none",
                label_smoothing=self._teacher_smoothing,
            )
            hard = cross_entropy(logits, target, ignore_index=self.ignore_index, reduction="none")
            losses = (1 - self.distill_weight) * hard + distill * (tempered - self._teacher_entropy)
        else:
            distill = self.distill_weight * self.multiplier / self.num_classes
            scale, smoothing = self._as_label_smoothing()
            smoothed = cross_entropy(
                logits,
                target,
                ignore_index=self.ignore_index,
                reduction="none",
                label_smoothing=smoothing,
            )
            losses = scale * smoothed - distill * self._teacher_entropy
        return self.reduce_samples(losses, target)

    def extra_repr(self) -> str:
        """Return the configuration, and for the release form the label smoothing that it is."""
        if self.form == "paper":
            return super().extra_repr()
        effective = f"effective_scale={self.effective_scale:.4g}, effective_smoothing={self.effective_smoothing:.4g}"
        return f"{super().extra_repr()}, {effective}"

    def _as_label_smoothing(self) -> tuple[float, float]:
        """Return scale and smoothing of the label smoothing that the release form is."""
        teacher_share = self.distill_weight * self.multiplier / self.num_classes
        scale = 1 - self.distill_weight + teacher_share
        return scale, teacher_share * self._teacher_smoothing / scale

    def _tempered_teacher(self) -> tuple[float, float]:
        """Return the tempered teacher as the uniform smoothing that it is, and its entropy in nats."""
        others = self.num_classes - 1
        other_prob = (1 - self.correct_prob) / others if others else 0.0
        if self.form == "paper":
            ratio = (other_prob / self.correct_prob) ** (1 / self.temperature)
        else:
            ratio = math.exp((other_prob - self.correct_prob) / self.temperature)
        correct = 1 / (1 + others * ratio)
        other = ratio * correct
        entropy = -correct * math.log(correct) - (others * other * math.log(other) if others * other else 0.0)
        return min(1.0, self.num_classes * other) if others else 0.0, entropy


class SelfTeacherKD(LabelLoss):
    """`(1 - a) CE + a T^2 KL(teacher^T, p^T)` with the model's own earlier copy as the teacher: Tf-KD_self.

    The KL is summed over classes and averaged over samples, as in the paper; the authors' code averages it over N * K.
    The trainer runs the teacher (in eval mode, without gradient) and passes its logits. Published settings:
    MobileNetV2 0.95 at T = 20, ResNet-18 0.95 at T = 6, others 0.4 to 0.9 at T = 20. A class masked in the student but
    not in the teacher makes the loss inf.

    Args:
        num_classes: K, at least 1.
        distill_weight: Share of the teacher, in [0, 1]; the paper's alpha.
        temperature: T, positive.
        weight: Weight of each class `[K]`; the label's weight multiplies the whole sample.
        ignore_index: Class index that does not count.
        reduction: "none", "mean" or "sum", as in torch.
    """

    needs_teacher = True

    def __init__(
        self,
        num_classes: int,
        *,
        distill_weight: float = 0.9,
        temperature: float = 20.0,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(num_classes, weight=weight, ignore_index=ignore_index, reduction=reduction)
        self.distill_weight = check_interval("distill_weight", distill_weight, "[0, 1]")
        self.temperature = check_interval("temperature", temperature, "(0, inf)")

    def forward(self, logits: Tensor, target: Tensor, teacher_logits: Tensor | None = None) -> Tensor:
        """Return the loss; `teacher_logits`, of the logits' shape, are required in training and ignored in eval."""
        logits, target = self.checked(logits, target)
        if not self.training:
            return self.cross_entropy(logits, target)
        if teacher_logits is None or teacher_logits.shape != logits.shape or not teacher_logits.is_floating_point():
            got = None if teacher_logits is None else f"{teacher_logits.dtype} {tuple(teacher_logits.shape)}"
            raise ValueError(f"teacher_logits must be floating point of shape {tuple(logits.shape)}, got {got}")
        return self.training_loss(logits, target, teacher_logits.detach().to(logits.dtype))

    def training_loss(  # type: ignore[override]  # only its own forward calls it
        self, logits: Tensor, target: Tensor, teacher_logits: Tensor
    ) -> Tensor:
        """Return the weighted loss of what `checked` returns."""
        teacher_probs = torch.softmax(flatten_classes(teacher_logits) / self.temperature, 1)  # [B, K]
        teacher_entropy = torch.special.entr(teacher_probs).sum(1)
        tempered, _, _ = soft_target_cross_entropy(flatten_classes(logits) / self.temperature, teacher_probs)
        hard = self.hard_losses(logits, target)
        distill = self.distill_weight * self.temperature**2
        losses = (1 - self.distill_weight) * hard + distill * (tempered - teacher_entropy)
        return self.reduce_samples(losses, target)
