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
from ols.models.variant import Variant
from ols.runs.folder import RunFolder

FORMAT = 1
TYPE = "__type__"  # key of a JSON object that stands for what JSON has not
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


def load_notes(folder: Path) -> tuple[Variant, list[str]]:
    """Return what the network of an intact checkpoint differs in from timm's, and where its first weights come from."""
    state = load_state(folder)
    return Variant(**state["variant"]), state.get("origin", [])


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
    """Delete what a kill left half written or half deleted; set damaged checkpoints, and other runs', aside by name."""
    for leftover in [*folder.checkpoints.glob(".*.partial"), *folder.checkpoints.glob(".*.deleted")]:
        delete(leftover)
    for path in folder.list_checkpoints():
        try:
            verify_checkpoint(path)
            run = load_state(path).get("identity", {}).get("run")
            if run != folder.identity.get("run"):
                raise DamagedFileError(f"{path} is of another run")
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
    """Split all that an optimizer's state dict holds into tensors by name, and what JSON can hold.

    Optimizers keep more than one tensor for each parameter: lists of tensors, counters and learning rates as tensors
    without dimensions in the groups, types, states of a random generator. Every container and type is written down, so
    that nothing comes back as another.

    Raises:
        TypeError: It holds something that has no place in a checkpoint; the message names it.
    """
    tensors: dict[str, Tensor] = {}
    device = _device(optimizer)

    def take(value: Any, *path: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Tensor):
            name = ".".join(map(str, path))
            if name in tensors:
                name = f"{name}.{len(tensors)}"  # the keys 1 and "1"
            tensors[name] = value
            return {TYPE: "tensor", "name": name, "with_parameters": value.device == device}
        if isinstance(value, torch.dtype):
            return {TYPE: "dtype", "name": str(value).removeprefix("torch.")}
        if type(value) is list:
            return [take(item, *path, number) for number, item in enumerate(value)]
        if type(value) is tuple:
            return {TYPE: "tuple", "items": [take(item, *path, number) for number, item in enumerate(value)]}
        if isinstance(value, dict):
            items = [(key, take(item, *path, key)) for key, item in value.items()]
            if all(isinstance(key, str) and key != TYPE for key in value):
                return dict(items)
            if all(isinstance(key, str | int) for key in value):
                return {TYPE: "dict", "items": [list(pair) for pair in items]}
        raise TypeError(f"{type(optimizer).__name__} keeps a {type(value).__name__} as {'.'.join(map(str, path))}")

    return tensors, take(optimizer.state_dict())


def load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    """Put back what `optimizer_tensors` took apart, in the memory format of the parameters.

    torch gives each tensor the type of its parameter; here it keeps the one it was saved in.
    """
    device = _device(optimizer)

    def put(value: Any, follows: bool) -> Any:
        if isinstance(value, list):
            return [put(item, follows) for item in value]
        if not isinstance(value, dict):
            return value
        kind = value.get(TYPE)
        if kind == "tensor":
            tensor = tensors[value["name"]].clone()
            return tensor.to(device) if follows and value["with_parameters"] else tensor
        if kind == "dtype":
            return getattr(torch, value["name"])
        if kind == "tuple":
            return tuple(put(item, follows) for item in value["items"])
        pairs = value["items"] if kind == "dict" else value.items()
        return {key: put(item, follows) for key, item in pairs}

    # torch itself finds the device of what belongs to a parameter: some counters stay on the CPU.
    state = {name: put(value, follows=name != "state") for name, value in rest.items()}
    groups = list(zip(state["param_groups"], optimizer.param_groups, strict=True))
    for saved, own in groups:
        saved.update({key: own[key] for key in IMPLEMENTATION if key in own})
    numbers = [number for saved, _ in groups for number in saved["params"]]
    parameters = [parameter for _, own in groups for parameter in own["params"]]
    optimizer.load_state_dict(state)
    for number, parameter in zip(numbers, parameters, strict=True):
        if number in state["state"]:
            optimizer.state[parameter] = _as_saved(optimizer.state[parameter], state["state"][number], parameter)


def _as_saved(loaded: Any, saved: Any, parameter: Tensor) -> Any:
    """Return a parameter's state with the values and types that were saved, on the devices where it was loaded."""
    if isinstance(saved, dict) and isinstance(loaded, dict):
        return {key: _as_saved(value, saved.get(key, value), parameter) for key, value in loaded.items()}
    if isinstance(saved, list | tuple) and isinstance(loaded, list | tuple):
        return type(saved)(_as_saved(*pair, parameter) for pair in zip(loaded, saved, strict=True))
    if not isinstance(loaded, Tensor):
        return saved  # torch takes a word for a list of letters
    if not isinstance(saved, Tensor):
        return loaded
    if saved.shape != parameter.shape:
        return saved.to(loaded.device)
    return torch.empty_like(parameter, dtype=saved.dtype, device=loaded.device).copy_(saved)


def _device(optimizer: Optimizer) -> torch.device:
    return optimizer.param_groups[0]["params"][0].device


def _write(path: Path, contents: bytes) -> dict[str, Any]:
    """Write a file, and return its entry in the manifest."""
    with named_errors(path):
        path.write_bytes(contents)
    return {"bytes": len(contents), "blake2b": hashlib.blake2b(contents, digest_size=16).hexdigest()}
