"""Checkpoints: a folder is complete or absent, tensors are safetensors, the rest is JSON, nothing is unpickled.

A manifest in each holds size and checksum of every other file, and its own.
"""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.optim import Optimizer

from ols.files import DamagedFileError, delete, file_checksum, named_errors, read_record, write_record, written_aside
from ols.runs.folder import RunFolder

FORMAT = 1
IMPLEMENTATION = ("foreach", "fused")  # how torch's optimizers take a step: the optimizer's own, not the run's


def save_checkpoint(folder: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write a checkpoint, which is complete or absent.

    Args:
        folder: Where to; its name is part of what is written, so that a checkpoint knows its place.
        tensors: Named tensors of each part, such as `{"model": model.state_dict()}`.
        state: Whatever else JSON can hold.

    Raises:
        OSError: A file could not be written, as on a full disk; the message names it.
    """
    with written_aside(folder) as aside:
        aside.mkdir()
        files = {}
        for part, values in tensors.items():
            # Contiguous copies on the CPU: safetensors refuses strided and shared storage.
            on_cpu = {
                name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, value in values.items()
            }
            files[f"{part}.safetensors"] = _write(aside / f"{part}.safetensors", save(on_cpu))
        contents = json.dumps({"format": FORMAT, "name": folder.name, **state}, indent=2).encode()
        files["state.json"] = _write(aside / "state.json", contents)
        write_record(aside / "manifest.json", {"files": files})


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


def verify_checkpoint(folder: Path) -> None:
    """Compare every file with the manifest, and the checkpoint's name with that of its folder.

    Raises:
        DamagedFileError: A file is missing, truncated or altered, or the folder was renamed.
    """
    for name, expected in read_record(folder / "manifest.json")["files"].items():
        path = folder / name
        if not path.is_file():
            raise DamagedFileError(f"{path} is missing")
        if path.stat().st_size != expected["bytes"]:
            raise DamagedFileError(f"{path} has {path.stat().st_size} bytes, expected {expected['bytes']}")
        if file_checksum(path) != expected["blake2b"]:
            raise DamagedFileError(f"{path} has another checksum than when it was written")
    name = load_state(folder)["name"]
    if name != folder.name:
        raise DamagedFileError(f"{folder} holds the checkpoint {name}")


def clean_checkpoints(folder: RunFolder) -> None:
    """Delete what a kill left half written or half deleted, and set damaged checkpoints aside with a warning."""
    for leftover in [*folder.checkpoints.glob(".*.partial"), *folder.checkpoints.glob(".*.deleted")]:
        delete(leftover)
    for path in folder.list_checkpoints():
        try:
            verify_checkpoint(path)
        except DamagedFileError as error:
            aside = path.with_name(f"damaged-{path.name}")
            warnings.warn(f"{error}; {path.name} is not used, and moved to {aside}", stacklevel=2)
            delete(aside)
            path.rename(aside)


def prune_checkpoints(folder: RunFolder, *, keep_last: int, keep: Path) -> None:
    """Delete all but the newest checkpoints and one more."""
    for path in folder.list_checkpoints()[:-keep_last]:
        if path != keep:
            delete(path)


def optimizer_tensors(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors, named `<parameter number>.<key>`, and what JSON can hold."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    for number, values in state["state"].items():
        for key, value in values.items():
            (tensors if isinstance(value, Tensor) else rest)[f"{number}.{key}"] = value
    return tensors, {"values": rest, "param_groups": state["param_groups"]}


def load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    """Put back what `optimizer_tensors` took apart, in the memory format of the parameters."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in (tensors | rest["values"]).items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = value
    groups = [
        saved | {key: own[key] for key in IMPLEMENTATION if key in own}
        for saved, own in zip(rest["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _write(path: Path, contents: bytes) -> dict[str, Any]:
    """Write a file, and return its entry in the manifest."""
    with named_errors(path):
        path.write_bytes(contents)
    return {"bytes": len(contents), "blake2b": hashlib.blake2b(contents, digest_size=16).hexdigest()}
