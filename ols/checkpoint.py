"""Checkpoints: a folder is complete or absent, tensors are safetensors, the rest is JSON, nothing is unpickled."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

FORMAT = 1


def save_checkpoint(folder: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name, flush it to the disk, then rename it.

    Args:
        folder: Its final name.
        tensors: Named tensors of each part, such as `{"model": model.state_dict()}`.
        state: Whatever else JSON can hold.
    """
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for part, values in tensors.items():
        # Contiguous copies on the CPU: safetensors refuses strided and shared storage.
        on_cpu = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in values.items()
        }
        save_file(on_cpu, temporary / f"{part}.safetensors")
    (temporary / "state.json").write_text(json.dumps({"format": FORMAT, **state}, indent=2))
    for path in [*temporary.iterdir(), temporary]:
        _flush(path)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    _flush(folder.parent)


def load_state(folder: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote as JSON.

    Raises:
        ValueError: The checkpoint is of another format.
    """
    state = json.loads((folder / "state.json").read_text())
    if state.get("format") != FORMAT:
        raise ValueError(f"{folder} has checkpoint format {state.get('format')}, expected {FORMAT}")
    return state


def load_tensors(folder: Path, part: str) -> dict[str, Tensor]:
    """Read the tensors of one part, on the CPU."""
    return load_file(folder / f"{part}.safetensors")


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("epoch-*") if path.is_dir())


def prune_checkpoints(folder: Path, *, keep_last: int, keep: Path) -> None:
    """Delete all but the newest checkpoints and one more."""
    for path in list_checkpoints(folder)[:-keep_last]:
        if path != keep:
            shutil.rmtree(path)


def optimizer_tensors(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors, named `<parameter number>.<key>`, and what JSON can hold."""
    state = optimizer.state_dict()
    tensors, rest = {}, {}
    for number, values in state["state"].items():
        for key, value in values.items():
            (tensors if isinstance(value, Tensor) else rest)[f"{number}.{key}"] = value
    return tensors, {"values": rest, "param_groups": state["param_groups"]}


def load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    """Put back what `optimizer_tensors` took apart."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in (tensors | rest["values"]).items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
