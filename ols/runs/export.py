"""A trained model as others can load it: safetensors and a JSON that timm reads, without this package."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ols.config import Config, ModelConfig
from ols.data.transforms import Preprocessing
from ols.files import written_aside
from ols.models.build import architecture, model_arguments
from ols.models.decoder import UNet, trunk
from ols.models.head import find_head
from ols.models.options import FRESH, RUN, parse_start
from ols.models.origin import note_origin, origin_of
from ols.models.shape import is_timms_shape, restore_shape, shape_record
from ols.models.start import HALF, KINDS, load_into, pretrained_normalization, sha256, start_from_file
from ols.models.variant import Variant, apply_variant, variant_of
from ols.runs.folder import RunFolder

FORMAT = 1
WEIGHTS = "model.safetensors"
DENSE = "unet:"  # before timm's name of the encoder
NOT_TIMMS = "-variant-of-ols"  # behind timm's name of a network that computes otherwise


def export_model(
    folder: Path,
    model: nn.Module,
    *,
    architecture: str,
    classes: list[str],
    groups: list[str],
    preprocessing: Preprocessing,
    metrics: dict[str, float],
    task: str,
    task_state: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write an export, which `timm.create_model("local-dir:<folder>", pretrained=True)` loads.

    A model with a decoder is no model of timm's: its architecture is `unet:NAME`, which timm refuses and `load_export`
    builds.

    It is `model.safetensors` and `config.json`. What timm has no key for stands under `ols` in the JSON: task, groups,
    the whole preprocessing, metrics, the variant, where the weights come from, truncation and head. A
    network that timm's of the same name is not, has a name that timm refuses: `load_export` alone builds it.

    Args:
        folder: Where to: complete or absent, and replaced if it is there.
        model: A timm model; not wrapped for distributed training.
        architecture: timm's name of it.
        classes: Label of each class, in the order of the logits.
        groups: Modality and anatomy of each class.
        preprocessing: What the model expects to be done to an image.
        metrics: Its results, by tag.
        task: What it predicts, a name of `ols.tasks.TASKS`.
        task_state: What one needs beside the weights to use it, such as the positive class: `Task.state`.
    """
    # Copies, as some models have a tensor under several names, which safetensors refuses
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    channels, size = preprocessing.in_chans, preprocessing.image_size
    variant, shape = variant_of(model), shape_record(model)
    name = architecture if variant.is_timms and is_timms_shape(shape) else f"{architecture}{NOT_TIMMS}"
    if isinstance(model, UNet):
        name = f"{DENSE}{architecture}"
    config = {
        "architecture": name,
        "num_classes": len(classes),
        "num_features": model.num_features,
        "model_args": model_arguments(architecture, len(classes), channels, size),
        "pretrained_cfg": {
            "num_classes": len(classes),
            "input_size": [channels, size, size],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": size / preprocessing.resize_size,
            "crop_mode": {"shorter": "center", "longest": "border", "squash": "squash"}[preprocessing.aspect],
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "label_names": classes,
        },
        "ols": {
            "format": FORMAT,
            "architecture": architecture,
            "variant": asdict(variant),
            "origin": origin_of(model),
            "shape": shape,
            "task": task,
            "task_state": dict(task_state),
            "groups": groups,
            "preprocessing": vars(preprocessing),
            "metrics": metrics,
        },
    }
    with written_aside(folder) as aside:
        aside.mkdir()
        save_file(weights, aside / WEIGHTS, metadata={"format": "pt"})
        (aside / "config.json").write_text(json.dumps(config, indent=2))


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
    """Load an export, strictly: every tensor of the model comes from its `model.safetensors`, nothing is unpickled.

    Returns:
        The model in eval mode on the CPU, and its JSON.

    Raises:
        FileNotFoundError: The folder holds no export.
        ValueError: The export is of another format, or its tensors are not those of the model.
    """
    config = load_description(folder)
    with torch.random.fork_rng(devices=[]):  # building draws initial weights that are not kept
        name, arguments = config["ols"]["architecture"], config["model_args"]
        model: nn.Module
        if config["architecture"].startswith(DENSE):
            model = UNet(name, arguments["num_classes"], **arguments)
        else:
            model = timm.create_model(name, **arguments)
        restore_shape(model, config["ols"]["shape"])
    apply_variant(trunk(model), Variant(**config["ols"]["variant"]))
    note_origin(trunk(model), config["ols"].get("origin", []))
    try:
        model.load_state_dict(_load_weights(folder))
    except RuntimeError as error:
        raise ValueError(f"{folder} does not hold the weights of {config['ols']['architecture']}: {error}") from error
    return model.eval(), config


