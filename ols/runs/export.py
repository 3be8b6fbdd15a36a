"""A trained model as others can load it: safetensors and a JSON that timm reads, without this package."""

import json
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import adapt_input_conv
from torch import nn

from ols.data.transforms import Preprocessing

FORMAT = 1


def export_model(
    folder: Path,
    model: nn.Module,
    *,
    architecture: str,
    classes: list[str],
    groups: list[str],
    preprocessing: Preprocessing,
    metrics: dict[str, float],
    task: str = "multiclass",
) -> None:
    """Write an export, which `timm.create_model("local-dir:<folder>", pretrained=True)` loads.

    It is `model.safetensors` and `config.json`. What timm has no key for stands under `ols` in the JSON: task, groups,
    the whole preprocessing, metrics.

    Args:
        folder: Where to: complete or absent, and replaced if it is there.
        model: A timm model; not wrapped for distributed training.
        architecture: timm's name of it.
        classes: Label of each class, in the order of the logits.
        groups: Modality and anatomy of each class.
        preprocessing: What the model expects to be done to an image.
        metrics: Its results, by tag.
        task: What it predicts, a name of `ols.tasks.TASKS`.
    """
    unfinished = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, unfinished / "model.safetensors", metadata={"format": "pt"})
    channels, size = preprocessing.in_chans, preprocessing.image_size
    config = {
        "architecture": architecture,
        "num_classes": len(classes),
        "num_features": model.num_features,
        "model_args": {"in_chans": channels, "num_classes": len(classes)},
        "pretrained_cfg": {
            "num_classes": len(classes),
            "input_size": [channels, size, size],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": size / preprocessing.resize_size,
            "crop_mode": {"shorter": "center", "longest": "border", "squash": "squash"}[preprocessing.aspect],
            "mean": [preprocessing.mean] * channels,
            "std": [preprocessing.std] * channels,
            "label_names": classes,
        },
        "ols": {
            "format": FORMAT,
            "task": task,
            "groups": groups,
            "preprocessing": vars(preprocessing),
            "metrics": metrics,
        },
    }
    (unfinished / "config.json").write_text(json.dumps(config, indent=2))
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def load_description(folder: Path) -> dict[str, Any]:
    """Read the JSON of an export.

    Raises:
        FileNotFoundError: The folder holds no export.
        ValueError: The export is of another format.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no export in {folder}: config.json is missing")
    config = json.loads((folder / "config.json").read_text())
    found = config.get("ols", {}).get("format")
    if found != FORMAT:
        raise ValueError(f"{folder} has export format {found}, expected {FORMAT}")
    return config


def load_export(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Load an export: the model in eval mode, and its JSON; raises what `load_description` does."""
    config = load_description(folder)
    with torch.random.fork_rng(devices=[]):  # building draws initial weights that are not kept
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval(), config


def start_from_export(model: nn.Module, folder: Path) -> str:
    """Load the weights of an export into a model of the same architecture, to train it further.

    Where the number of classes differs, the model keeps its own head. Between gray and RGB the first convolution is
    adapted: summed over the channels, or a third of it for each, so that a gray image gives what it gave before.

    Args:
        model: timm's, not wrapped, for 1 or 3 channels.
        folder: An export, or a run that has one.

    Returns:
        A line that says what was not loaded, and what was adapted.

    Raises:
        FileNotFoundError: The folder holds no export.
        ValueError: The export is of another format or architecture, or its other weights do not fit.
    """
    if (folder / "export").is_dir():
        folder = folder / "export"
    config = load_description(folder)
    architecture, expected = config["architecture"].split(".")[0], model.pretrained_cfg.get("architecture")
    if architecture != expected:
        raise ValueError(f"{folder} is an export of {architecture}, and the model is {expected}")
    weights, own = load_file(folder / "model.safetensors"), model.state_dict()
    line = f"start {len(weights)} tensors of {folder}"
    for name in _weight_names(model, "first_conv"):
        if name in weights and (found := weights[name].shape[1:2]) != (wanted := own[name].shape[1:2]):  # not the bias
            gray = found > wanted
            weights[name] = adapt_input_conv(1, weights[name]) if gray else weights[name].repeat_interleave(3, 1) / 3
            line += f"; {name} adapted from {found[0]} to {wanted[0]} channels"
    misfits = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    new = [name for name in misfits if name in _weight_names(model, "classifier")]
    if new != misfits or weights.keys() - own.keys():
        names = ", ".join(sorted({*misfits, *(weights.keys() - own.keys())}.difference(new)))
        raise ValueError(f"{folder} does not fit the model {architecture}: {names}")
    model.load_state_dict(weights | {name: own[name] for name in new})
    return line + (f"; new: {', '.join(new)}" if new else "")


def _weight_names(model: nn.Module, part: str) -> list[str]:
    """Return the weights, and biases, of what timm calls a model's `first_conv` or `classifier`."""
    modules = model.pretrained_cfg.get(part) or ()
    modules = (modules,) if isinstance(modules, str) else modules
    return [f"{module}.{name}" for module in modules for name, _ in model.get_submodule(module).named_parameters()]
