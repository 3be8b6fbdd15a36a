"""Features of a frozen model, computed once for each image and view, and kept in files that know what they are of."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ols.data.loading import EvalLoader, Place
from ols.data.sampling import EvalBatches
from ols.data.sources.protocol import ImageSource
from ols.data.transforms import EvalTransform
from ols.files import file_checksum, one_at_a_time, read_record, write_record, written_aside
from ols.models.head import find_head


def cached_features(
    folder: Path,
    model: nn.Module,
    source: ImageSource,
    views: Sequence[EvalTransform],
    *,
    weights: str,
    batch_size: int = 64,
    workers: int = 0,
    place: Place | None = None,
) -> Tensor:
    """Return the penultimate features of every image of a data set, for each view of it.

    A file in the folder is used again if it is whole and of the same weights, images, targets and transform; of several
    processes that ask for it at once, one computes it, and the others wait.

    Args:
        folder: Where features are kept.
        model: A timm model on the device of `place`; it is left in the mode it was in.
        source: The images.
        views: What an image goes through: one `EvalTransform`, or some `TrainTransform`s of different seeds.
        weights: Checksum of the model's weights.
        batch_size: Images per forward pass.
        workers: Processes that read images.
        place: Where batches go; by default float32 on the CPU.

    Returns:
        Features `[V, N, D]` on the CPU, in the order of the data set.

    Raises:
        ValueError: There are no views, or two are the same.
    """
    if not views or any(view in views[:number] for number, view in enumerate(views)):
        raise ValueError(f"features need at least one view, and views that differ; got {len(views)}")
    place, found = place or Place(), []
    for view in views:
        batches = EvalBatches(np.arange(len(source)), batch_size=batch_size)
        loader = EvalLoader(source, view, batches, workers=workers, place=place)
        key: dict[str, Any] = {
            "weights": weights,
            "data": loader.fingerprint(),
            "transform": {"kind": type(view).__name__, **asdict(view)},
            "dtype": str(place.dtype),
        }
        name = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()
        path, record = folder / f"{name}.safetensors", folder / f"{name}.json"
        with one_at_a_time(folder / f".{name}.lock"):
            if not _is_whole(path, record):
                features = extract_features(model, loader)
                with written_aside(path) as aside:
                    save_file({"features": features}, aside)
                write_record(record, {"key": key, "checksum": file_checksum(path)})
        found.append(load_file(path)["features"])
    return torch.stack(found)


def weights_checksum(model: nn.Module) -> str:
    """Return a checksum of a model's weights and buffers, whatever file they came from; BLAKE2b in hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def extract_features(model: nn.Module, loader: EvalLoader) -> Tensor:
    """Return what goes into the head for each image, `[N, D]` on the CPU, in the loader's order."""
    heads = list(find_head(model).values())
    if not heads:
        raise ValueError(f"{type(model).__name__} has no head, whose input would be its features")
    taken: list[Tensor] = []
    hook = heads[0].register_forward_pre_hook(lambda _, args: taken.append(args[0].flatten(1).cpu()))
    was_training = model.training
    model.eval()
    try:
        for batch in loader:
            model(batch["image"])
    finally:
        hook.remove()
        model.train(was_training)
    return torch.cat(taken).contiguous()


def _is_whole(path: Path, record: Path) -> bool:
    """Return whether a file is what was written; one that is not is written anew."""
    try:
        return path.is_file() and read_record(record)["checksum"] == file_checksum(path)
    except ValueError:
        return False
