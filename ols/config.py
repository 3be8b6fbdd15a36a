"""The schema of a run's configuration; `ols.command_line` reads it from files and the command line.

Losses, phantoms and images are described where they are made: their constructors' options are the schema. Nothing heavy
is imported, so that `--help` and a wrong key answer at once.
"""

import os
import re
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from ols.data.options import DataOptions, SplitOptions
from ols.losses import find_loss
from ols.models.options import FreezeOptions, HeadOptions, parse_start
from ols.phantoms import PhantomConfig
from ols.tasks import find_task


@dataclass(frozen=True)
class DataConfig(DataOptions):
    """Images, and what is done to them.

    Args:
        phantoms: Render the data set described by `phantoms` at `root` unless it is there.
        class_weights: Weight of a class in the loss: `inverse` to its training images, or to their `effective`
            number (Cui et al. 2019, beta 0.9999); the mean weight of a training image is 1.
    """

    phantoms: bool = False
    class_weights: Literal["none", "inverse", "effective"] = "none"

    def __post_init__(self):
        try:
            super().__post_init__()
        except ValueError as error:
            raise ValueError(f"data.{error}") from error
        if self.sampling != "natural" and self.class_weights != "none":
            raise ValueError(
                f"data.sampling {self.sampling} and data.class_weights {self.class_weights} "
                "both make up for imbalance: choose one"
            )


