"""What a run makes of timm's network once its weights are loaded: cut off after a block, with a head of its own."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ols.models.decoder import UNet
from ols.models.head import build_head, head_record, replace_head
from ols.models.options import HeadOptions
from ols.models.truncation import truncate


def shape_model(model: nn.Module, num_outputs: int, *, truncate_after: str | None, head: HeadOptions) -> list[str]:
    """Cut a model off and put its head on; load the weights that it starts from before.

    Args:
        model: timm's, changed in place; one with a decoder has neither to do.
        num_outputs: Outputs K.
        truncate_after: Name of the last block that stays; None keeps all.
        head: Kind and sizes of the head; the default is timm's own.

    Returns:
        Lines that say what was done.

    Raises:
        ValueError: There is no such block, or the head does not fit.
    """
    lines = [truncate(model, truncate_after, num_outputs)] if truncate_after else []
    if head != HeadOptions():
        lines.append(replace_head(model, head, num_outputs))
    model.truncated_after = truncate_after  # type: ignore[assignment]  # no parameter, and not in the state dict
    return lines


def shape_record(model: nn.Module) -> dict[str, Any]:
    """Return what an export has to say for `restore_shape` to shape a model in the same way, as JSON can hold it."""
    if isinstance(model, UNet):
        return {}
    return {"truncate_after": getattr(model, "truncated_after", None), "head": head_record(model)}


def is_timms_shape(record: Mapping[str, Any]) -> bool:
    """Return whether timm builds the same network from the architecture's name; dropout does not matter in use."""
    return not record or (record["truncate_after"] is None and record["head"]["kind"] == "linear")


def restore_shape(model: nn.Module, record: Mapping[str, Any]) -> None:
    """Shape timm's model as an export says, before its tensors are loaded.

    Raises:
        ValueError: The record does not fit the model, or this version does not know it.
    """
    if record and record["truncate_after"]:
        truncate(model, record["truncate_after"], int(model.num_classes))  # type: ignore[arg-type]
    if record:
        build_head(model, record["head"])
        model.truncated_after = record["truncate_after"]
