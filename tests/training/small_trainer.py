"""A trainer of a tiny model on images in memory, put together as a recipe does it, without a configuration."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from ols.config import Config, OptimConfig, TrainConfig
from ols.data.loading import EvalLoader, Place, TrainLoader
from ols.data.sampling import BatchShare, EvalBatches, TrainBatches
from ols.data.transforms import EvalTransform, Preprocessing, TrainTransform
from ols.losses import build_loss
from ols.runs.folder import RunFolder
from ols.tasks import build_task
from ols.tracking.tracker import Tracker
from ols.training.machine import build_accelerator
from ols.training.optim import build_optimizer, build_schedule
from ols.training.trainer import Trainer

PER_CLASS = {"train": 6, "val": 3}
ENVIRONMENT = {"command": ["train.py", "--seed", "0"]}


class GrayLevels:
    """Noise whose level grows with the class, of four classes; images whose index is in `unreadable` cannot be read."""

    def __init__(self, split: str, unreadable: set[int] = frozenset()):
        self.split, self.unreadable = split, unreadable
        self.classes, self.groups = ["a", "b", "c", "d"], ["CT", "CT", "MR", "US"]
        self.targets = np.repeat(np.arange(4), PER_CLASS[split])
        noise = np.random.default_rng(PER_CLASS[split]).integers(-20, 20, (len(self), 9, 9))
        self.pixels = (40 + 50 * self.targets[:, None, None] + noise).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.targets)

    def read(self, index: int) -> Image.Image:
        if index in self.unreadable:
            raise ValueError(f"{self.sample_id(index)} cannot be read")
        return Image.fromarray(self.pixels[index])

    def sample_id(self, index: int) -> str:
        return f"{self.split}/{index}"

    def content(self) -> str:
        return self.split


class RecordingTracker(Tracker):
    """Keeps what is logged in `records`, and writes nothing."""

    def __init__(self, folder: RunFolder, task):
        super().__init__(folder, config={}, environment=ENVIRONMENT, task=task, enabled=False)
        self.records: list[dict] = []

    def log(self, values: dict[str, float], *, images_seen: int, epoch: int) -> None:
        self.records.append({"epoch": epoch, "images_seen": images_seen, **values})

    def of(self, tag: str) -> list[float]:
        """Return what was logged under a tag, in order."""
        return [record[tag] for record in self.records if tag in record]


def small_net(*, batch_norm: bool = False) -> nn.Module:
    """Return a network from images `[B, 1, 8, 8]` to logits `[B, 4]`."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4) if batch_norm else nn.Identity()
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4))


def build_trainer(
    path: Path,
    *,
    loss: str = "ols",
    class_weights: torch.Tensor | None = None,
    model: nn.Module | None = None,
    peak_lr: float = 0.1,
    warmup_epochs: float = 1.0,
    teacher: nn.Module | None = None,
    train_source: GrayLevels | None = None,
    unreadable: str = "error",
    profile: bool = False,
    scaler: torch.amp.GradScaler | None = None,
    writes: bool = False,
    identity: str = "",
    **train,
) -> Trainer:
    """Build the trainer of a run in a folder: on the CPU, 3 steps an epoch of 8 images each, every loss read.

    Args:
        path: The run's folder.
        loss: Name of the loss.
        class_weights: Its weights `[K]`.
        model: From images `[B, 1, 8, 8]` to logits `[B, 4]`; by default `small_net()`.
        peak_lr: Learning rate.
        warmup_epochs: Of the learning rate.
        teacher: See `Trainer`.
        train_source: Training split.
        unreadable: See `TrainLoader`.
        profile: See `Trainer`.
        scaler: Gradient scaler.
        writes: Whether the tracker writes metrics.jsonl and TensorBoard's files; otherwise it keeps `records`.
        identity: Stands for the configuration, and after a slash for the run's name if it is not the folder's.
        train: Options of `TrainConfig`.
    """
    config = TrainConfig(**{"epochs": 3, "global_batch_size": 8, "log_every_steps": 1, "device": "cpu"} | train)
    accelerator = build_accelerator(config)
    accelerator.scaler = scaler
    dtype = torch.float64 if config.precision == "float64" else torch.float32
    preprocessing, place = Preprocessing(image_size=8, resize_size=9), Place(dtype=dtype)

    source, held_out = train_source or GrayLevels("train"), GrayLevels("val")
    batches = TrainBatches(np.arange(len(source)), BatchShare(8, config.accumulation_steps))
    train_loader = TrainLoader(source, TrainTransform(preprocessing), batches, unreadable=unreadable, place=place)
    batches = EvalBatches(np.arange(len(held_out)), batch_size=8)
    val_loader = EvalLoader(held_out, EvalTransform(preprocessing), batches, place=place)

    task = build_task("multiclass", source.classes, source.groups)
    model = (model or small_net()).to(dtype)
    weights = {} if class_weights is None else {"weight": class_weights.to(dtype)}
    options = OptimConfig(peak_lr=peak_lr, warmup_epochs=warmup_epochs)
    optimizer = build_optimizer(model, options)
    folder = RunFolder(path)
    config_digest, _, name = identity.partition("/")
    folder.identity = {"run": name or path.name, "config": config_digest}
    tracker = RecordingTracker(folder, task)
    if writes:
        whole_config = asdict(Config(train=config, loss={"name": loss}))
        tracker = Tracker(folder, config=whole_config, environment=ENVIRONMENT, task=task, enabled=True)
    return Trainer(
        config,
        seed=0,
        folder=folder,
        accelerator=accelerator,
        task=task,
        model=model,
        loss=build_loss(loss, 4, reduction="sum", **weights).to(dtype),
        optimizer=optimizer,
        schedule=build_schedule(optimizer, options, epochs=config.epochs, steps_per_epoch=3),
        train_loader=train_loader,
        val_loader=val_loader,
        data={"train": train_loader.fingerprint(), "val": val_loader.fingerprint()},
        tracker=tracker,
        teacher=teacher,
        profile=profile,
    )
