"""How large is each error of the public codes of transfer studies: one alone, against the right way.

    OMP_NUM_THREADS=1 python benchmarks/transfer_errors.py --table phantoms          # continues where it was stopped
    python benchmarks/transfer_error_sizes.py                                        # what they say together

A cell is a run of `recipes/finetune.py` on a fold with a seed; a mistake changes its configuration or replaces one
function of the package while it trains, and lives in this file alone. Sizes stand in
`recipes/configs/studies/errors.yaml`. The right way and a mistake share folds, seeds, and order of the images.
"""

import argparse
import contextlib
import copy
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml
from torch import nn

from ols.command_line import parse_config
from ols.config import Config, config_from
from ols.data.options import SplitOptions
from ols.data.sources.opening import open_table
from ols.data.sources.table import Table
from ols.data.splits import Folds, make_folds, save_folds
from ols.evaluation.predictions import load_predictions
from ols.metrics.auc import auc
from ols.models.start import KERAS_SCALE
from ols.phantoms.targets import LesionConfig, write_lesion_phantoms
from ols.runs.environment import environment_record
from ols.runs.export import run_normalization, start_model
from ols.runs.folder import RunFolder
from ols.training.machine import build_accelerator

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "recipes" / "configs" / "studies" / "errors.yaml"
BY_PATIENT, BY_IMAGE = "folds.json", "folds_by_image.json"
SHARE = 0.25  # of the training images, where shares are compared
GRID = 4.0  # learning rates of the grid lie so far apart


@dataclass(frozen=True)
class Place:
    """What an arm may look at beside the configuration of its fold.

    Args:
        frozen_lr: Learning rate of a head on a frozen trunk.
        previous: Folder of the same arm's run on the fold before; None on the first.
    """

    frozen_lr: float
    previous: Path | None


@contextmanager
def right(config: Config, place: Place) -> Iterator[Config]:
    """All layers are trained, from the bits of the start, in every fold."""
    yield config


@contextmanager
def right_frozen(config: Config, place: Place) -> Iterator[Config]:
    """Only the head is trained; the trunk stays what it is, statistics of batch norm included."""
    optim = replace(config.optim, peak_lr=place.frozen_lr)
    yield replace(config, optim=optim, freeze=replace(config.freeze, scheme="head"))


@contextmanager
def right_share(config: Config, place: Place) -> Iterator[Config]:
    """A share of the training images; validation and test stay whole."""
    yield replace(config, split=replace(config.split, share=SHARE))


@contextmanager
def lower_lr(config: Config, place: Place) -> Iterator[Config]:
    """A cell of the grid."""
    yield replace(config, optim=replace(config.optim, peak_lr=config.optim.peak_lr / GRID))


@contextmanager
def higher_lr(config: Config, place: Place) -> Iterator[Config]:
    """A cell of the grid."""
    yield replace(config, optim=replace(config.optim, peak_lr=config.optim.peak_lr * GRID))


@contextmanager
def weights_carried_over(config: Config, place: Place) -> Iterator[Config]:
    """The model is built once, outside the loop over folds: the next fold goes on with it."""
    start = config.model.start if place.previous is None else f"run:{place.previous}"
    yield replace(config, model=replace(config.model, start=start))


@contextmanager
def inputs_255_times_too_small(config: Config, place: Place) -> Iterator[Config]:
    """Intensities are divided by 255 once more: (x / 255 - mean) / std."""
    yield _scaled(config, 255.0)


@contextmanager
def inputs_255_times_too_large(config: Config, place: Place) -> Iterator[Config]:
    """The division by 255 is left out: (255 x - mean) / std."""
    yield _scaled(config, 1 / 255)


@contextmanager
def frozen_inputs_255_times_too_small(config: Config, place: Place) -> Iterator[Config]:
    """The same below a trunk that is not trained."""
    with right_frozen(config, place) as frozen:
        yield _scaled(frozen, 255.0)


@contextmanager
def frozen_inputs_255_times_too_large(config: Config, place: Place) -> Iterator[Config]:
    """The same below a trunk that is not trained."""
    with right_frozen(config, place) as frozen:
        yield _scaled(frozen, 1 / 255)


