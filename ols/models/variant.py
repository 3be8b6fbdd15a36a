"""What of a network differs from timm's of the same name, and no weight tells: strides, pools, epsilons."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
TIMM_EPS = 1e-5
EPS_TOLERANCE = 1e-2  # relative; Keras's 1.001e-5 changes features by 3e-7


@dataclass(frozen=True)
class Variant:
    """What a network of the same tensors computes otherwise.

    Args:
        stride_in_first_conv: ResNet: the first block of stages 2 to 4 has its stride of 2 in its first convolution, as
            in the paper and in Keras, and not in the second.
        pools_without_padding: InceptionV3: average pools count no padding.
        bn_eps: Epsilon of batch normalisation; None for the network's own.
    """

    stride_in_first_conv: bool = False
    pools_without_padding: bool = False
    bn_eps: float | None = None

    @property
    def is_timms(self) -> bool:
        """Whether timm's network of the same name computes the same, to 1e-6."""
        same_eps = self.bn_eps is None or abs(self.bn_eps / TIMM_EPS - 1) < EPS_TOLERANCE
        return same_eps and not (self.stride_in_first_conv or self.pools_without_padding)


def apply_variant(model: nn.Module, variant: Variant) -> None:
    """Change a network of timm's into a variant, and note it on the network for `variant_of`; tensors stay.

    Raises:
        ValueError: The network has no such strides or pools.
    """
    if variant.stride_in_first_conv:
        for stage in ("layer2", "layer3", "layer4"):
            block = getattr(model, stage, [None])[0]
            if block is None or not hasattr(block, "conv3"):
                raise ValueError(f"{type(model).__name__} has no bottleneck blocks whose stride could be moved")
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    if variant.pools_without_padding:
        pools = [module.branch_pool for module in model.modules() if hasattr(module, "branch_pool")]
        if not pools:
            raise ValueError(f"{type(model).__name__} has no branches of average pools")
        for pool in pools:
            if isinstance(pool, nn.Module):
                pool.register_forward_pre_hook(_without_padding)
    if variant.bn_eps is not None:
        for module in model.modules():
            if isinstance(module, BN):
                module.eps = variant.bn_eps
    model.variant = variant  # type: ignore[assignment]  # no parameter, and not in the state dict


def variant_of(model: nn.Module) -> Variant:
    """Return the variant that a network was changed into; timm's own where it was not."""
    noted = (getattr(module, "variant", None) for module in model.modules())
    return next((variant for variant in noted if isinstance(variant, Variant)), Variant())


def _without_padding(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    """Divide sums over 3 x 3 pixels by how many of them are no padding; they come divided by 9."""
    (pooled,) = args
    ones = torch.ones(1, 1, *pooled.shape[-2:], dtype=pooled.dtype, device=pooled.device)
    return (pooled / F.avg_pool2d(ones, kernel_size=3, stride=1, padding=1),)
