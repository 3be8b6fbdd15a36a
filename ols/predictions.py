"""A model's outputs on a split, on disk: every figure can be recomputed and compared per image without the model."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = 1


@dataclass(frozen=True)
class Predictions:
    """A model's outputs on a split, in the order of the data set.

    Args:
        logits: float32 or float64 `[N, K]`.
        targets: int64 `[N]`.
        indices: Index of each sample in its data set, int64 `[N]`.
        sample_ids: Name of each sample, the same on every machine, `[N]`.
        classes: Label of each class, `[K]`.
        groups: Modality and anatomy of each class, `[K]`.
        features: Penultimate features `[N, D]`, where they were asked for.
    """

    logits: Tensor
    targets: Tensor
    indices: Tensor
    sample_ids: list[str]
    classes: list[str]
    groups: list[str]
    features: Tensor | None = None


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions as one safetensors file, under a temporary name that is then replaced."""
    tensors = {"logits": predictions.logits, "targets": predictions.targets, "indices": predictions.indices}
    if predictions.features is not None:
        tensors["features"] = predictions.features
    names = {name: json.dumps(getattr(predictions, name)) for name in ("sample_ids", "classes", "groups")}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, temporary, metadata={"format": str(FORMAT), **names})
    temporary.replace(path)


def load_predictions(path: Path) -> Predictions:
    """Read what `save_predictions` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is of another format.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; write it with recipes/evaluate.py")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != str(FORMAT):
            raise ValueError(f"{path} has predictions format {metadata.get('format')}, expected {FORMAT}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
    names = {name: json.loads(metadata[name]) for name in ("sample_ids", "classes", "groups")}
    return Predictions(**tensors, **names)
