"""A study: the runs that its named axes stand for.

An axis is a name and its values. A value is a label and a piece of configuration. A cell takes one value of each axis,
and is one run.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from ols.command_line import parse_config
from ols.config import Config, FinetuneConfig, ProbeConfig
from ols.files import read_record
from ols.runs.folder import RunFolder, config_differences, flat_config, flatten
from ols.studies.labels import LOSS, MODEL, SEED, is_within
from ols.studies.launchers.slurm import Slurm

# Axes whose values are the values of one key that is written often.
SHORT_NAMES = {
    LOSS: "loss.name",
    MODEL: "model.name",
    "lr": "optim.peak_lr",
    "fold": "split.fold",
    "share": "split.share",
}
# Recipes that train a cell, and the configuration that each reads.
SCHEMAS: dict[str, type[Config]] = {"pretrain": Config, "finetune": FinetuneConfig, "probe": ProbeConfig}
# What a study sets in each run, or never sets, so that neither an axis nor the overrides can.
RESERVED_KEYS = ("run_dir", "dry_run", "config")
MOST_NAME_BYTES = 120  # of a cell; file systems allow 255, of which names of locks and logs need some
HASH_BYTES = 4


@dataclass(frozen=True)
class Axis:
    """What is varied, and how.

    Args:
        name: Name, such as `loss`.
        values: Configuration by dotted keys, by the label of the value.
    """

    name: str
    values: dict[str, dict[str, Any]]

    @property
    def keys(self) -> list[str]:
        """The dotted keys that its values set."""
        return list(dict.fromkeys(key for value in self.values.values() for key in value))

    @property
    def section_keys(self) -> list[str]:
        """The same, or the section of the configuration that the axis is named for, where they all lie in it."""
        return [self.name] if all(is_within(key, [self.name]) for key in self.keys) else self.keys


@dataclass(frozen=True)
class Cell:
    """One value of each axis.

    Args:
        labels: Label of the value, by the name of the axis, in the order of the axes.
        config: What its values set, by dotted keys.
    """

    labels: dict[str, str]
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of its folder: its labels, with the end of the axis's name before those that begin with a digit.

        Where that is longer than file systems like, its end is replaced by a hash of the labels.
        """
        parts = [
            axis.rsplit(".", 1)[-1] + label if label[0].isdigit() else label for axis, label in self.labels.items()
        ]
        name = "-".join(parts)
        if len(name.encode()) <= MOST_NAME_BYTES:
            return name
        known_by = hashlib.blake2b(json.dumps(self.labels).encode(), digest_size=HASH_BYTES).hexdigest()
        kept = name.encode()[: MOST_NAME_BYTES - len(known_by) - 1].decode(errors="ignore")
        return f"{kept}-{known_by}"