@contextmanager
def scaling_of_another_source(config: Config, place: Place) -> Iterator[Config]:
    """Mean and sd are those of RadImageNet's Keras weights, whatever the model starts from."""
    mean, std = KERAS_SCALE
    yield replace(config, data=replace(config.data, mean=list(mean), std=list(std)))


@contextmanager
def frozen_scaling_of_another_source(config: Config, place: Place) -> Iterator[Config]:
    """The same below a trunk that is not trained."""
    with right_frozen(config, place) as frozen, scaling_of_another_source(frozen, place) as wrong:
        yield wrong


@contextmanager
def nothing_loaded(config: Config, place: Place) -> Iterator[Config]:
    """The file's tensors have a prefix that the model's have not, and `strict=False` says nothing."""

    def load_loosely(model: nn.Module, start: str) -> str | None:
        loaded = copy.deepcopy(model)
        start_model(loaded, start)
        model.load_state_dict({f"backbone.{name}": value for name, value in loaded.state_dict().items()}, strict=False)
        return None

    with patch("ols.runs.run_model.start_model", load_loosely):
        yield config


@contextmanager
def frozen_batch_norm_in_train_mode(config: Config, place: Place) -> Iterator[Config]:
    """The trunk's parameters are frozen, and `model.train()` lets its batch statistics drift."""
    with right_frozen(config, place) as frozen:
        yield replace(frozen, freeze=replace(frozen.freeze, batch_norm="adapt"))


@contextmanager
def folds_by_image(config: Config, place: Place) -> Iterator[Config]:
    """Images are divided, so that a patient's lie in training and in test."""
    file = str(Path(config.split.file or "").with_name(BY_IMAGE))
    with patch.object(Table, "sample_group", Table.sample_id):
        yield replace(config, split=replace(config.split, file=file))


@contextmanager
def shares_that_shrink_the_test_set(config: Config, place: Place) -> Iterator[Config]:
    """A share is taken of all patients, validation's and test's among them."""
    pools = Folds.pools

    def shrunk(self: Folds, fold: int, *, share: float = 1.0) -> dict:
        found, groups = pools(self, fold, share=share), np.array(self.groups)
        for split in ("val", "test"):
            names = np.random.default_rng(config.seed).permutation(np.unique(groups[found[split]]))
            kept = names[: max(1, round(share * len(names)))]
            found[split] = found[split][np.isin(groups[found[split]], kept)]
        return found

    with patch.object(Folds, "pools", shrunk), right_share(config, place) as share:
        yield share


Arm = Callable[[Config, Place], contextlib.AbstractContextManager[Config]]
ARMS: dict[str, Arm] = {
    arm.__name__: arm
    for arm in (
        right, folds_by_image, weights_carried_over, nothing_loaded, right_frozen, frozen_batch_norm_in_train_mode,
        inputs_255_times_too_small, inputs_255_times_too_large, scaling_of_another_source, right_share,
        shares_that_shrink_the_test_set, lower_lr, higher_lr, frozen_inputs_255_times_too_small,
        frozen_inputs_255_times_too_large, frozen_scaling_of_another_source,
    )
}  # fmt: skip


def _scaled(config: Config, factor: float) -> Config:
    mean, std = run_normalization(config)
    data = replace(config.data, mean=[factor * value for value in mean], std=[factor * value for value in std])
    return replace(config, data=data)


