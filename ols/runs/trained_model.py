"""A trained model as it lies on disk: the export of a run, one of its checkpoints, or an export alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ols.config import Config
from ols.data.transforms import Preprocessing
from ols.files import file_checksum, read_record
from ols.models.build import build_model
from ols.models.decoder import trunk
from ols.models.head import num_outputs
from ols.models.shape import shape_model
from ols.models.variant import Variant, apply_variant
from ols.runs.checkpoint import load_state, load_tensors, verify_checkpoint
from ols.runs.export import DENSE, load_description, load_export
from ols.runs.folder import RunFolder
from ols.tasks import find_task


@dataclass(frozen=True)
class Trained:
    """A trained model, before it is loaded.

    Args:
        name: Name of the run, or of the folder of an export alone.
        weights: File with its weights.
        output: Folder for what is measured of it.
        architecture: timm's name of it.
        preprocessing: What it expects to be done to an image.
        classes: Label of each class, as an export knows it; a checkpoint does not.
        epoch: Epochs it was trained for, where its run knows.
        soft_labels: What its loss had learned by then `[K, K]`, for a loss that learns soft labels.
        config: Configuration of its run; None for an export alone.
        task: What it predicts, a name of `ols.tasks.TASKS`.
        task_state: What one needs beside the weights to use it, see `Task.state`.
    """

    name: str
    weights: Path
    output: Path
    architecture: str
    preprocessing: Preprocessing
    classes: list[str] | None
    epoch: int | None
    soft_labels: Tensor | None
    config: Config | None
    task: str
    task_state: dict[str, Any]

    def checksum(self) -> str:
        """Return a checksum of the weights, BLAKE2b in hexadecimal."""
        return file_checksum(self.weights)

    def load(self, classes: list[str]) -> nn.Module:
        """Load the model, in eval mode on the CPU.

        Args:
            classes: Label of each class of the data it is to be measured on.

        Raises:
            ValueError: The model was trained on other classes; of a checkpoint only their number is known.
        """
        folder = self.weights.parent
        if self.classes is None:
            channels, size = self.preprocessing.in_chans, self.preprocessing.image_size
            dense = find_task(self.task).dense
            model = build_model(self.architecture, len(classes), channels, image_size=size, dense=dense)
            if not dense and self.config is not None:
                truncate_after = self.config.model.truncate_after
                shape_model(model, len(classes), truncate_after=truncate_after, head=self.config.head)
            tensors = load_tensors(folder, self.weights.stem)
            found = len(tensors["head.bias"]) if dense else num_outputs(model, tensors)
            if found != len(classes):
                raise ValueError(f"{folder} was trained on {found} classes, the data set has {len(classes)}")
            apply_variant(trunk(model), Variant(**load_state(folder)["variant"]))
            model.load_state_dict(tensors)
            return model.eval()
        if len(self.classes) != len(classes):
            raise ValueError(f"{folder} was trained on {len(self.classes)} classes, the data set has {len(classes)}")
        for ours, theirs in zip(self.classes, classes, strict=True):
            if ours != theirs:
                raise ValueError(f"{folder} was trained on a class {ours!r} where the data set has {theirs!r}")
        return load_export(folder)[0]


def find_trained(folder: Path, checkpoint: str = "export") -> Trained:
    """Find a trained model.

    Args:
        folder: Of a run, or of an export alone.
        checkpoint: `export`: the exported weights, which are those of the best epoch; `best`: the checkpoint of the
            best epoch so far, for a run that has not ended; or the name of a checkpoint's folder. Of a checkpoint, the
            moving average of the weights is taken where there is one, as for the export.

    Raises:
        FileNotFoundError: The folder holds no run and no export, or the run has no such checkpoint.
        ValueError: A checkpoint is asked of an export alone, or the run's configuration lacks what a run fills in.
    """
    if (folder / "config.json").is_file():
        if checkpoint != "export":
            raise ValueError(f"{folder} is an export alone, it has no checkpoint {checkpoint!r}")
        return _exported(folder, name=folder.resolve().name, output=RunFolder(folder).evaluation)
    run = RunFolder(folder)
    if not run.config.is_file():
        raise FileNotFoundError(f"no run and no export in {folder}: it has neither config.yaml nor config.json")
    config = run.load_config()
    name = folder.resolve().name
    best = _best_checkpoint(run)
    if checkpoint == "export":
        if not run.is_complete:
            raise FileNotFoundError(
                f"{folder} has no export: the run has not ended; "
                "--checkpoint best evaluates the best epoch that it has reached"
            )
        return _exported(run.export, name=name, output=run.evaluation, config=config, learned=best)
    place = best if checkpoint == "best" else run.checkpoints / checkpoint
    if place is None or not (place / "state.json").is_file():
        known = ", ".join(path.name for path in run.list_checkpoints()) or "none"
        raise FileNotFoundError(f"{folder} has no checkpoint {checkpoint!r}; it has: {known}")
    data, loss = config.data, load_tensors(place, "loss")
    return Trained(
        name=name,
        weights=place / ("ema.safetensors" if (place / "ema.safetensors").is_file() else "model.safetensors"),
        output=run.evaluation / place.name,
        architecture=config.model.name,
        preprocessing=Preprocessing.from_options(data),
        classes=None,
        epoch=load_state(place)["progress"]["epoch"],
        soft_labels=loss.get("soft_labels"),
        config=config,
        task=config.task,
        task_state=_task_state(config, loss),
    )


def _task_state(config: Config, loss: dict[str, Tensor]) -> dict[str, Any]:
    """Return the state of a checkpoint's task: what was chosen, and what its loss standardises targets by."""
    chosen = {name: getattr(config, name) for name in find_task(config.task).options}
    found = {name: float(loss[name]) for name in ("mean", "std") if name in loss}
    return {name: value for name, value in chosen.items() if value is not None} | found


def _exported(
    export: Path, *, name: str, output: Path, config: Config | None = None, learned: Path | None = None
) -> Trained:
    """Describe an export; `learned` is the checkpoint that it was made of."""
    description = load_description(export)
    return Trained(
        name=name,
        weights=export / "model.safetensors",
        output=output,
        architecture=description["architecture"].removeprefix(DENSE),
        preprocessing=Preprocessing(**description["ols"]["preprocessing"]),
        classes=description["pretrained_cfg"]["label_names"],
        epoch=load_state(learned)["progress"]["epoch"] if learned else None,
        soft_labels=load_tensors(learned, "loss").get("soft_labels") if learned else None,
        config=config,
        task=description["ols"]["task"],
        task_state=description["ols"]["task_state"],
    )


def _best_checkpoint(run: RunFolder) -> Path | None:
    """Return the checkpoint of the best epoch so far, if it is there and intact.

    Raises:
        DamagedFileError: It is not what was written.
    """
    if not run.best.is_file():
        return None
    best = run.checkpoint(read_record(run.best)["best"]["epoch"])
    if not best.is_dir():
        return None
    verify_checkpoint(best)
    return best
