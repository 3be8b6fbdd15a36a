"""Mixup and cutmix: timm's, with randomness by key."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ols.data.options import MixingOptions
from ols.keyed import MIX, kept_generators, keyed_bits, seed_generators


class Mixing:
    """Mixes each image of a batch with the one as far from the other end, and their labels.

    Mixup (Zhang et al., ICLR 2018) blends the two images, cutmix (Yun et al., ICCV 2019) pastes a rectangle of one into
    the other; where both are on, each batch draws one of them evenly. This is timm's `Mixup` in its `batch` mode, with
    the label smoothing left to the loss. Which images meet depends on the micro-batches, and so on the number of
    processes.

    Args:
        num_classes: K.
        options: Which of the two, how strongly, and how often; an alpha is both parameters of its beta distribution.
        seed: Seed of the run.

    Raises:
        ValueError: Neither is on.
    """

    def __init__(self, num_classes: int, options: MixingOptions, *, seed: int = 0):
        from timm.data import Mixup  # which takes seconds, and most runs do not mix

        if not options.mixes:
            raise ValueError("nothing to mix: mixup_alpha and cutmix_alpha are 0")
        self.num_classes, self.seed = num_classes, seed
        self._mixup = Mixup(
            options.mixup_alpha,
            options.cutmix_alpha,
            prob=options.mix_prob,
            label_smoothing=0.0,
            num_classes=num_classes,
        )

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
