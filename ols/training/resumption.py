"""What of a run lies in its checkpoints: everything that the next step depends on, on any number of processes."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.optim import Optimizer

from ols.data.sources.protocol import Split
from ols.files import DamagedFileError, delete, read_record, write_record
from ols.losses import Loss
from ols.models.origin import origin_of
from ols.models.variant import variant_of
from ols.runs.checkpoint import (
    clean_checkpoints,
    load_optimizer,
    load_state,
    load_tensors,
    optimizer_tensors,
    prune_checkpoints,
    save_checkpoint,
    verify_checkpoint,
)
from ols.runs.folder import RunFolder
from ols.training.progress import Best, Progress


@dataclass(frozen=True)
class RunCheckpoints:
    """The checkpoints of one run, and the parts of the run that they hold; every process makes the same calls.

    Args:
        folder: The run's folder.
        accelerator: Says which process this is, and has the gradient scaler of fp16.
        model: The model itself, not wrapped.
        average: Moving average of its weights, where there is one.
        loss: The loss, with what it has learned.
        optimizer: The optimizer.
        own: Tensors that each process has of its own, by name; all else is the same on every process.
        data: Checksums of the data that the run depends on, by split: `samples` and `images`.
        steps_per_epoch: Optimizer steps of an epoch.
    """

    folder: RunFolder
    accelerator: Accelerator
    model: nn.Module
    average: nn.Module | None
    loss: Loss
    optimizer: Optimizer
    own: dict[str, Tensor]
    data: Mapping[Split, Mapping[str, str]]
    steps_per_epoch: int

    def save(self, progress: Progress, metrics_bytes: int) -> None:
        """Write a checkpoint; every process hands what it has of its own to the main one, which writes.

        Args:
            progress: How far the run has come.
            metrics_bytes: Bytes that metrics.jsonl has, on the main process.
        """
        accelerator = self.accelerator
        own = {name: value.cpu() for name, value in self.own.items()}
        shares = [own] * accelerator.num_processes
        if accelerator.num_processes > 1:
            dist.all_gather_object(shares, own)
        if accelerator.is_main_process:
            loss, collected = self.loss.state_dict(), self.loss.collected()
            optimizer, optimizer_rest = optimizer_tensors(self.optimizer)
            tensors = {
                "model": self.model.state_dict(),
                "loss": {name: value for name, value in loss.items() if name not in collected},
                "optimizer": optimizer,
            }
            if self.average is not None:
                tensors["ema"] = self.average.state_dict()
            tensors |= {_rank_part(rank): share for rank, share in enumerate(shares)}
            state = {
                "identity": self.folder.identity,
                "variant": asdict(variant_of(self.model)),
                "origin": origin_of(self.model),
                "progress": asdict(progress),
                "optimizer": optimizer_rest,
                "num_processes": accelerator.num_processes,
                "data": {split: dict(parts) for split, parts in self.data.items()},
                "metrics_bytes": metrics_bytes,
            }
            if accelerator.scaler is not None:
                state["scaler"] = accelerator.scaler.state_dict()
            inside = progress.step != progress.epoch * self.steps_per_epoch
            path = self.folder.checkpoint(progress.epoch, progress.step if inside else None)
            save_checkpoint(path, tensors, state)
        accelerator.wait_for_everyone()

    def record_best(self, progress: Progress, metric: str, metrics_bytes: int) -> None:
        """Write down the best epoch, and that the newest epoch was evaluated; the main process writes.

        Args:
            progress: How far the run has come.
            metric: Tag of the metric that the best epoch is chosen by.
            metrics_bytes: Bytes that metrics.jsonl has, on the main process.
        """
        if self.accelerator.is_main_process:
            known = asdict(progress)
            since = {name: known[name] for name in ("best", "evaluated", "tested")}
            write_record(self.folder.best, {"metric": metric, **since, "metrics_bytes": metrics_bytes})

    def prune(self, progress: Progress, *, keep_last: int) -> None:
        """Delete checkpoints that are neither among the newest nor that of the best epoch."""
        if self.accelerator.is_main_process:
            prune_checkpoints(self.folder, keep_last=keep_last, keep=self.folder.checkpoint(progress.best.epoch))

    def resume(self, has_ended: Callable[[Progress], bool]) -> tuple[Progress, int]:
        """Bring all parts to the newest intact checkpoint, if there is one.

        Args:
            has_ended: Whether there is nothing left to train. A run that was stopped in its test is brought to where
                its last epoch was not evaluated yet: what TensorBoard has from there on is written again.

        Returns:
            How far the run has come, and the bytes that metrics.jsonl had there.

        Raises:
            ValueError: The run was trained on other data.
        """
        found = [self._newest(has_ended) if self.accelerator.is_main_process else None]
        path, state = broadcast_object_list(found)[0]
        if path is None:
            return Progress(), 0
        self._load(path, state)
        progress = Progress.load(state["progress"])
        steps = progress.step - progress.epoch * self.steps_per_epoch
        inside = f" and {steps} steps of the next" if steps else ""
        self.accelerator.print(f"continuing after epoch {progress.epoch}{inside} from {path}")
        return progress, state["metrics_bytes"]

    def load_best(self, progress: Progress) -> None:
        """Load the weights and soft labels of the best epoch."""
        path = self.folder.checkpoint(progress.best.epoch)
        verify_checkpoint(path)
        self._load_weights(path)

    def _newest(self, has_ended: Callable[[Progress], bool]) -> tuple[Path | None, dict[str, Any]]:
        """Return the newest intact checkpoint, and its state, brought up to date if the epoch was evaluated since."""
        clean_checkpoints(self.folder)
        intact = self.folder.list_checkpoints()
        if not intact:
            delete(self.folder.best)
            return None, {}
        newest = intact[-1]
        state = load_state(newest)
        self._check_data(newest, state["data"])
        if state["identity"] != self.folder.identity:
            raise ValueError(
                f"{newest} was trained with another configuration than {self.folder.config} has now: put that file "
                "back, or move the run aside with --resume never"
            )

        before = state["progress"]
        try:
            record = read_record(self.folder.best) if self.folder.best.exists() else None
        except DamagedFileError as error:
            warnings.warn(f"{error}; the newest epoch is evaluated again", stacklevel=2)
            record = None
        if record is not None and record["evaluated"] > before["epoch"]:
            delete(self.folder.best)  # of epochs whose checkpoints are lost
            record = None
        if record is not None and newest == self.folder.checkpoint(record["evaluated"]):
            since = {name: record[name] for name in ("best", "evaluated", "tested")}
            evaluated = Progress.load(before | since)
            if evaluated.tested or not has_ended(evaluated):
                state |= {"progress": before | since, "metrics_bytes": record["metrics_bytes"]}
        best = state["progress"]["best"]["epoch"]
        if best and self.folder.checkpoint(best) not in intact:
            superseded = record is not None and record["best"]["epoch"] == before["epoch"]  # and pruned since
            if not superseded:
                warnings.warn(f"the best epoch, {best}, is lost: the best is chosen from here on", stacklevel=2)
            state["progress"] = before | {"best": asdict(Best()), "tested": False}
        return newest, state

    def _check_data(self, path: Path, before: dict[str, dict[str, str]]) -> None:
        differing: dict[str, list[str]] = {}  # splits by what is said of them: those of a pack differ together
        for split, now in self.data.items():
            if now["samples"] != before[split]["samples"]:
                differing.setdefault("classes, samples or their order differ in {}", []).append(split)
            if now["images"] != before[split]["images"]:
                words = f"the images of {{}} are {now['images']}, and were {before[split]['images']}"
                differing.setdefault(words, []).append(split)
        if differing:
            said = [words.format(" and ".join(splits)) for words, splits in differing.items()]
            raise ValueError(
                f"{path} was trained on other data: {'; '.join(said)}. Name the folder of the same data set with "
                "--data.root, or move that run aside with --resume never."
            )

    def _load(self, path: Path, state: dict[str, Any]) -> None:
        """Bring the parts to the place of a checkpoint."""
        accelerator = self.accelerator
        self._load_weights(path)
        load_optimizer(self.optimizer, load_tensors(path, "optimizer"), state["optimizer"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        share = _share(path, state["num_processes"], accelerator.process_index, accelerator.num_processes)
        for name, value in self.own.items():
            value.copy_(share[name])

    def _load_weights(self, path: Path) -> None:
        self.model.load_state_dict(load_tensors(path, "model"))
        if self.average is not None:
            self.average.load_state_dict(load_tensors(path, "ema"))
        self.loss.load_state_dict(load_tensors(path, "loss") | self.loss.collected())


def _share(path: Path, written_by: int, rank: int, num_processes: int) -> dict[str, Tensor]:
    """Return what a process had of its own; on another number of processes, what they had together.

    Then the sums of all processes go to the first, and zeros to the others; other floating-point tensors, which are
    the running statistics of batch normalisation, are averaged; whole numbers are the first process's.
    """
    if written_by == num_processes:
        return load_tensors(path, _rank_part(rank))
    shares = [load_tensors(path, _rank_part(number)) for number in range(written_by)]
    merged = {}
    for name, first in shares[0].items():
        together = torch.stack([share[name] for share in shares])
        if name.startswith("sum."):
            merged[name] = together.sum(0) if rank == 0 else torch.zeros_like(first)
        else:
            merged[name] = together.mean(0) if first.is_floating_point() else first
    return merged


def _rank_part(rank: int) -> str:
    return f"rank-{rank:05d}"