@dataclass(frozen=True)
class ModelConfig:
    """Architecture.

    Args:
        name: A name that timm knows.
        start: Weights to start from: `none`; `imagenet`, timm's (needs the network), or `imagenet:<file>`;
            `run:<folder>` of a run or an export of the same architecture; published ones, `radimagenet-keras:<file>`,
            `radimagenet-torch:<file>`, `radimagenet-hub:<file>` or `radiologynet:<file>`. The head is new where the
            number of classes differs.
        truncate_after: Leave out what follows this block, named as in timm's `feature_info`, such as `layer3`.
    """

    name: str = "resnet50"
    start: str = "none"
    truncate_after: str | None = None

    def __post_init__(self):
        try:
            parse_start(self.start)
        except ValueError as error:
            raise ValueError(f"model.start: {error}") from error


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and schedule.

    Args:
        name: A name that timm knows; `sgd` is SGD with Nesterov momentum.
        peak_lr: Learning rate at the end of the warm-up.
        weight_decay: Weight decay, not applied to norms and biases.
        momentum: Momentum, for optimizers that have one.
        schedule: timm's name of the learning-rate schedule, or `constant`: after the warm-up, the peak to the end.
        warmup_epochs: Linear warm-up, counted within the epochs of the run.
        min_lr: Learning rate at the start of the warm-up and, unless it is constant, at the end.
        head_lr_factor: The head's learning rates are so many times those of the rest.
        layer_decay: Learning rates fall by this factor from each group of layers to the one before it, from the head
            to the stem; by default they do not.
    """

    name: str = "sgd"
    peak_lr: float = 0.1
    weight_decay: float = 1e-4
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    min_lr: float = 0.0
    head_lr_factor: float = 1.0
    layer_decay: float | None = None

    def __post_init__(self):
        if not self.head_lr_factor > 0:
            raise ValueError(f"optim.head_lr_factor must be positive, got {self.head_lr_factor}")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"optim.layer_decay must lie in (0, 1], got {self.layer_decay}")


@dataclass(frozen=True)
class TrainConfig:
    """The loop, and the machine it runs on.

    Args:
        epochs: Passes over the training split.
        global_batch_size: Images per optimizer step over all processes and accumulation steps.
        accumulation_steps: Micro-batches per optimizer step.
        precision: `bf16` and `fp16` are autocast with the loss in float32; `float64` is for comparisons.
        channels_last: Memory format of images and weights; faster on GPUs.
        compile: Compile the model with torch.compile.
        sync_bn: Batch statistics over all processes (GPUs only).
        clip_grad_norm: Largest norm of the gradient; `null` does not clip.
        ema_decay: Decay per step of an exponential moving average of the weights. Both are evaluated; the average is
            selected and exported.
        select_by: Measure on validation that chooses the epoch that is tested and exported; by default the task's own,
            `top1` for several classes and `auc` for two.
        early_stop_epochs: End after so many epochs in a row without a better one; `null` trains to the end.
        max_nonfinite_steps: Steps in a row that are skipped because loss or gradient is not finite, before the run
            stops.
        keep_last: Newest checkpoints that are kept, beside the best epoch's; a damaged one is survived from 2 on.
        checkpoint_every_minutes: Time between checkpoints; there is one at the end of each epoch, too.
        checkpoint_every_steps: Optimizer steps between checkpoints, counted from the beginning of the run.
        log_every_steps: Optimizer steps between readings of the training loss.
        threads: torch's threads in each process; by default its share of the cores.
        device: `cpu` uses no accelerator even where there is one.
        deterministic: Only deterministic algorithms, without which a GPU does not repeat its bits; slower there.
    """

    epochs: int = 30
    global_batch_size: int = 256
    accumulation_steps: int = 1
    precision: Literal["float32", "bf16", "fp16", "float64"] = "float32"
    channels_last: bool = False
    compile: bool = False
    sync_bn: bool = False
    clip_grad_norm: float | None = None
    ema_decay: float | None = None
    select_by: str | None = None
    early_stop_epochs: int | None = None
    max_nonfinite_steps: int = 10
    keep_last: int = 2
    checkpoint_every_minutes: float | None = 15.0
    checkpoint_every_steps: int | None = None
    log_every_steps: int = 50
    threads: int | None = None
    device: Literal["auto", "cpu"] = "auto"
    deterministic: bool = False

    def __post_init__(self):
        counts = ("epochs", "global_batch_size", "accumulation_steps", "keep_last", "log_every_steps")
        for name in (*counts, "early_stop_epochs", "max_nonfinite_steps", "checkpoint_every_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"train.{name} must be at least 1, got {value}")
        if self.checkpoint_every_minutes is not None and not self.checkpoint_every_minutes > 0:
            raise ValueError(f"train.checkpoint_every_minutes must be positive, got {self.checkpoint_every_minutes}")
        if self.clip_grad_norm is not None and not self.clip_grad_norm > 0:
            raise ValueError(
                f"train.clip_grad_norm must be positive, or null to clip nothing, got {self.clip_grad_norm}"
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"train.ema_decay must lie in (0, 1), got {self.ema_decay}")


@dataclass(frozen=True)
class Config:
    """One run.

    Args:
        task: What is predicted: `multiclass`, one of several classes; `binary`, which of two; `multilabel`, any of
            several; `regression`, a number; or `segmentation`, a class of each pixel.
        positive: Name of the positive class of a binary task; by default the second one.
        run_dir: Folder of the run; by default `runs/<data>-<model>-<loss>-seed<seed>`.
        seed: Seed of initialisation, order and augmentation.
        resume: `auto` continues the run in `run_dir`; `never` moves it aside and starts anew.
        dry_run: Two steps of everything, in a folder of its own.
        profile: Print at the end where the time went, and write a trace of three steps for TensorBoard.
        overfit_batches: Train and evaluate on so many fixed batches: a sound model reaches 100 %.
        teacher: Export of a trained model, for losses that need a teacher.
        data: Images.
        phantoms: Synthetic images, where `data.phantoms` asks for them.
        model: Architecture.
        optim: Optimizer and schedule.
        train: The loop.
        loss: Name of the loss, perhaps a preset of it, and its options.
        split: Which fold of a table of targets.
        head: Layers between features and outputs.
        freeze: Which parameters are trained, and when.
        cell: Label on each axis of the study that the run is a cell of.
        format: Version of this schema.
    """

    task: str = "multiclass"
    positive: str | None = None
    run_dir: str | None = None
    seed: int = 0
    resume: Literal["auto", "never"] = "auto"
    dry_run: bool = False
    profile: bool = False
    overfit_batches: int | None = None
    teacher: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    phantoms: PhantomConfig = field(default_factory=PhantomConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    loss: dict[str, Any] = field(default_factory=lambda: {"name": "ols"})
    split: SplitOptions = field(default_factory=SplitOptions)
    head: HeadOptions = field(default_factory=HeadOptions)
    freeze: FreezeOptions = field(default_factory=FreezeOptions)
    cell: dict[str, str] = field(default_factory=dict)
    format: Literal[1] = 1

    def __post_init__(self):
        task = find_task(self.task)
        try:
            task.selecting(self.train.select_by)
        except ValueError as error:
            raise ValueError(f"train.select_by: {error}") from error
        task.check_loss_name(self.loss["name"])
        if self.positive is not None and "positive" not in task.options:
            raise ValueError(
                f"positive names the positive class of a binary task, got {self.positive!r} of {self.task}"
            )
        if task.dense and (self.head != HeadOptions() or self.model.truncate_after):
            raise ValueError(
                f"head.* and model.truncate_after have no effect on a {self.task} task, which has a decoder"
            )
        if len(self.data.side or []) != self.head.side_inputs:
            raise ValueError(
                f"data.side names {len(self.data.side or [])} columns, head.side_inputs takes {self.head.side_inputs}"
            )
        if task.kind != "class":
            needing = {"data.mixup_alpha": self.data.mixup_alpha > 0, "data.cutmix_alpha": self.data.cutmix_alpha > 0}
            needing["data.sampling class_balanced"] = self.data.sampling == "class_balanced"
            needing[f"data.class_weights {self.data.class_weights}"] = self.data.class_weights != "none"
            for key in (key for key, asked in needing.items() if asked):
                raise ValueError(f"{key} needs images of one class each, which a {self.task} task does not have")
        if self.data.mixes and not find_loss(self.loss["name"]).takes_probabilities:
            raise ValueError(
                f"loss {self.loss['name']} takes class indices only: data.mixup_alpha and data.cutmix_alpha must be 0, "
                f"got {self.data.mixup_alpha} and {self.data.cutmix_alpha}"
            )

    def resolve(self) -> Self:
        """Return the configuration with derived values filled in, and a dry run's folder kept apart."""
        sizes = self.data.with_resize_size()
        data = replace(sizes, root=os.path.expanduser(sizes.root), splits=expand_home(sizes.splits))
        kind, place = parse_start(self.model.start)
        model = replace(self.model, start=kind if place is None else f"{kind}:{expand_home(place)}")
        root = Path(data.root)
        place = root.name if root.suffix != ".csv" else "-".join([root.parent.name, *(data.targets or [])[:3]])
        name = f"{place}-{model.name}-{self.loss['name']}-seed{self.seed}"
        # Names such as hf_hub:timm/resnet50 and local-dir:/exports/one make a folder's name, too.
        run_dir = expand_home(self.run_dir) or f"runs/{re.sub(r'[^A-Za-z0-9_.+-]+', '-', name)}"
        train = replace(self.train, select_by=find_task(self.task).selecting(self.train.select_by))
        if self.dry_run:
            train = replace(train, epochs=1, log_every_steps=1)
            run_dir = f"{run_dir.rstrip('/')}-dry_run"
        return replace(
            self,
            run_dir=run_dir,
            resume="never" if self.dry_run else self.resume,
            data=data,
            model=model,
            train=train,
            teacher=expand_home(self.teacher),
            split=replace(self.split, file=expand_home(self.split.file)),
        )


