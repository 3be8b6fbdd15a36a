"""The configuration of a run: its schema, and how it is read from files and the command line.

Losses, phantoms and images are described where they are made: their constructors' options are the schema. Nothing heavy
is imported, so that `--help` and a wrong key answer at once.
"""

import difflib
import os
import re
import sys
from argparse import SUPPRESS
from argparse import ArgumentParser as PlainParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser

from ols.data.options import DataOptions
from ols.losses import LOSSES, PLAIN_LOSSES, LabelLoss, PlainLoss, find_loss, find_preset
from ols.models.options import parse_start
from ols.phantoms import PhantomConfig
from ols.tasks import find_task

SECTIONS = {"data", "phantoms", "model", "optim", "train", "loss"}
SWITCHES = ("dry_run", "profile")  # may stand on the command line without a value


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
    """

    name: str = "resnet50"
    start: str = "none"

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
        schedule: timm's name of the learning-rate schedule.
        warmup_epochs: Linear warm-up, counted within the epochs of the run.
        min_lr: Learning rate at the start of the warm-up and at the end.
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

    def resolve(self) -> "Config":
        """Return the configuration with derived values filled in, and a dry run's folder kept apart."""
        sizes = self.data.with_resize_size()
        data = replace(sizes, root=os.path.expanduser(sizes.root), splits=expand_home(sizes.splits))
        kind, place = parse_start(self.model.start)
        model = replace(self.model, start=kind if place is None else f"{kind}:{expand_home(place)}")
        name = f"{Path(data.root).name}-{model.name}-{self.loss['name']}-seed{self.seed}"
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
        )


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Give what a user can mend one line instead of a traceback: a path or a value that is wrong.

    Raises:
        SystemExit: In place of an OSError or a ValueError of the block, with status 2.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


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


class NearestKeyParser(ArgumentParser):
    """Names the nearest key when an unknown one is given."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message, with the nearest key, and exit."""
        for pattern in (r"Group '(.+)' does not accept option '(.+)'", r"Option '(.+)' is not accepted"):
            if match := re.search(pattern, message):
                message = self._unknown(".".join(match.groups()))
        if match := re.search(r"unrecognized arguments: --([\w.]+)", message):
            message = self._unknown(match.group(1))
        super().error(message, ex)

    def _unknown(self, key: str) -> str:
        keys = [action.dest for action in self._actions]
        near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
        # The section may be forgotten or wrong while the last part is right.
        near = near or [known for known in keys if known.split(".")[-1] == key.split(".")[-1]]
        return f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else f"; known keys: {', '.join(keys)}")


def parse_config(default: Path, argv: Sequence[str] | None = None) -> Config:
    """Read a configuration from `--config` files and dotted overrides, later ones winning.

    Changing `loss.name` or `loss.preset` on the command line drops the loss options of the files, and says which. The
    options of a preset are filled in where neither a file nor the command line has them.

    Args:
        default: The file that is read where none is named.
        argv: Command line without the program's name; that of the process by default.

    Raises:
        SystemExit: A key is unknown or a value is wrong; the message on stderr names it, and the nearest key.
    """
    first = PlainParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", action="append", type=Path)
    first.add_argument("--loss.name", "--loss", dest="loss_name")
    first.add_argument("--loss.preset", dest="loss_preset")
    first.add_argument("--task")
    for switch in SWITCHES:
        first.add_argument(f"--{switch}", nargs="?", const="true")
    known, overrides = first.parse_known_args(argv)
    overrides += [f"--{switch}={value}" for switch in SWITCHES if (value := getattr(known, switch)) is not None]

    try:
        files: dict[str, Any] = {}
        for path in known.config or [default]:
            files = merge_configs(files, read_config_file(path.expanduser()))
        named = {"name": known.loss_name, "preset": known.loss_preset}
        files = merge_configs(files, {"loss": {key: value for key, value in named.items() if value}})
        files["task"] = known.task or files.get("task", "multiclass")
        loss = files["loss"]
        loss_class = find_loss(loss.setdefault("name", find_task(files["task"]).default_loss))
        if preset := loss.get("preset"):
            files["loss"] = find_preset(loss["name"], preset) | loss
    except ValueError as error:
        first.error(str(error))

    parser = _build_parser(loss_class)
    parsed = parser.parse_args(overrides, namespace=parser.parse_object(files))
    try:
        values = parser.instantiate(parsed).as_dict()
        del values["config"]
        return Config(**values).resolve()
    except (TypeError, ValueError) as error:
        parser.error(str(error), error)


def _build_parser(loss_class: type[LabelLoss] | type[PlainLoss]) -> NearestKeyParser:
    parser = NearestKeyParser(description=f"Losses: {', '.join(LOSSES | PLAIN_LOSSES)}")
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file; several are merged.")
    parser.add_class_arguments(Config, skip={"loss"})
    parser.add_argument("--loss.name", type=str, help="Name of the loss; its options follow from it.")
    if loss_class.presets:
        presets = ", ".join(loss_class.presets)
        help_text = f"Published variant, over which the other options win: {presets}."
        parser.add_argument("--loss.preset", type=str, default=SUPPRESS, help=help_text)
    parser.add_class_arguments(
        loss_class,
        "loss",
        skip={"num_classes", "num_outputs", "weight", "ignore_index", "reduction", "mean", "std"},
        instantiate=False,
    )
    return parser


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a YAML file of a configuration: sections of keys; one that is empty changes nothing.

    Raises:
        ValueError: There is no such file, or it is no such YAML; the message names it.
    """
    if not path.is_file():
        raise ValueError(f"--config: no such file: {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"--config: cannot read {path} as YAML in UTF-8: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config: {path} must hold keys and values, got a {type(values).__name__}")
    values = {key: value for key, value in values.items() if value is not None or key not in SECTIONS}
    for key in SECTIONS & values.keys():
        if key == "loss" and isinstance(values[key], str):
            values[key] = {"name": values[key]}
        if not isinstance(values[key], dict):
            raise ValueError(f"--config: {path}: {key} must hold keys and values, got {values[key]!r}")
    return values


def merge_configs(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `override`, section by section.

    Where `override` names another loss or another preset, the options before it are dropped, with a word.
    """
    before, after = base.get("loss", {}), override.get("loss", {})
    changed = [key for key in ("name", "preset") if after.get(key, before.get(key)) != before.get(key)]
    if changed:
        kept = {} if "name" in changed else {key: value for key, value in before.items() if key == "name"}
        if dropped := ", ".join(f"{key}={value}" for key, value in before.items() if key != "name"):
            old = f"{before['name']} " if changed[0] == "name" and "name" in before else ""
            print(f"loss.{changed[0]} {old}-> {after[changed[0]]}: dropped the configured {dropped}", file=sys.stderr)
        base = {**base, "loss": kept}
    return _merge(base, override)


def _merge(base: dict, override: dict) -> dict:
    """Return `base` with the keys of `override`, nested dictionaries merged."""
    merged = dict(base)
    for key, value in override.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
