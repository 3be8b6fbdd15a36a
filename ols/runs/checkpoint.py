"""Checkpoints: a folder is complete or absent, tensors are safetensors, the rest is JSON, nothing is unpickled.

A manifest in each holds size and checksum of every other file, and its own.
"""

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.optim import Optimizer

FORMAT = 1
IMPLEMENTATION = ("foreach", "fused")  # how torch's optimizers take a step: the optimizer's own, not the run's


class DamagedFileError(ValueError):
    """A file is not what was written; the message names it."""


def save_checkpoint(folder: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name, flush it to the disk, then rename it.

    Args:
        folder: Its final name.
        tensors: Named tensors of each part, such as `{"model": model.state_dict()}`.
        state: Whatever else JSON can hold.

    Raises:
        OSError: A file could not be written, as on a full disk; the message names it.
    """
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    files = {}
    for part, values in tensors.items():
        # Contiguous copies on the CPU: safetensors refuses strided and shared storage.
        on_cpu = {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in values.items()
        }
        files[f"{part}.safetensors"] = _write(temporary / f"{part}.safetensors", save(on_cpu))
    contents = json.dumps({"format": FORMAT, **state}, indent=2).encode()
    files["state.json"] = _write(temporary / "state.json", contents)
    write_record(temporary / "manifest.json", {"files": files})
    _flush(temporary)
    if folder.exists():
        _delete(folder)
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


def verify_checkpoint(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        DamagedFileError: A file is missing, truncated or altered.
    """
    for name, expected in read_record(folder / "manifest.json")["files"].items():
        path = folder / name
        if not path.is_file():
            raise DamagedFileError(f"{path} is missing")
        if path.stat().st_size != expected["bytes"]:
            raise DamagedFileError(f"{path} has {path.stat().st_size} bytes, expected {expected['bytes']}")
        with path.open("rb") as file:
            if hashlib.file_digest(file, _blake2b).hexdigest() != expected["blake2b"]:
                raise DamagedFileError(f"{path} has another checksum than when it was written")


def clean_checkpoints(folder: Path) -> None:
    """Delete what a kill left half written or half deleted, and set damaged checkpoints aside with a warning."""
    for leftover in [*folder.glob(".*.partial"), *folder.glob(".*.deleted")]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    for path in list_checkpoints(folder):
        try:
            verify_checkpoint(path)
        except DamagedFileError as error:
            aside = path.with_name(f"damaged-{path.name}")
            warnings.warn(f"{error}; {path.name} is not used, and moved to {aside}", stacklevel=2)
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def prune_checkpoints(folder: Path, *, keep_last: int, keep: Path) -> None:
    """Delete all but the newest checkpoints and one more."""
    for path in list_checkpoints(folder)[:-keep_last]:
        if path != keep:
            _delete(path)


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write JSON with its own checksum, at once or not at all.

    Raises:
        OSError: The file could not be written; the message names it.
    """
    record = {"format": FORMAT, **record}
    temporary = path.with_name(f".{path.name}.partial")
    _write(temporary, json.dumps({**record, "blake2b": _checksum(record)}, indent=2).encode())
    temporary.replace(path)
    _flush(path.parent)


def read_record(path: Path) -> dict[str, Any]:
    """Read what `write_record` wrote.

    Raises:
        DamagedFileError: The file is missing, truncated or altered.
    """
    if not path.is_file():
        raise DamagedFileError(f"{path} is missing")
    try:
        record = json.loads(path.read_bytes())
        checksum = record.pop("blake2b")
    except (ValueError, LookupError, TypeError, AttributeError):
        raise DamagedFileError(f"{path} is truncated or altered") from None
    if checksum != _checksum(record):
        raise DamagedFileError(f"{path} has another checksum than when it was written")
    return record


def optimizer_tensors(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors, named `<parameter number>.<key>`, and what JSON can hold."""
    state = optimizer.state_dict()
    tensors, rest = {}, {}
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
    """Write a file, flush it to the disk, and return its entry in the manifest."""
    try:
        with path.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, f"cannot write {len(contents)} bytes: {error.strerror}", str(path)) from error
    return {"bytes": len(contents), "blake2b": _blake2b(contents).hexdigest()}


def _delete(folder: Path) -> None:
    """Delete a checkpoint; a kill meanwhile leaves nothing that looks like one."""
    hidden = folder.with_name(f".{folder.name}.deleted")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden)


def _blake2b(contents: bytes = b"") -> Any:
    return hashlib.blake2b(contents, digest_size=16)


def _checksum(record: dict[str, Any]) -> str:
    return _blake2b(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _flush(folder: Path) -> None:
    """Flush a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
