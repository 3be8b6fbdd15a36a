"""A trained model as others can load it: safetensors and a JSON that timm reads, without this package."""

import json
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
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
) -> None:
    """Write an export, which `timm.create_model("local-dir:<folder>", pretrained=True)` loads.

    It is `model.safetensors` and `config.json`. What timm has no key for stands under `ols` in the JSON: groups, the
    whole preprocessing, metrics.

    Args:
        folder: Where to: complete or absent, and replaced if it is there.
        model: A timm model; not wrapped for distributed training.
        architecture: timm's name of it.
        classes: Label of each class, in the order of the logits.
        groups: Modality and anatomy of each class.
        preprocessing: What the model expects to be done to an image.
        metrics: Its results, by tag.
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
        "ols": {"format": FORMAT, "groups": groups, "preprocessing": vars(preprocessing), "metrics": metrics},
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