def train_cell(config: Config, arm: str, place: Place, accelerator: Any) -> dict[str, Any]:
    """Train a cell as `recipes/finetune.py` does, with the arm's mistake, and return what came out."""
    from torch.utils.tensorboard import SummaryWriter

    finetune = load_recipe()
    started = time.perf_counter()
    with (
        ARMS[arm](config, place) as changed,
        patch.object(SummaryWriter, "add_figure", lambda *arguments: None),  # half the time of a small run
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        finetune.train(changed.resolve(), accelerator)
    folder = RunFolder(str(config.run_dir))
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    found = {f"{split}_auc": auc_of(folder.predictions(split)) for split in ("val", "test")}
    return found | {"seconds": round(time.perf_counter() - started, 1)}


def load_recipe() -> ModuleType:
    """Import `recipes/finetune.py`, which finds `pretrain.py` beside itself."""
    if (recipes := str(ROOT / "recipes")) not in sys.path:
        sys.path.insert(0, recipes)
    return importlib.import_module("finetune")


def auc_of(path: Path) -> float | None:
    """Return the AUC of the second class; None where a class is missing."""
    predictions = load_predictions(path)
    value = auc(predictions.logits[:, 1] - predictions.logits[:, 0], predictions.targets == 1).value
    return None if np.isnan(value) else round(value, 6)


def prepare(name: str, study: dict[str, Any], output: Path, *, root: str | None, start: str | None) -> Config:
    """Write phantoms, train the source and make both kinds of folds, unless they are there; return what folds share."""
    config = config_from(study["config"])
    config = replace(config, data=replace(config.data, root=root or config.data.root))
    if "lesions" in study:
        write_lesion_phantoms(Path(config.data.root).parent, LesionConfig(**study["lesions"]))
    if "source" in study and start is None:
        source = parse_config(ROOT / "recipes" / "configs" / study["source"], [])
        start = f"run:{source.run_dir}"
        if not RunFolder(str(source.run_dir)).is_complete:
            load_recipe().train(source, build_accelerator(source.train))
    if start is not None:
        config = replace(config, model=replace(config.model, start=start))
    table = open_table(config.data, in_chans=config.data.in_chans)
    ids = [table.sample_id(index) for index in range(len(table))]
    for file, groups in ((BY_PATIENT, None), (BY_IMAGE, ids)):
        if not (output / name / file).is_file():
            save_folds(output / name / file, make_folds(table, folds=study["folds"], groups=groups))
    return replace(config, split=SplitOptions(file=str(output / name / BY_PATIENT)))


def run_table(name: str, study: dict[str, Any], output: Path, config: Config, arms: list[str]) -> None:
    """Train every cell of a table that has no line yet: one line a cell, seed after seed, arm after arm."""
    lines = output / name / "cells.jsonl"
    known = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    done = {(cell["arm"], cell["seed"], cell["fold"]) for cell in known if "arm" in cell}
    accelerator = build_accelerator(config.train)
    environment = environment_record(accelerator.device, num_processes=1, threads=config.train.threads or 1)
    with lines.open("a") as file:
        print(json.dumps({"format": 1, "environment": environment}), file=file, flush=True)
        for seed in study["seeds"]:
            for arm in arms:
                folder, previous = output / name / "runs" / arm / f"seed{seed}", None
                for fold in range(study["folds"]):
                    run_dir = folder / f"fold{fold}"
                    if (arm, seed, fold) not in done:
                        split = replace(config.split, fold=fold)
                        of_fold = replace(config, seed=seed, split=split, run_dir=str(run_dir))
                        found = train_cell(of_fold, arm, Place(study["frozen_lr"], previous), accelerator)
                        cell = {"arm": arm, "seed": seed, "fold": fold, **found}
                        print(json.dumps(cell), file=file, flush=True)
                        os.fsync(file.fileno())
                        print(cell, flush=True)
                    previous = run_dir


def main() -> None:
    """Train the cells of a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", required=True, help="name in the study file")
    parser.add_argument("--study", type=Path, default=STUDY)
    parser.add_argument("--root", help="the table's CSV, in place of the study file's")
    parser.add_argument("--start", help="weights, in place of the study file's")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "transfer_errors")
    args = parser.parse_args()
    study = yaml.safe_load(args.study.read_text())
    if args.table not in study:
        parser.error(f"--table must be one of {', '.join(study)}, got {args.table}")
    torch.set_num_threads(1)
    config = prepare(args.table, study[args.table], args.output, root=args.root, start=args.start)
    run_table(args.table, study[args.table], args.output, config, args.arms)


if __name__ == "__main__":
    main()
