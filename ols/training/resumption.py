"""What of a run lies in a checkpoint: everything that the next step depends on, on any number of processes."""

import warnings
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from accelerate.utils import broadcast_object_list
from torch import Tensor

from ols.runs.checkpoint import (
    DamagedFileError,
    clean_checkpoints,
    list_checkpoints,
    load_optimizer,
    load_state,
    load_tensors,
    optimizer_tensors,
    read_record,
    save_checkpoint,
    write_record,
)

if TYPE_CHECKING:
    from ols.training.trainer import Trainer

# Attributes of the trainer that JSON holds.
SCALARS = (
    "epoch",
    "step",
    "evaluated",
    "nonfinite_steps",
    "nonfinite_in_a_row",
    "images_in_sum",
    "train_loss",
    "epoch_values",
)


def checkpoint_folder(trainer: "Trainer") -> Path:
    """Return the folder of a checkpoint at the trainer's place: names sort as the run goes."""
    inside = "" if trainer.at_end_of_epoch else f"-step-{trainer.step:08d}"
    return trainer.checkpoints / f"{_epoch_name(trainer.epoch)}{inside}"


def best_folder(trainer: "Trainer") -> Path:
    """Return the checkpoint of the best epoch."""
    return trainer.checkpoints / _epoch_name(trainer.best.epoch)


def save_run(trainer: "Trainer") -> None:
    """Write a checkpoint; every process hands what it has of its own to the main one, which writes."""
    accelerator = trainer.accelerator
    own = {name: value.cpu() for name, value in trainer.own.items()}
    shares = [own] * accelerator.num_processes
    if accelerator.num_processes > 1:
        dist.all_gather_object(shares, own)
    if accelerator.is_main_process:
        loss, collected = trainer.loss.state_dict(), trainer.loss.collected()
        optimizer, optimizer_rest = optimizer_tensors(trainer.optimizer)
        tensors = {
            "model": trainer.raw_model.state_dict(),
            "loss": {name: value for name, value in loss.items() if name not in collected},
            "optimizer": optimizer,
        }
        if trainer.ema is not None:
            tensors["ema"] = trainer.ema.module.state_dict()
        tensors |= {_rank_part(rank): share for rank, share in enumerate(shares)}
        state = {name: getattr(trainer, name) for name in SCALARS} | {
            "best": vars(trainer.best),
            "optimizer": optimizer_rest,
            "loss_metadata": loss._metadata,  # epochs ended, which is no tensor
            "num_processes": accelerator.num_processes,
            "data": trainer.fingerprints,
            "metrics_bytes": trainer.tracker.flush(),
        }
        if accelerator.scaler is not None:
            state["scaler"] = accelerator.scaler.state_dict()
        save_checkpoint(checkpoint_folder(trainer), tensors, state)
    accelerator.wait_for_everyone()


def record_best(trainer: "Trainer") -> None:
    """Write down the best epoch by its metric, and that the newest epoch was evaluated; the main process writes."""
    if trainer.accelerator.is_main_process:
        split = "val" if trainer.ema is None else "val_ema"
        record = {
            "metric": f"{split}/{trainer.select_by}",
            "best": vars(trainer.best),
            "evaluated": trainer.evaluated,
            "tested": trainer.tested,
            "metrics_bytes": trainer.tracker.flush(),
        }
        write_record(trainer.checkpoints / "best.json", record)


def resume_run(trainer: "Trainer") -> None:
    """Continue from the newest intact checkpoint of the run, if there is one, and open the logs there.

    Raises:
        ValueError: The run was trained on other data.
    """
    found = [_newest_checkpoint(trainer) if trainer.accelerator.is_main_process else None]
    folder, state = broadcast_object_list(found)[0]
    if folder is not None:
        _load(trainer, folder, state)
        inside = "" if trainer.at_end_of_epoch else f" and {trainer.step} steps"
        trainer.accelerator.print(f"continuing after epoch {trainer.epoch}{inside} from {folder}")
    repeated = trainer.evaluated < trainer.epoch  # the evaluation at this place, should it be recorded already
    trainer.tracker.start(
        images_seen=trainer.images_seen,
        metrics_bytes=state["metrics_bytes"] if folder is not None else 0,
        purge_from=trainer.images_seen + (not repeated),
    )