@dataclass(frozen=True)
class Study:
    """What is varied, and what all runs have in common.

    Values of an axis are either a list or a mapping. A list holds values of the key that the axis is named for:
    `seed: [0, 1]`, `optim.peak_lr: [0.1, 0.3]`, and by short names `loss`, `model` (which is `model.name`), `lr`,
    `fold` and `share` (of the training images of a fold). A mapping has a label for each value, and nested
    configuration: `augment: {plain: {}, turned: {data: {augment: radiology}}}`. That of `loss` holds the section
    itself: `loss: {soft: {name: label_smoothing, smoothing: 0.2}}`.

    A rule of `where` leaves combinations out: `{when: {freeze: all}, only: {lr: [0.01, 0.001]}}` keeps, of the cells
    whose `freeze` is `all`, those with one of these rates. Conditions hold labels by the names of their axes.

    Args:
        folder: Where the study lies: `runs/`, `logs/` and what is made of them.
        configs: Configurations that all runs start from, relative to the study's file; later ones win.
        axes: Values of each axis, by its name.
        recipe: What trains a cell: `pretrain`, or on one fold of a table of targets `finetune`, or `probe`, a head on
            frozen features, which cells of the same weights and images share.
        where: Rules that leave combinations of the axes out.
        overrides: What all runs change in `configs`, in the same form.
        command: Command that starts a Python script, such as `[torchrun, --nproc_per_node, 8]`.
        launcher: Where runs run: `local` is this machine.
        slurm: What a job asks for, where the launcher is SLURM.
        parallel: Runs at a time, or jobs of SLURM; on one machine each run takes all cores unless `train.threads` says
            otherwise.
        evaluate: Write the predictions of complete runs at the end.
        format: Version of this schema.

    Raises:
        ValueError: Something is empty, twice or not a value; a label cannot name a folder, or two cells would have the
            same; two axes set the same key; `parallel` is less than 1; there is no such command; or an override sets
            what the study varies.
    """

    folder: str
    configs: list[str]
    axes: dict[str, Any]
    recipe: Literal["pretrain", "finetune", "probe"] = "pretrain"
    where: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    overrides: dict[str, Any] = field(default_factory=dict)
    command: list[str] = field(default_factory=lambda: [sys.executable])
    launcher: Literal["local", "slurm"] = "local"
    slurm: Slurm = field(default_factory=Slurm)
    parallel: int = 1
    evaluate: bool = True
    format: Literal[1] = 1

    def __post_init__(self):
        for name in ("configs", "axes", "command"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty")
        if shutil.which(self.command[0]) is None:
            raise ValueError(f"command: there is no {self.command[0]!r}")
        if self.parallel < 1:
            raise ValueError(f"parallel must be at least 1, got {self.parallel}")
        axes = self.list_axes()
        _check_keys(axes)
        _check_rules(axes, self.where)
        check_overrides(axes, flatten(self.overrides))
        names: dict[str, Cell] = {}
        cells = list_cells(axes, self.where)
        if not cells:
            raise ValueError("where: the rules leave no cell")
        for cell in cells:
            other = names.setdefault(cell.name.casefold(), cell)  # some file systems do not tell A from a
            if other is not cell:
                raise ValueError(f"axes: one folder {cell.name} for {other.labels} and for {cell.labels}")

    def list_axes(self) -> list[Axis]:
        """Return the axes, in the order in which they are written."""
        return [_build_axis(name, values) for name, values in self.axes.items()]


@dataclass(frozen=True)
class Run:
    """The run of a cell.

    Args:
        run_dir: Its folder.
        cell: Its values.
        arguments: What the training recipe is called with.
        config: Resolved configuration.
    """

    run_dir: Path
    cell: Cell
    arguments: list[str]
    config: Config

    @property
    def own_config(self) -> Config:
        """The configuration that its folder bears: fine-tuning on a fold is an ordinary run."""
        if isinstance(self.config, ProbeConfig) or not isinstance(self.config, FinetuneConfig):
            return self.config
        return self.config.of_fold(int(self.config.split.fold), self.config.model.start, str(self.run_dir))

    @property
    def last_file(self) -> Path:
        """What is there once it has come to its end."""
        folder = RunFolder(self.run_dir)
        if isinstance(self.config, ProbeConfig):
            return folder.probe
        return folder.predictions("test") if isinstance(self.config, FinetuneConfig) else folder.last_file

    @property
    def written_config(self) -> dict[str, Any]:
        """The configuration that lies in its folder, by dotted keys."""
        folder = RunFolder(self.run_dir)
        if isinstance(self.config, ProbeConfig):
            return flatten(read_record(folder.probe)["config"])
        return flat_config(folder.load_config())

    @property
    def is_complete(self) -> bool:
        """Whether it has come to its end."""
        return self.last_file.is_file()

    @property
    def has_begun(self) -> bool:
        """Whether its folder holds something to continue, or all of it."""
        return self.is_complete or bool(RunFolder(self.run_dir).list_checkpoints())


def list_cells(axes: Sequence[Axis], where: Sequence[Mapping[str, Any]] = ()) -> list[Cell]:
    """Return the product of the axes, each in its order, the last one varying first.

    Seeds vary last, wherever they stand, so that all other combinations have their first results early.

    Args:
        axes: The axes.
        where: Rules that leave combinations out, see `Study`.
    """
    rules = [(_labels_of(rule["when"]), _labels_of(rule["only"])) for rule in where]
    slowest_first = sorted(axes, key=lambda axis: axis.name != SEED)
    cells = []
    for combination in product(*(axis.values.items() for axis in slowest_first)):
        chosen = {axis.name: value for axis, value in zip(slowest_first, combination, strict=True)}
        labels = {axis.name: chosen[axis.name][0] for axis in axes}
        if any(_agrees(labels, when) and not _agrees(labels, only) for when, only in rules):
            continue
        config = {key: value for axis in axes for key, value in chosen[axis.name][1].items()}
        cells.append(Cell(labels, config))
    return cells


def _labels_of(condition: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return labels by the name of their axis; one label alone is a list of one."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in condition.items()}
    return {name: [_label(value) for value in values] for name, values in lists.items()}


def _agrees(labels: Mapping[str, str], condition: Mapping[str, list[str]]) -> bool:
    return all(labels[axis] in allowed for axis, allowed in condition.items())


def _label(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def plan_runs(study: Study, source: Path, overrides: Sequence[str] = ()) -> list[Run]:
    """Return the runs of a study, in the order of `list_cells`.

    Args:
        study: The study.
        source: File that it was read from.
        overrides: Dotted overrides from the command line, such as `["--data.root", "data"]`.

    Raises:
        ValueError: A folder holds a run with another configuration, or an override sets what the study varies.
        SystemExit: A key or a value of a run's configuration is wrong; the message on stderr names it.
    """
    axes = study.list_axes()
    check_overrides(axes, (token[2:].split("=")[0] for token in overrides if token.startswith("--")))
    configs = [f"--config={os.path.relpath(source.parent / config)}" for config in study.configs]
    shared = [*configs, *_options(flatten(study.overrides)), *overrides]
    schema, folds_folder = SCHEMAS[study.recipe], Path(study.folder, "folds")
    of_task, coupled = _coupled_axes(axes)
    parsed: dict[tuple, Config] = {}  # by the labels of one group of axes: read where they first occur
    cells, runs = list_cells(axes, study.where), []
    for cell in cells:
        run_dir = Path(study.folder) / "runs" / cell.name
        arguments = [*shared, *_options(cell.config | {"run_dir": str(run_dir)})]
        config: Config | None = None
        for group in coupled:
            place = tuple((axis.name, cell.labels[axis.name]) for axis in (*of_task, *group))
            if place not in parsed:
                parsed[place] = parse_config(source, arguments, schema)
            sections = {key.split(".")[0] for axis in group for key in axis.keys}
            config = replace(config or parsed[place], **{name: getattr(parsed[place], name) for name in sections})
        config = replace(config or parse_config(source, arguments, schema), run_dir=str(run_dir))
        if isinstance(config, FinetuneConfig):
            _check_one_fold(config)
            if isinstance(config, ProbeConfig):
                config = replace(config, features=str(Path(study.folder, "features")))
                arguments.append(f"--features={config.features}")
            if config.split.file is None:
                config = replace(config, split=replace(config.split, file=str(folds_file(folds_folder, config))))
                arguments.append(f"--split.file={config.split.file}")
        run = Run(run_dir, cell, arguments, config)
        check_known(run)
        runs.append(run)
    return runs


def folds_file(folder: Path, config: FinetuneConfig) -> Path:
    """Return where the folds of a table lie that all cells share which fine-tune on these targets of it."""
    targets = json.dumps([config.task, config.data.root, config.data.targets, config.data.patient])
    known_by = hashlib.blake2b(targets.encode(), digest_size=HASH_BYTES).hexdigest()
    return folder / f"{Path(config.data.root).parent.name}-{known_by}.json"


def _check_one_fold(config: FinetuneConfig) -> None:
    if config.split.fold == "all":
        raise ValueError("split.fold all: a cell is one fold; make it an axis, such as fold: [0, 1, 2, 3, 4]")
    for name in ("source", "against"):
        if getattr(config, name):
            raise ValueError(f"{name} is for fine-tuning by itself; a study has starts as an axis")


def _coupled_axes(axes: Sequence[Axis]) -> tuple[list[Axis], list[list[Axis]]]:
    """Return the axes that set the task, and all axes grouped so that no two groups set keys of one section.

    Sections do not depend on each other but for the task, which others have their defaults from. So what a group sets
    is read once for each combination of its values and of those that set the task, not once for each cell.
    """
    groups: list[tuple[set[str], list[Axis]]] = []
    for axis in axes:
        sections, members = {key.split(".")[0] for key in axis.keys}, [axis]
        apart = []
        for others, theirs in groups:
            if sections & others:
                sections, members = sections | others, theirs + members
            else:
                apart.append((others, theirs))
        groups = [*apart, (sections, members)]
    of_task = [axis for axis in axes if any(is_within(key, ["task"]) for key in axis.keys)]
    return of_task, [members for _, members in groups]


def check_known(run: Run) -> None:
    """Make sure that what lies in the folder of a run is this run.

    Raises:
        ValueError: It has another configuration; the message shows the difference.
    """
    if not run.has_begun:
        return
    if differences := config_differences(run.written_config, flat_config(run.own_config)):
        raise ValueError(
            f"{run.run_dir} holds a run with another configuration:\n" + "\n".join(differences) + "\n"
            "Name another folder for the study, or remove that run."
        )


def check_overrides(axes: Sequence[Axis], keys: Iterable[str]) -> None:
    """Make sure that overrides leave alone what a study varies.

    Raises:
        ValueError: They do not; the message names the key and the axis.
    """
    varied = {key: "the study does" for key in RESERVED_KEYS}
    for axis in axes:
        # Another loss would drop the options of the one before, so all of its section goes with its name.
        keys_of_axis = [*axis.keys, "loss"] if "loss.name" in axis.keys else axis.keys
        varied |= {key: f"the axis {axis.name} does" for key in keys_of_axis}
    for key in keys:
        for of_study, who in varied.items():
            if _overlap(key, of_study):
                raise ValueError(f"overrides cannot set {key}: {who}")


def _build_axis(name: str, values: Any) -> Axis:
    if not isinstance(values, list | Mapping):
        raise ValueError(f"axes.{name} must be a list of values, or a mapping of labels to configuration")
    if not values:
        raise ValueError(f"axes.{name} is empty")
    by_label: dict[str, dict[str, Any]] = {}
    if isinstance(values, Mapping):
        for label, config in values.items():
            if not isinstance(config, Mapping):
                raise ValueError(f"axes.{name}.{label} must be a mapping of configuration, got {config!r}")
            if name == LOSS and "name" not in config:
                raise ValueError(f"axes.loss.{label} has no name")
            by_label[str(label)] = flatten(dict(config), "loss." if name == LOSS else "")
    else:
        for value in values:
            if isinstance(value, list | Mapping):
                raise ValueError(f"axes.{name} is a list, so {value!r} cannot be in it; give it a label in a mapping")
            label = _label(value)
            if label in by_label:
                raise ValueError(f"axes.{name} has a value twice: {values}")
            by_label[label] = {SHORT_NAMES.get(name, name): value}
    for label in by_label:
        if not re.fullmatch(r"\w[\w.-]*", label):
            advice = "" if isinstance(values, Mapping) else "; give the value another one in a mapping"
            raise ValueError(f"axes.{name}: the label {label!r} may only have letters, digits, _, - and .{advice}")
    _check_different(name, by_label)
    return Axis(name, by_label)


def _check_different(name: str, values: dict[str, dict[str, Any]]) -> None:
    seen: dict[str, str] = {}
    for label, config in values.items():
        first = seen.setdefault(json.dumps(config, sort_keys=True, default=str), label)
        if first != label:
            raise ValueError(f"axes.{name} has a value twice: {first} and {label}")


def _check_keys(axes: Sequence[Axis]) -> None:
    """Make sure that no key is set twice, or by an axis although the study sets it."""
    setting: dict[str, str] = {}
    for axis in axes:
        for key in axis.keys:
            if is_within(key, RESERVED_KEYS):
                raise ValueError(f"axes.{axis.name} cannot set {key}: the study does")
            for other_key, other in setting.items():
                if _overlap(key, other_key):
                    raise ValueError(f"axes.{other} and axes.{axis.name} both set {key}")
        setting |= dict.fromkeys(axis.keys, axis.name)


def _check_rules(axes: Sequence[Axis], rules: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that rules are of `when` and `only`, and name labels that there are."""
    known = {axis.name: axis.values for axis in axes}
    for rule in rules:
        if set(rule) != {"when", "only"}:
            raise ValueError(f"where: a rule has `when` and `only`, got {', '.join(rule) or 'neither'}")
        for condition in rule.values():
            for name, labels in _labels_of(condition).items():
                if name not in known:
                    raise ValueError(f"where: no axis {name!r}; the study has {', '.join(known)}")
                for label in labels:
                    if label not in known[name]:
                        raise ValueError(f"where: {name} has no value {label!r}, only {', '.join(known[name])}")


def _overlap(key: str, other: str) -> bool:
    return is_within(key, [other]) or is_within(other, [key])


def _options(flat: dict[str, Any]) -> list[str]:
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in flat.items()]