def start_from_export(model: nn.Module, folder: Path) -> str:
    """Load the weights of an export into a model of the same architecture, as `ols.models.start.load_into` does.

    Args:
        model: timm's, not wrapped, for 1 or 3 channels; of a model with a decoder its `trunk`.
        folder: An export, or a run that has one.

    Returns:
        A line that says what was not loaded, and what was adapted.

    Raises:
        FileNotFoundError: The folder holds no export.
        ValueError: The export is of another format or architecture, or its other weights do not fit.
    """
    folder = find_export(folder)
    described = load_description(folder)["ols"]
    found, expected = described["architecture"].split(".")[0], architecture(model)
    if found != expected:
        raise ValueError(f"{folder} is an export of {found}, and the model is {expected}")
    weights = _load_weights(folder)
    if not find_head(model):  # of a model with a decoder, which needs neither the head nor what only the head sees
        weights = {name: value for name, value in weights.items() if name in model.state_dict()}
    line = f"{load_into(model, weights, str(folder))}; sha256 {sha256(folder / WEIGHTS)}"
    apply_variant(model, Variant(**described["variant"]))
    note_origin(model, [line, *described.get("origin", ["of an export that does not say"])])
    return line


def start_model(model: nn.Module, start: str) -> str | None:
    """Give a model the weights that it starts from.

    Args:
        model: timm's, not wrapped, for 1 or 3 channels; already timm's pretrained one for `imagenet` without a file.
        start: `none`, or kind and place, such as `radimagenet-keras:weights.h5`.

    Returns:
        A line that says what was loaded; None where nothing was.

    Raises:
        FileNotFoundError: There is no such file or export.
        ValueError: The weights are of another form or architecture.
    """
    kind, place = parse_start(start)
    if kind == FRESH:
        return None
    if place is None:
        pretrained: Any = model.pretrained_cfg
        line = f"start timm's weights {pretrained['architecture']}.{pretrained['tag']}"
        note_origin(model, [line])
        return line
    return start_from_export(model, Path(place)) if kind == RUN else start_from_file(model, kind, Path(place))


def find_export(folder: Path) -> Path:
    """Return the export of a run, or the folder itself."""
    return folder / "export" if (folder / "export").is_dir() else folder


def start_normalization(start: ModelConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel that the weights expect which a model starts from.

    Args:
        start: Names timm's weights, a run or an export; fresh weights expect intensities mapped to [-1, 1].

    Raises:
        FileNotFoundError: The folder holds no export.
    """
    kind, place = parse_start(start.start)
    if kind == FRESH:
        return HALF, HALF
    if kind == RUN:
        preprocessing = load_description(find_export(Path(place or "")))["ols"]["preprocessing"]
        return tuple(preprocessing["mean"]), tuple(preprocessing["std"])
    return KINDS[kind].scale or pretrained_normalization(start.name)


def run_normalization(config: Config) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return what `start_normalization` does, and for a run that is continued without its source what it has recorded.

    Raises:
        FileNotFoundError: The source is gone, and there is no such run to continue.
    """
    try:
        return start_normalization(config.model)
    except FileNotFoundError:
        folder = RunFolder(config.run_dir or "")
        if config.resume == "never" or not folder.list_checkpoints() or not folder.config.is_file():
            raise
        before = folder.load_config()
        if before.model != config.model or before.data.mean is None or before.data.std is None:
            raise
        return tuple(before.data.mean), tuple(before.data.std)


def _load_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: an export is its weights, and nothing else is read in their place")
    return load_file(path)
