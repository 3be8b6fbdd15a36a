"""Which scaling of the input a network's weights were trained with: found on images, not believed."""

import torch
from torch import Tensor, nn

from ols.models.start import KERAS_SCALE
from ols.models.variant import BN

# From intensities in [0, 1]: mean and standard deviation
SCALES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "[0, 1]": ((0.0,), (1.0,)),
    "[-1, 1]": ((0.5,), (0.5,)),
    "ImageNet's mean and deviation": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "[0, 255]": ((0.0,), (1 / 255,)),
    "BGR less its means, in [0, 255] (caffe)": (KERAS_SCALE[0], (1 / 255,) * 3),
    "BGR less its means, in [0, 1] (RadImageNet's Keras)": KERAS_SCALE,
}
CLEARLY = 0.8  # another scale fits better where its misfit is below this share


def scale_misfit(model: nn.Module, images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> float:
    """Return how far the variances that images make differ from those that batch normalisation remembers.

    Args:
        model: Network with batch normalisation.
        images: Intensities in [0, 1] `[N, C, H, W]`.
        mean: Of each channel, or one for all.
        std: Divides then, like `mean`.

    Returns:
        Of the absolute logarithms of their ratios, the mean over the channels of the first layer, which tells best,
        averaged with the median over all layers; NaN without batch normalisation.
    """
    found: list[float] = []

    def compare(module: nn.Module, args: tuple[Tensor]) -> None:
        remembered = module.running_var
        if isinstance(remembered, Tensor):
            variance = args[0].float().var(dim=(0, 2, 3), unbiased=False) if args[0].ndim == 4 else args[0].var(dim=0)
            ratio = (variance + 1e-12).log() - (remembered + 1e-12).log()
            found.append(ratio.abs().median().item())

    hooks = [module.register_forward_pre_hook(compare) for module in model.modules() if isinstance(module, BN)]
    was_training = model.training
    parameter = next(model.parameters())
    shape = (1, -1, 1, 1)
    scaled = (images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    try:
        with torch.no_grad():
            model.eval()(scaled.to(parameter.device, parameter.dtype))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    if not found:
        return float("nan")
    return (found[0] + float(torch.tensor(found).median())) / 2


def describe_gray(mean: tuple[float, ...], std: tuple[float, ...], in_chans: int) -> str | None:
    """Return a warning where a network for one channel cannot compute what its weights did; None where it does.

    Summed over its channels, a first convolution answers gray images as it did images of three equal channels only
    where mean and standard deviation are those of all channels: else each filter is off by a constant, another one
    where it sees padding, which no weight of one channel can make up for.

    Args:
        mean: Of each channel, as the weights expect it.
        std: Of each channel.
        in_chans: Channels of the network.
    """
    if in_chans != 1 or len(set(mean)) == len(set(std)) == 1:
        return None
    return (
        "scale WARNING: these weights expect another mean or deviation of each channel, and one channel takes their "
        "average, which is not exact: data.in_chans 3 repeats gray images, and is"
    )


def describe_scale(model: nn.Module, images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> str | None:
    """Return how well the scaling fits the weights and each of `SCALES` would, with a warning where one fits better.

    Args:
        model: Network that starts from weights.
        images: Intensities in [0, 1] `[N, C, H, W]`, a batch of the user's own.
        mean: What is subtracted from them.
        std: What divides then.

    Returns:
        None for a network without batch normalisation.
    """
    own = scale_misfit(model, images, mean, std)
    if own != own:
        return None
    channels = images.shape[1]
    others = {
        name: scale_misfit(model, images, *(scale if channels == 3 else tuple((sum(v) / len(v),) for v in scale)))
        for name, scale in SCALES.items()
    }
    best = min(others, key=others.__getitem__)
    line = f"scale variances of these images differ from the weights' by a factor of e^{own:.2f}"
    if others[best] < CLEARLY * own:
        line += f"; WARNING: intensities in {best} fit better, e^{others[best]:.2f}: check data.mean and data.std"
    table = [f"      e^{others[name]:5.2f}  {name}" for name in sorted(others, key=others.__getitem__)]
    return "\n".join([line, *table])
