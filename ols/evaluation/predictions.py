"""A model's outputs on a split, on disk: every figure can be recomputed and compared per image without the model."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ols.files import written_aside

FORMAT = 1
NAMES = ("sample_ids", "patients", "classes", "groups", "task", "conditions")  # what is no tensor


@dataclass(frozen=True)
class Predictions:
    """A model's outputs on a split, in the order of the data set.

    Args:
        logits: float32 or float64 `[N, K]`, of pixels `[N, K, H, W]`.
        targets: As the task has them: class indices int64 `[N]`, labels float32 `[N, L]` with NaN for unknown, numbers
            float32 `[N]`, or classes of pixels int64 `[N, H, W]`.
        indices: Index of each sample in its data set, int64 `[N]`.
        sample_ids: Name of each sample, the same on every machine, `[N]`.
        patients: What each sample belongs to, its own name where nothing is known, `[N]`.
        classes: Label of each class, `[K]`.
        groups: Modality and anatomy of each class, `[K]`.
        task: What was predicted, a name of `ols.tasks.TASKS`.
        features: Penultimate features `[N, D]`, where they were asked for.
        conditions: How they came about: versions, device, date, commit, and the like.
    """

    logits: Tensor
    targets: Tensor
    indices: Tensor
    sample_ids: list[str]
    patients: list[str]
    classes: list[str]
    groups: list[str]
    task: str
    features: Tensor | None = None
    conditions: dict[str, Any] = field(default_factory=dict)

    def required_features(self) -> Tensor:
        """Return the penultimate features `[N, D]`.

        Raises:
            ValueError: They were not asked for.
        """
        if self.features is None:
            raise ValueError("these predictions have no features")
        return self.features


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions as one safetensors file, complete or absent."""
    tensors = {"logits": predictions.logits, "targets": predictions.targets, "indices": predictions.indices}
    if predictions.features is not None:
        tensors["features"] = predictions.features
    names = {name: json.dumps(getattr(predictions, name)) for name in NAMES}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with written_aside(path) as aside:
        save_file(contiguous, aside, metadata={"format": str(FORMAT), **names})


def load_predictions(path: Path, *, features: bool = True) -> Predictions:
    """Read what `save_predictions` wrote.

    Args:
        path: Of the file.
        features: Whether features are read, too, which may be most of it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is of another format.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; evaluating the run writes it")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != str(FORMAT):
            raise ValueError(f"{path} has predictions format {metadata.get('format')}, expected {FORMAT}")
        keys = [name for name in file.keys() if features or name != "features"]  # noqa: SIM118 -- not a dict
        tensors = {name: file.get_tensor(name) for name in keys}
    names = {name: json.loads(metadata[name]) for name in NAMES if name in metadata}
    return Predictions(**tensors, **names)


def are_current(path: Path, *, weights: str, targets: np.ndarray, sample_ids: list[str], classes: list[str]) -> bool:
    """Return whether a file holds predictions, with features, of these weights and of these images.

    Args:
        path: Of the file.
        weights: Checksum of the weights, as in the predictions' conditions.
        targets: Those of the data set, one an image; of masks, which lie with the images, only the number is compared.
        sample_ids: Name of each `[N]`.
        classes: Label of each class `[K]`.
    """
    if not path.exists():
        return False
    found = load_predictions(path)
    is_mask = found.logits.ndim == 4
    same = len(found.targets) == len(targets) if is_mask else np.array_equal(found.targets, targets, equal_nan=True)
    return (
        (found.features is not None or is_mask)
        and found.conditions.get("weights") == weights
        and found.classes == classes
        and found.sample_ids == sample_ids
        and same
    )
