"""Mixup and cutmix: timm's, with randomness by key."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ols.keyed import MIX, kept_generators, keyed_bits, seed_generators


class Mixing:
    """Mixes each image of a batch with the one as far from the other end, and their labels.

    Mixup (Zhang et al., ICLR 2018) blends the two images, cutmix (Yun et al., ICCV 2019) pastes a rectangle of one into
    the other; where both are on, each batch draws one of them evenly. This is timm's `Mixup` in its `batch` mode, with
    the label smoothing left to the loss. Which images meet depends on the micro-batches, and so on the number of
    processes.

    Args:
        num_classes: K.
        mixup_alpha: Both parameters of the beta distribution of mixup's share; 0 for no mixup.
        cutmix_alpha: The same of cutmix.
        prob: Share of batches that are mixed, in [0, 1].
        seed: Seed of the run.

    Raises:
        ValueError: An alpha is negative, none is positive, or `prob` lies outside [0, 1].
    """

    def __init__(
        self, num_classes: int, *, mixup_alpha: float = 0.0, cutmix_alpha: float = 0.0, prob: float = 1.0, seed: int = 0
    ):
        from timm.data import Mixup  # which takes seconds, and most runs do not mix

        if min(mixup_alpha, cutmix_alpha) < 0 or max(mixup_alpha, cutmix_alpha) == 0:
            raise ValueError(
                "mixup_alpha and cutmix_alpha must not be negative, and one must be positive, "
                f"got {mixup_alpha} and {cutmix_alpha}"
            )
        if not 0 <= prob <= 1:
            raise ValueError(f"mix_prob must lie in [0, 1], got {prob}")
        self.num_classes, self.seed = num_classes, seed
        self._mixup = Mixup(mixup_alpha, cutmix_alpha, prob=prob, label_smoothing=0.0, num_classes=num_classes)

    def __call__(self, images: Tensor, targets: Tensor, *, epoch: int, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mix a batch; of an odd number the last image stays as it is.

        Two images of one class give an exactly one-hot row, as unmixed images do: those are what online label smoothing
        collects.

        Args:
            images: Floating point `[B, C, H, W]`, overwritten.
            targets: Class indices, int64 `[B]`.
            epoch: Key of what is drawn, with the seed and the two samples that meet first.
            indices: Index of each sample, int64 `[B]`, on the CPU.

        Returns:
            The images, and probabilities `[B, K]` in their dtype.
        """
        even = len(images) // 2 * 2
        target_probs = F.one_hot(targets, self.num_classes).to(images.dtype)
        if even:
            with kept_generators():
                seed_generators(int(keyed_bits(self.seed, epoch, indices[0], indices[even - 1], MIX)))
                _, mixed_probs = self._mixup(images[:even], targets[:even])  # the images in place
            alike = (targets[:even] == targets[:even].flip(0)).unsqueeze(1)  # their shares add up to 1, or nearly
            target_probs[:even] = torch.where(alike, target_probs[:even], mixed_probs)
        return images, target_probs