def load_best(trainer: "Trainer") -> None:
    """Load the weights and soft labels of the best epoch."""
    folder = best_folder(trainer)
    _load_weights(trainer, folder, load_state(folder))


def _newest_checkpoint(trainer: "Trainer") -> tuple[Path | None, dict[str, Any]]:
    """Return the newest intact checkpoint, and its state, brought up to date if the epoch was evaluated since."""
    file = trainer.checkpoints / "best.json"
    clean_checkpoints(trainer.checkpoints)
    intact = {path.name: path for path in list_checkpoints(trainer.checkpoints)}
    if not intact:
        file.unlink(missing_ok=True)
        return None, {}
    folder = list(intact.values())[-1]
    before = load_state(folder) | {"tested": False}
    _check_data(trainer, folder, before["data"])

    try:
        record = read_record(file) if file.exists() else None
    except DamagedFileError as error:
        warnings.warn(f"{error}; the newest epoch is evaluated again", stacklevel=2)
        record = None
    if record is not None and record["evaluated"] > before["epoch"]:
        file.unlink()  # of epochs whose checkpoints are lost
        record = None
    evaluated = record is not None and folder.name == _epoch_name(record["evaluated"])
    since = {key: record[key] for key in ("best", "evaluated", "tested", "metrics_bytes")} if evaluated else {}
    state = before | since
    best = state["best"]["epoch"]
    if best and _epoch_name(best) not in intact:
        warnings.warn(f"the best epoch, {best}, is lost: the best is chosen from here on", stacklevel=2)
        state = before | {"best": vars(type(trainer.best)())}
    return folder, state


def _check_data(trainer: "Trainer", folder: Path, before: dict[str, str]) -> None:
    differing = [split for split, checksum in trainer.fingerprints.items() if checksum != before[split]]
    if differing:
        raise ValueError(
            f"{folder} was trained on other data: classes, samples or their order differ in {' and '.join(differing)}. "
            "Name the folder of the same data set with --data.root, or move that run aside with --resume never."
        )


def _load(trainer: "Trainer", folder: Path, state: dict[str, Any]) -> None:
    """Bring the trainer to the place of a checkpoint."""
    accelerator = trainer.accelerator
    _load_weights(trainer, folder, state)
    load_optimizer(trainer.optimizer, load_tensors(folder, "optimizer"), state["optimizer"])
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(state["scaler"])
    share = _share(folder, state["num_processes"], accelerator.process_index, accelerator.num_processes)
    for name, value in trainer.own.items():
        value.copy_(share[name])
    for name in (*SCALARS, "tested"):
        setattr(trainer, name, state[name])
    trainer.best = type(trainer.best)(**state["best"])


def _load_weights(trainer: "Trainer", folder: Path, state: dict[str, Any]) -> None:
    trainer.raw_model.load_state_dict(load_tensors(folder, "model"))
    if trainer.ema is not None:
        trainer.ema.module.load_state_dict(load_tensors(folder, "ema"))
    loss = OrderedDict(load_tensors(folder, "loss") | trainer.loss.collected())
    loss._metadata = OrderedDict(state["loss_metadata"])
    trainer.loss.load_state_dict(loss)


def _share(folder: Path, written_by: int, rank: int, num_processes: int) -> dict[str, Tensor]:
    """Return what a process had of its own; on another number of processes, what they had together.

    Then the sums of all processes go to the first, and zeros to the others; other floating-point tensors, which are
    the running statistics of batch normalisation, are averaged; whole numbers are the first process's.
    """
    if written_by == num_processes:
        return load_tensors(folder, _rank_part(rank))
    shares = [load_tensors(folder, _rank_part(number)) for number in range(written_by)]
    merged = {}
    for name, first in shares[0].items():
        together = torch.stack([share[name] for share in shares])
        if name.startswith("sum."):
            merged[name] = together.sum(0) if rank == 0 else torch.zeros_like(first)
        else:
            merged[name] = together.mean(0) if first.is_floating_point() else first
    return merged


def _epoch_name(epoch: int) -> str:
    return f"epoch-{epoch:04d}"


def _rank_part(rank: int) -> str:
    return f"rank-{rank:05d}"
