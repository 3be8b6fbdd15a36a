"""Maps that know nothing of the lesion, or nothing of the features: what an activation map has to beat."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from ols.keyed import keyed_uniform
from ols.localisation.activation_maps import check_classes, chosen_logits, enlarge, in_eval_mode

CENTRE_SD = 0.25  # of the side of an image
RANDOM_MAP = int.from_bytes(b"map")  # keys the draw of random maps, apart from all others


def centre_prior(size: tuple[int, int]) -> Tensor:
    """Return a Gaussian around the centre, whose standard deviation is a quarter of each side; float32 `[H, W]`.

    Lesions lie near the centre of most images, and a map that always says so can be hard to beat.
    """
    down, across = (((torch.arange(side) + 0.5) / side - 0.5) / CENTRE_SD for side in size)
    return torch.exp(-(down[:, None] ** 2 + across**2) / 2)


def random_maps(indices: ArrayLike, cells: tuple[int, int], size: tuple[int, int], *, seed: int = 0) -> Tensor:
    """Return maps of uniform noise, as coarse as a feature map and enlarged like one; float32 `[B, H, W]`.

    Between the centres of its cells a map is drawn towards the mean, and beyond the outer ones it is not: the coarser
    a map, the more often its largest values lie at the border. This one shares that with the map that it is beside, so
    that it may hit less than the lesion's share of the image.

    Args:
        indices: Number of each image `[B]`: with the seed, the key of its map.
        cells: Height and width of the feature map.
        size: Height and width of an image.
        seed: Of the draws.
    """
    place = np.arange(cells[0] * cells[1]).reshape(cells)
    noise = keyed_uniform(seed, np.asarray(indices)[:, None, None], place, RANDOM_MAP)
    return enlarge(torch.from_numpy(noise).float(), size)


def input_gradient(
    model: nn.Module, images: Tensor, classes: Tensor | None = None, *, side: Tensor | None = None
) -> Tensor:
    """Return the size of the gradient of a logit by each pixel, the largest of its channels (Simonyan et al. 2014).

    The model is left as it was.

    Args:
        model: From images to logits `[B, K]`.
        images: As the model expects them `[B, C, H, W]`.
        classes: Class of the logit, of each image, int64 `[B]`; by default the one with the largest.
        side: What the head takes beside the images `[B, S]`, where it does.

    Returns:
        `[B, H, W]`, >= 0.

    Raises:
        ValueError: There is no such class.
    """
    with in_eval_mode(model), torch.inference_mode(False), torch.enable_grad():
        pixels = images.detach().clone().requires_grad_()
        logits = model(pixels, **({} if side is None else {"side": side}))
        (gradients,) = torch.autograd.grad(chosen_logits(logits, check_classes(logits, classes)).sum(), pixels)
    return gradients.abs().amax(dim=1)
