"""A study: the runs that its named axes stand for; each is a cell of them."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ols.command_line import parse_config
from ols.config import Config, FinetuneConfig, ProbeConfig
from ols.files import read_record, write_record
from ols.runs.folder import RunFolder, config_differences, flat_config, flatten
from ols.studies.axes import (
    HASH_BYTES,
    Axis,
    Cell,
    build_axis,
    check_keys,
    check_overrides,
    check_rules,
    list_cells,
)
from ols.studies.columns import columns_of_study
from ols.studies.labels import FOLD, SEED, SHARE, is_within
from ols.studies.launchers.slurm import Slurm

# Recipes that train a cell, and the configuration that each reads.
SCHEMAS: dict[str, type[Config]] = {"pretrain": Config, "finetune": FinetuneConfig, "probe": ProbeConfig}


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
        parallel: Runs at a time, or jobs of SLURM. On one machine each run has its part of the cores and of the GPUs.
        evaluate: Write the predictions of complete runs at the end.
        columns: Further numbers of each cell: what `recipes/columns.py` takes beside runs, such as `[--similarity]` or
            `[--confounder, own]`. A cell that has them of these options keeps them.
        question: What the study asks: the title of its page.
        along: Axis whose values are compared on its page, with the first one; by default the first of several values
            that is neither fold, seed, share nor chosen over.
        choose_over: Axes that validation chooses over within each fold and seed, such as `[lr]`.
        format: Version of this schema.

    Raises:
        ValueError: Something is empty, twice or not a value; a label cannot name a folder, or two cells would have the
            same; two axes set the same key; `parallel` is less than 1; there is no such command; an override sets
            what the study varies; or an axis cannot be compared along or chosen over.
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
    columns: list[str] = field(default_factory=list)
    question: str | None = None
    along: str | None = None
    choose_over: list[str] = field(default_factory=list)
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
        check_keys(axes)
        check_rules(axes, self.where)
        check_overrides(axes, flatten(self.overrides))
        self._check_comparison()
        if columns_of_study(self.columns) and self.recipe == "probe":
            raise ValueError("columns are of trained networks, and a probe trains none")
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
        return [build_axis(name, values) for name, values in self.axes.items()]

    @property
    def compared_along(self) -> str | None:
        """Axis whose values are compared; None where there is none."""
        left = [name for name in self.axes if name not in (FOLD, SEED, SHARE, *self.choose_over)]
        return self.along or next((name for name in left if len(self.axes[name]) > 1), None)

    def _check_comparison(self) -> None:
        for key, names in {"along": [self.along] if self.along else [], "choose_over": self.choose_over}.items():
            for name in names:
                if name not in self.axes:
                    raise ValueError(f"{key}: no axis {name!r}; the study has {', '.join(self.axes)}")
                if name in (FOLD, SEED):
                    raise ValueError(f"{key}: {name} is no such axis: its values are repetitions")
        if self.along in self.choose_over:
            raise ValueError(f"along: validation chooses over {self.along}, so that it cannot be compared")


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


def keep_apart(study: Study) -> None:
    """Make sure that the folder of a study holds no other one, and write down which it holds.

    Values of axes may come and go; the recipe and the names of the axes are what it is.

    Raises:
        ValueError: It holds another study; the message has what differs.
    """
    file, own = Path(study.folder, "study.json"), {"recipe": study.recipe, "axes": list(study.axes)}
    there = read_record(file) if file.is_file() else own
    for key, value in own.items():
        if there[key] != value:
            raise ValueError(
                f"{study.folder} holds another study: its {key} {there[key]}, here {value}. Name another folder."
            )
    write_record(file, own)


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
        config = config or parse_config(source, arguments, schema)
        config = replace(config, run_dir=str(run_dir), cell=cell.labels)
        arguments.append(f"--cell={json.dumps(cell.labels)}")
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


def _options(flat: dict[str, Any]) -> list[str]:
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in flat.items()]
