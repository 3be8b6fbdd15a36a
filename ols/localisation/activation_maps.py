"""Class activation maps: which places of a feature map speak for a class, by one hook and one gradient."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ActivationMaps(NamedTuple):
    """What a model answers, and where its answer comes from.

    Args:
        maps: Evidence for the class of each image at each place, >= 0 `[B, h, w]`, of the size of the feature map.
        logits: Of the model `[B, K]`.
        classes: Whose evidence it is, int64 `[B]`.
    """

    maps: Tensor
    logits: Tensor
    classes: Tensor


def grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Return the channels, each weighted by the mean of its gradient over places (Selvaraju et al. 2017, eq. 1, 2).

    Args:
        features: `[B, C, h, w]`.
        gradients: Of the logit by each of them `[B, C, h, w]`.

    Returns:
        `[B, h, w]`, negative parts set to 0.
    """
    return (gradients.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1).relu()


def hires_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Return the product of features and their gradients, summed over channels (Draelos and Carin 2020).

    Where a linear head follows the mean over places, it is Grad-CAM; elsewhere Grad-CAM may light up places that the
    logit does not depend on, and this does not. Arguments and result as of `grad_cam`.
    """
    return (gradients * features).sum(dim=1).relu()


def layer_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Return features weighted by the positive part of their gradients (Jiang et al. 2021).

    It serves for layers before the last one, too. Arguments and result as of `grad_cam`.
    """
    return (gradients.relu() * features).sum(dim=1).relu()


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad_cam": grad_cam,
    "hires_cam": hires_cam,
    "layer_cam": layer_cam,
}


def activation_maps(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | None = None,
    *,
    kind: str = "grad_cam",
    layer: str | None = None,
    side: Tensor | None = None,
) -> ActivationMaps:
    """Show where the evidence for a class is, for a batch of images at once.

    The model is left as it was: in its mode, without hooks, with the gradients of its parameters untouched. Nothing
    below the layer is kept for the gradient, and frozen layers do not matter.

    Args:
        model: Of timm's, or any whose `layer` gives a feature map; not wrapped for distributed training.
        images: As the model expects them `[B, C, H, W]`.
        classes: Class whose logit is explained, of each image, int64 `[B]`; by default the one with the largest logit.
        kind: A key of `KINDS`.
        layer: Name of the layer whose output is the feature map; by default `last_feature_layer`.
        side: What the head takes beside the images `[B, S]`, where it does.

    Raises:
        ValueError: There is no such kind, layer or class, the layer gives no feature map `[B, C, h, w]`, is used more
            than once, or has no part in the logits.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of activation map {kind!r}; known: {', '.join(KINDS)}")
    layer = last_feature_layer(model) if layer is None else layer
    try:
        module = model.get_submodule(layer)
    except AttributeError:
        raise ValueError(f"{type(model).__name__} has no layer {layer!r}") from None
    beside = {} if side is None else {"side": side}
    taken: list[Tensor] = []

    def take(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            what = list(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ValueError(f"layer {layer!r} of {type(model).__name__} gives {what}, no feature map [B, C, h, w]")
        if taken:
            raise ValueError(f"layer {layer!r} of {type(model).__name__} is used more than once for an image")
        taken.append(output.detach().requires_grad_())
        torch.set_grad_enabled(True)  # from here to the logits
        return taken[0].clone()  # which the next layer may overwrite

    with in_eval_mode(model), torch.inference_mode(False):
        handle = module.register_forward_hook(take)
        try:
            with torch.no_grad():
                logits = model(images.clone() if images.is_inference() else images, **beside)
        finally:
            handle.remove()
        classes = check_classes(logits, classes)
        if not taken or not logits.requires_grad:
            raise ValueError(f"layer {layer!r} of {type(model).__name__} has no part in its logits")
        (gradients,) = torch.autograd.grad(chosen_logits(logits, classes).sum(), taken[0], allow_unused=True)
        if gradients is None:
            raise ValueError(f"layer {layer!r} of {type(model).__name__} has no part in its logits")
        return ActivationMaps(KINDS[kind](taken[0].detach(), gradients), logits.detach(), classes)


def last_feature_layer(model: nn.Module) -> str:
    """Return the name of the last layer whose output is a feature map, as timm's `feature_info` has it.

    Raises:
        ValueError: The model does not say, or its features have channels last.
    """
    if getattr(model, "output_fmt", "NCHW") != "NCHW":
        raise ValueError(f"{type(model).__name__} has features {model.output_fmt}, an activation map needs NCHW")
    names = {name for name, _ in model.named_modules()}
    info = getattr(model, "feature_info", None) or []
    found = [entry["module"] for entry in info if entry["module"] in names]  # a truncated model lacks some
    if not found:
        raise ValueError(f"{type(model).__name__} does not name its feature maps: choose a layer by its name")
    return found[-1]


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps `[B, h, w]` at the size of an image `[B, H, W]`, bilinear, corners as of pixels with an area."""
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def check_classes(logits: Tensor, classes: Tensor | None) -> Tensor:
    """Return the class of each image, int64 `[B]`: those that are given, or those of the largest logits.

    Raises:
        ValueError: The logits are not `[B, K]`, or the classes are not one an image in [0, K).
    """
    if logits.ndim != 2:
        raise ValueError(f"expected logits [B, K] of a classifier, the model gives {list(logits.shape)}")
    if classes is None:
        return logits.detach().argmax(dim=1)
    classes = torch.as_tensor(classes, device=logits.device)
    if classes.shape != logits.shape[:1] or classes.is_floating_point():
        raise ValueError(f"expected a class index of each of {len(logits)} images, got {list(classes.shape)}")
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < logits.shape[1]:
        raise ValueError(
            f"classes must lie in [0, {logits.shape[1]}), got {int(classes.min())} to {int(classes.max())}"
        )
    return classes.long()


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode, and give each of its layers the mode back that it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def chosen_logits(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the logit of the class of each image `[B]`."""
    return logits.gather(1, classes[:, None])[:, 0]
