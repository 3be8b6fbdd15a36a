"""The head of a timm model: the last layers, which give the logits."""

from collections.abc import Mapping

from torch import Tensor, nn


def find_head(model: nn.Module) -> dict[str, nn.Module]:
    """Return the head's layers by name: one for most models, two for distilled transformers, none without classes.

    Raises:
        ValueError: The model is not one of timm's.
    """
    names = _as_names(getattr(model, "pretrained_cfg", {}).get("classifier"))
    if not names:
        get_classifier = getattr(model, "get_classifier", None)
        if get_classifier is None:
            raise ValueError(f"{type(model).__name__} is no model of timm's: it does not say what its head is")
        own = get_classifier()
        own = own if isinstance(own, tuple) else (own,)
        names = [name for name, module in model.named_modules() if any(module is layer for layer in own)]
    layers = {name: model.get_submodule(name) for name in names}
    return {name: layer for name, layer in layers.items() if list(layer.parameters())}


def head_parameter_names(model: nn.Module) -> list[str]:
    """Return the names of the head's weights and biases, as in the model's state dict."""
    return [f"{layer}.{name}" for layer, module in find_head(model).items() for name, _ in module.named_parameters()]


def first_convolution_names(model: nn.Module) -> list[str]:
    """Return the names of the weights of the first layer, whose second dimension is the channels of an image."""
    names = _as_names(getattr(model, "pretrained_cfg", {}).get("first_conv"))
    return [f"{layer}.{name}" for layer in names for name, _ in model.get_submodule(layer).named_parameters()]


def num_outputs(model: nn.Module, tensors: Mapping[str, Tensor]) -> int:
    """Return the number of outputs K of the head that lies in a state dict of the model's architecture.

    Raises:
        ValueError: There is no head in it.
    """
    for name in head_parameter_names(model):
        if name in tensors:
            return len(tensors[name])
    raise ValueError(f"no head among the tensors; expected {', '.join(head_parameter_names(model))}")


def _as_names(entry: str | tuple[str, ...] | list[str] | None) -> list[str]:
    return [entry] if isinstance(entry, str) else list(entry or ())