def expand_home(path: str | None) -> str | None:
    """Return a path with the user's home folder for a leading `~`, which shells leave in `--key=~/folder`."""
    return None if path is None else os.path.expanduser(path)


def config_from(values: dict[str, Any]) -> Config:
    """Return the configuration that nested dictionaries describe, such as `asdict` made of one.

    What is missing has its default.

    Raises:
        TypeError: A key is unknown.
        ValueError: A value is wrong.
    """
    sections: dict[str, type] = {}
    for section in fields(Config):
        kind: object = section.default_factory
        if isinstance(kind, type) and is_dataclass(kind):
            sections[section.name] = kind
    if not isinstance(values, dict):
        raise TypeError(f"a configuration is a mapping, got {type(values).__name__}")
    built = {name: build(**values[name]) for name, build in sections.items() if name in values}
    return Config(**{**values, **built})


@dataclass(frozen=True)
class FinetuneConfig(Config):
    """Runs on the folds of a table of targets.

    Args:
        against: Another start, such as `none`, that is trained on the same folds and compared with `model.start`.
        source: Configuration file, in `recipes/configs`, of the run that is the start: it is trained first, if it has
            not been.
    """

    against: str | None = None
    source: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.against is not None:
            try:
                parse_start(self.against)
            except ValueError as error:
                raise ValueError(f"against: {error}") from error
            if self.against == self.model.start and not self.source:
                raise ValueError(f"against: {self.against} is what model.start is, too")
        if self.source and self.model.start != "none":
            raise ValueError(f"source: the run of {self.source} is the start; leave out model.start {self.model.start}")

    def of_fold(self, fold: int, start: str, run_dir: str) -> Config:
        """Return the configuration of the run on one fold.

        Args:
            fold: Its number.
            start: Weights that it starts from.
            run_dir: Folder of that run.
        """
        values = {item.name: getattr(self, item.name) for item in fields(Config)}
        split, model = replace(self.split, fold=fold), replace(self.model, start=start)
        data = replace(self.data, phantoms=False)  # those of targets, which are there by now
        return Config(**values | {"data": data, "split": split, "model": model, "run_dir": run_dir})


@dataclass(frozen=True)
class ProbeConfig(FinetuneConfig):
    """Heads on frozen features of a table of targets.

    Args:
        heads: Which: ridge, logistic, knn, descent; by default all that take such targets.
        shares: Parts of the training images, by whole patients, each a probe of its own; by default `split.share`.
        views: Augmented views of each image that are trained on beside the plain one.
        features: Folder where features are kept, which probes may share; by default `features` in that of the run.
    """

    heads: list[str] | None = None
    shares: list[float] | None = None
    views: int = 0
    features: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.views < 0:
            raise ValueError(f"views must not be negative, got {self.views}")
        if self.shares is not None and not (self.shares and all(0 < share <= 1 for share in self.shares)):
            raise ValueError(f"shares must lie in (0, 1], got {self.shares}")
        if self.source or self.against:
            raise ValueError("a probe is of one start: leave out source and against, and probe the other by itself")
