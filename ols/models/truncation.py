"""Models that end after one of their blocks (Ke et al. 2021, CheXtransfer): pooled there, with a new head."""

import torch
from torch import nn


def truncate(model: nn.Module, after: str, num_outputs: int) -> str:
    """Drop what comes after a block, pool there, and put a new linear head on it.

    Load a start's weights before. Other kinds of heads replace the linear one: see `replace_head`.

    Args:
        model: timm's; changed in place.
        after: Name of the block that stays as the last one, as timm's `feature_info` names it.
        num_outputs: Outputs K.

    Returns:
        A line with the number of parameters before and after.

    Raises:
        ValueError: timm cannot truncate the model, it has no such block (the message names those it has), or it does
            not give outputs then.
    """
    name = type(model).__name__
    info = getattr(model, "feature_info", None)
    if not hasattr(model, "prune_intermediate_layers") or not info:
        raise ValueError(f"model.truncate_after: timm cannot truncate a {name}")
    blocks = [entry["module"] for entry in info]
    if after not in blocks:
        raise ValueError(f"model.truncate_after: {name} has no block {after!r} to end with; it has {', '.join(blocks)}")
    before = sum(parameter.numel() for parameter in model.parameters())
    index = blocks.index(after)
    pool = getattr(model, "global_pool", None) or getattr(getattr(model, "head", None), "global_pool", None)
    pooling = pool if isinstance(pool, str) else getattr(pool, "pool_type", "") or "avg"
    if index < len(blocks) - 1:
        model.prune_intermediate_layers([index], prune_norm=False, prune_head=True)  # type: ignore[operator]
    model.reset_classifier(num_outputs, pooling)  # type: ignore[operator]
    _check(model, num_outputs, after)
    after_it = sum(parameter.numel() for parameter in model.parameters())
    return f"truncated after {after}: {before:,} parameters before, {after_it:,} now, {before / after_it:.2f} x fewer"


def _check(model: nn.Module, num_outputs: int, after: str) -> None:
    """Run two blank images through a model, which is left as it was."""
    config, like, training = model.pretrained_cfg, next(model.parameters()), model.training
    size = config["input_size"][1:]  # type: ignore[index]
    channels = next(m for m in model.modules() if isinstance(m, nn.Conv2d)).in_channels
    try:
        with torch.no_grad():
            shape = model.eval()(torch.zeros(2, channels, *size, device=like.device, dtype=like.dtype)).shape
    except RuntimeError as error:
        raise ValueError(f"model.truncate_after: {type(model).__name__} fails after {after!r}: {error}") from error
    finally:
        model.train(training)
    if shape != (2, num_outputs):
        raise ValueError(f"model.truncate_after: {type(model).__name__} gives {list(shape)} after {after!r}")
