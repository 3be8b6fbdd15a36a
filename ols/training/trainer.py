"""The training loop. The same for every loss: it calls the loss, and `end_epoch()` once per epoch."""

import json
import math
import os
import shlex
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, NoReturn

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import gather_object
from timm.layers import convert_sync_batchnorm
from timm.scheduler.scheduler import Scheduler
from timm.utils.distributed import distribute_bn
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from tqdm import tqdm

from ols.config import TrainConfig
from ols.data.loading import Loader
from ols.evaluation.evaluate import Evaluation, evaluate
from ols.losses.base import LabelLoss
from ols.metrics.measures import find_measure
from ols.runs.checkpoint import prune_checkpoints
from ols.runs.environment import seed_step
from ols.runs.folder import sole_owner
from ols.tasks.task import Task
from ols.tracking.run_log import RunLog, epoch_line
from ols.tracking.tracker import Tracker
from ols.training.agreement import Agreement
from ols.training.clock import DATA, StepClock, build_trace
from ols.training.interruption import Interrupted, Interruption
from ols.training.optim import MovingAverage, step_unless
from ols.training.resumption import best_folder, load_best, record_best, resume_run, save_run
from ols.training.safe_step import StepGuard


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Set up device, precision and processes.

    Raises:
        ValueError: The precision needs another device.
        RuntimeError: The launcher started several processes, but Accelerate does not see them.
    """
    torch.use_deterministic_algorithms(config.deterministic)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which they need, before the first use of the GPU
    # Without `cpu=True`, Accelerate takes CPU ranks for unrelated single processes.
    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    if config.precision == "fp16" and cpu:
        raise ValueError("train.precision fp16 needs a GPU, got cpu; bf16 has the range of float32 and needs none")
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=config.precision if config.precision in ("bf16", "fp16") else "no",
        # Batch statistics are averaged over processes once, before they are used: see `average_batch_statistics`.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != launched:
        raise RuntimeError(f"{launched} processes were launched, but Accelerate sees {accelerator.num_processes}")
    return accelerator


class Step(NamedTuple):
    """A step that the host has not read yet."""

    number: int  # from 1
    nonfinite: Tensor  # boolean, on the device: whether it was skipped
    indices: list[Tensor]  # samples of each of its micro-batches, of this process


@dataclass
class Best:
    """The epoch whose weights are tested and exported."""

    epoch: int = 0  # 0: none yet
    metric: float = math.nan


class Trainer:
    """Trains a model; each epoch is trained, ended, saved, evaluated and logged, in that order.

    What a run depends on is keyed by where it is, or lies in a checkpoint; so the same command continues an interrupted
    run bit for bit, from a checkpoint between any two steps.

    The host does not wait for the device but every `log_every_steps`, and to save. A step whose loss or gradient is not
    finite is therefore undone on the device, and the host counts it at the next reading.

    Args:
        config: The loop's configuration.
        seed: Keys dropout and the like, together with epoch, micro-batch and process.
        accelerator: Device, precision and processes.
        task: What is predicted, and what is measured of it.
        model: From images to the task's outputs, on the device.
        loss: With `reduction='sum'`: the trainer divides by the number of images, so that neither the number of
            processes nor accumulation changes what is minimised, class weights included.
        optimizer: Of the model's parameters.
        schedule: Function of the optimizer steps taken.
        train_loader: Training split.
        val_loader: Validation split.
        tracker: Where the run is recorded.
        teacher: Frozen model whose logits go to a loss that needs a teacher.
        profile: Whether to write a trace of some steps to the run's folder.

    Raises:
        ValueError: The loss does not fit the task, reduces otherwise, or lacks the teacher it needs; or the measure
            that is to choose the epoch is none of the task's.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        seed: int,
        accelerator: Accelerator,
        task: Task,
        model: nn.Module,
        loss: LabelLoss,
        optimizer: Optimizer,
        schedule: Scheduler,
        train_loader: Loader,
        val_loader: Loader,
        tracker: Tracker,
        teacher: nn.Module | None = None,
        profile: bool = False,
    ):
        task.check_loss(loss)
        if loss.reduction != "sum":
            raise ValueError(f"the trainer needs a loss with reduction='sum', got {loss.reduction!r}")
        if loss.needs_teacher and teacher is None:
            raise ValueError(f"{type(loss).__name__} needs a teacher: name the export of a trained model as `teacher`")
        if config.sync_bn:
            if accelerator.device.type != "cuda":
                raise ValueError(f"train.sync_bn needs CUDA devices, got {accelerator.device.type}")
            model = convert_sync_batchnorm(model)  # timm's: torch's drops the activations of BatchNormAct2d
        self.config, self.seed, self.accelerator, self.tracker = config, seed, accelerator, tracker
        self.schedule, self.train_loader, self.val_loader = schedule, train_loader, val_loader
        self.task, self.select_by = task, task.selecting(config.select_by)
        self.log = RunLog(tracker, task)
        self.clock = StepClock(accelerator.device)
        self.trace = build_trace(tracker.run_dir, accelerator.process_index, wanted=profile)
        self.checkpoints = tracker.run_dir / "checkpoints"
        self.teacher = teacher.eval().requires_grad_(False) if teacher is not None else None
        self.ema = MovingAverage(model, decay=config.ema_decay) if config.ema_decay is not None else None
        self.raw_model = model
        self.parameters = list(model.parameters())
        if config.compile:
            model.compile()
        # The loss stays outside: prepared, it would be taken for a second model.
        self.loss = loss.to(accelerator.device)
        self.model, self.optimizer = accelerator.prepare(model), optimizer

        self.epoch = 0  # epochs completed
        self.step = 0  # optimizer steps taken or skipped
        self.evaluated = 0  # epochs evaluated
        self.best = Best()
        self.tested = False  # whether the best epoch's results on the test split are recorded
        self.nonfinite_steps = 0  # skipped because loss or gradient was not finite
        self.nonfinite_in_a_row = 0
        dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.loss_sum = torch.zeros((), dtype=dtype, device=accelerator.device)  # since the last reading
        self.images_in_sum = 0  # over all processes
        self.train_loss = math.nan  # last reading
        self.epoch_values: dict[str, float] = {}  # of the last epoch: what is logged beside its metrics

        # What a process has of its own; all else is the same on every process.
        self.own = {"sum.loss": self.loss_sum} | {f"sum.{key}": value for key, value in loss.collected().items()}
        self.own |= {f"model.{name}": buffer for name, buffer in model.named_buffers()}
        self.guard = StepGuard(self.own.values())
        self.step_indices: list[Tensor] = []  # samples of the step, of this process
        self.unread: list[Step] = []
        if self.ema is not None:
            self.own |= {f"ema.{name}": buffer for name, buffer in self.ema.module.named_buffers()}

        self.interruption = Interruption()
        self.agreement = Agreement(
            lambda: (self.interruption.requested, self.is_time_to_save()), accelerator.num_processes
        )
        self.stopping = self.saving = False  # as agreed upon by all processes
        self.saved_at = time.monotonic()

    @property
    def images_seen(self) -> int:
        """Images trained on, over all processes: the x-axis of everything logged."""
        return self.step * self.train_loader.batches.global_batch_size

    @property
    def at_end_of_epoch(self) -> bool:
        """Whether no epoch is half trained."""
        return self.step == self.epoch * self.train_loader.batches.steps

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Checksums of the data that the run depends on."""
        return {"train": self.train_loader.fingerprint(), "val": self.val_loader.fingerprint()}

    @property
    def selected_model(self) -> nn.Module:
        """The model that is selected and exported: the moving average where there is one."""
        return self.raw_model if self.ema is None else self.ema.module

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        patience = self.config.early_stop_epochs
        waited = self.evaluated - self.best.epoch if self.best.epoch else 0
        return self.epoch == self.config.epochs or (patience is not None and waited >= patience)

    def fit(self) -> Best:
        """Train to the end, from the newest checkpoint if there is one; the best epoch's weights are loaded at last.

        Raises:
            Interrupted: SIGTERM or SIGINT asked to stop; the run is saved and can be continued.
            RuntimeError: Too many steps in a row were not finite, or another process trains in the run's folder.
        """
        total = self.config.epochs * self.train_loader.batches.steps * self.train_loader.batches.global_batch_size
        with (
            sole_owner(self.tracker.run_dir) if self.accelerator.is_main_process else nullcontext(),
            self.interruption.listening(),
            self.trace,
            tqdm(
                total=total,
                unit="img",
                unit_scale=True,
                dynamic_ncols=True,
                disable=None if self.accelerator.is_main_process else True,  # None: only on a terminal
            ) as bar,
        ):
            resume_run(self)
            self.settle_gradient_buckets()
            bar.update(self.images_seen)
            while True:
                if self.evaluated < self.epoch:
                    self.evaluate_epoch()
                if self.finished:
                    break
                self.train_epoch(bar)
                self.end_epoch()
        load_best(self)
        return self.best

    def settle_gradient_buckets(self) -> None:
        """Have DDP order its gradient buckets, as it does once after its first backward pass, before the first step.

        Sums over three or more processes depend on that order in their last bits.
        """
        if self.accelerator.num_processes == 1:
            return
        self.guard.begin()
        preprocessing, dtype = self.train_loader.preprocessing, self.train_loader.dtype
        shape = (2, preprocessing.in_chans, preprocessing.image_size, preprocessing.image_size)
        self.model.train()
        self.model(torch.zeros(shape, dtype=dtype, device=self.accelerator.device)).sum().backward()
        self.optimizer.zero_grad()
        self.guard.settle(torch.tensor(True, device=self.accelerator.device))

    def train_epoch(self, bar: tqdm) -> None:
        """Train on every global batch that is left of the epoch."""
        bar.set_description(f"epoch {self.epoch + 1}/{self.config.epochs}")
        self.model.train()
        self.loss.train()
        batches = self.train_loader.batches
        batches.epoch, batches.start_step = self.epoch, self.step - self.epoch * batches.steps
        started, images_before = time.perf_counter(), self.images_seen
        self.clock.mark(None)
        for number, batch in enumerate(self.train_loader, batches.start_step * batches.accumulation_steps):
            self.clock.mark(DATA)
            # Both are functions of where the run is, so that nothing depends on what came before.
            self.schedule.step_update(self.step)
            seed_step(self.seed, self.epoch, number, self.accelerator.process_index)
            if number % batches.accumulation_steps == 0:
                self.guard.begin()
                self.step_indices = []
            self.step_indices.append(batch["index"])
            # Not Accelerate's `accumulate`, which goes by what else this Python process has done with Accelerate, too.
            complete = (number + 1) % batches.accumulation_steps == 0
            with nullcontext() if complete else self.accelerator.no_sync(self.model):
                self.train_step(batch)
            bar.update(len(batch["target"]) * self.accelerator.num_processes)
            if complete:
                self.end_step()
                bar.set_postfix(loss=f"{self.train_loss:.3f}", refresh=False)
        speed = (self.images_seen - images_before) / (time.perf_counter() - started)
        self.epoch_values = {"train/images_per_second": speed}

    def train_step(self, batch: dict[str, Tensor]) -> None:
        """Forward and backward of one micro-batch."""
        images, target = batch["image"], batch["target"]
        teacher_logits = ()
        with self.clock.section("forward"):
            logits = self.model(images)
            if self.teacher is not None:
                with torch.no_grad(), self.accelerator.autocast():
                    teacher_logits = (self.teacher(images),)
        with self.clock.section("loss"):
            loss = self.loss(logits, target, *teacher_logits)
            self.loss_sum += loss.detach()
        with self.clock.section("backward"):
            self.accelerator.backward(loss / len(target) / self.config.accumulation_steps)

    def end_step(self) -> None:
        """Update the weights, unless loss or gradient is not finite; then log, save and stop where it is time to."""
        with self.clock.section("optimizer"):
            self.update_weights()
        self.step += 1
        self.trace.step()
        last = self.step % self.train_loader.batches.steps == 0
        if self.step % self.config.log_every_steps == 0 or last:
            self.log_train_loss()
        self.stopping, self.saving = self.agreement.poll()
        self.clock.mark("logging")
        speed = self.clock.count_step(
            steps_left=self.config.epochs * self.train_loader.batches.steps - self.step,
            global_batch_size=self.train_loader.batches.global_batch_size,
        )
        if speed is not None and self.accelerator.is_main_process:
            tqdm.write(speed)
        if last:
            return  # the end of the epoch saves
        every = self.config.checkpoint_every_steps
        if self.saving or self.stopping or (every is not None and self.step % every == 0):
            self.save()
        if self.stopping:
            self.leave()

    def update_weights(self) -> None:
        """Take the optimizer's step and move the average, or on the device undo what the step has changed."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        scaler, largest = self.accelerator.scaler, self.config.clip_grad_norm
        nonfinite = ~self.loss_sum.isfinite()
        if scaler is None:
            norm = get_total_norm(gradients)
            nonfinite = nonfinite | ~norm.isfinite()
        nonfinite = self.accelerator.reduce(nonfinite.int()) > 0  # on any process
        self.guard.settle(nonfinite)
        if scaler is not None:
            # The scaler skips what it finds, overflows of its own making among it, which it counters.
            gradients[0].add_(torch.where(nonfinite, torch.nan, 0.0))
            if largest is not None:
                scaler.unscale_(self.optimizer)
                norm = get_total_norm(gradients)
        if largest is not None:
            clip_grads_with_norm_(self.parameters, largest, norm)
        if scaler is not None:
            scaler.step(self.optimizer)
            scaler.update()
        else:
            step_unless(self.optimizer, nonfinite)
        if self.ema is not None:
            self.ema.update(self.raw_model, nonfinite)
        self.optimizer.zero_grad()
        self.unread.append(Step(self.step + 1, nonfinite, self.step_indices))

    def read_steps(self) -> None:
        """Read from the device which steps were skipped since the last reading, and count them.

        Raises:
            RuntimeError: They were too many in a row.
        """
        if not self.unread:
            return
        skipped = torch.stack([step.nonfinite for step in self.unread]).tolist()
        for step, nonfinite in zip(self.unread, skipped, strict=True):
            if not nonfinite:
                self.images_in_sum += self.train_loader.batches.global_batch_size
                self.nonfinite_in_a_row = 0
                continue
            self.nonfinite_steps += 1
            self.nonfinite_in_a_row += 1
            if self.nonfinite_in_a_row >= self.config.max_nonfinite_steps:
                self.give_up(step)
        self.unread.clear()

    def give_up(self, step: Step) -> NoReturn:
        """End a run whose steps are not finite any more.

        Raises:
            RuntimeError: Always; the message names a file with the samples of the step.
        """
        indices = gather_object(torch.cat(step.indices).tolist())
        file = self.tracker.run_dir / "nonfinite_samples.json"
        if self.accelerator.is_main_process:
            names = [self.train_loader.source.sample_id(index) for index in indices]
            file.write_text(json.dumps({"format": 1, "step": step.number, "sample_ids": names}, indent=2))
        self.accelerator.wait_for_everyone()
        raise RuntimeError(
            f"the training loss or its gradient was not finite in {self.nonfinite_in_a_row} steps in a row, at last at "
            f"step {step.number} (epoch {self.epoch + 1}), whose samples are named in {file}; lower optim.peak_lr or "
            f"set train.clip_grad_norm; the last checkpoint is in {self.checkpoints}"
        )

    def is_time_to_save(self) -> bool:
        """Return whether the main process, whose clock counts, has not saved for long; it says so once."""
        minutes = self.config.checkpoint_every_minutes
        if minutes is None or not self.accelerator.is_main_process or time.monotonic() - self.saved_at < 60 * minutes:
            return False
        self.saved_at = time.monotonic()
        return True

    def end_epoch(self) -> None:
        """End the epoch of the loss, and save before the evaluation: it may take long, and can be repeated."""
        average_batch_statistics(self.raw_model, self.accelerator.num_processes)
        if self.ema is not None:
            average_batch_statistics(self.ema.module, self.accelerator.num_processes)
        self.epoch_values |= self.loss.end_epoch()
        self.epoch += 1
        self.list_skipped()
        self.save()
        if self.stopping:
            self.leave()

    def list_skipped(self) -> None:
        """Write down which training images could not be read, where the loader skips them."""
        skipped = gather_object(sorted(self.train_loader.skipped))
        if not (self.accelerator.is_main_process and skipped):
            return
        file = self.tracker.run_dir / "unreadable_samples.json"
        known = json.loads(file.read_text())["sample_ids"] if file.exists() else []
        names = sorted({*known, *map(self.train_loader.source.sample_id, skipped)})
        file.write_text(json.dumps({"format": 1, "sample_ids": names}, indent=2))
        if len(names) > len(known):
            tqdm.write(f"{len(names)} training images could not be read and are skipped: {file}")

    def evaluate_epoch(self) -> None:
        """Evaluate the epoch's weights, log, and remember whether they are the best."""
        evaluations = self.evaluate(self.val_loader, "val")
        self.log_epoch(evaluations)
        metric = list(evaluations.values())[-1].metrics[self.select_by]
        better = find_measure(self.select_by).is_better(metric, than=self.best.metric)
        if better or math.isnan(self.best.metric):
            self.best = Best(self.epoch, metric)
        self.evaluated = self.epoch
        record_best(self)
        self.prune()
        self.report_epoch(evaluations)

    def evaluate(self, loader: Loader, split: str) -> dict[str, Evaluation]:
        """Evaluate the model, and its moving average, on a split; keyed by the tags' prefix, the selected one last.

        Raises:
            Interrupted: SIGTERM or SIGINT asked to stop; the same command evaluates again.
        """

        def leave_if_asked() -> None:
            self.stopping, _ = self.agreement.poll()
            if self.stopping:
                self.leave()

        self.clock.mark(None)
        models = {split: self.raw_model}
        if self.ema is not None:
            models[f"{split}_ema"] = self.ema.module
        with self.interruption.listening():
            return {
                prefix: evaluate(
                    model,
                    loader,
                    self.task,
                    self.accelerator.autocast,
                    after_batch=leave_if_asked,
                    mark=self.clock.mark,
                )
                for prefix, model in models.items()
            }

    def leave(self) -> NoReturn:
        """End the process with status 0; the run is saved.

        Raises:
            Interrupted: Always.
        """
        command = shlex.join(self.tracker.environment["command"])
        self.accelerator.print(f"stopped after step {self.step}; the same command continues: {command}")
        self.tracker.close()
        self.accelerator.end_training()
        raise Interrupted

    def log_train_loss(self) -> None:
        """Read the mean loss since the last reading from the device, over all processes, and log it."""
        self.read_steps()
        total = self.accelerator.reduce(self.loss_sum.clone()).item()
        self.train_loss = total / self.images_in_sum if self.images_in_sum else math.nan
        self.loss_sum.zero_()
        self.images_in_sum = 0
        values = {
            "train/loss": self.train_loss,
            "train/lr": self.optimizer.param_groups[0]["lr"],
            "train/nonfinite_steps": float(self.nonfinite_steps),
        }
        self.tracker.log(values, images_seen=self.images_seen, epoch=self.epoch)
        self.clock.read()  # while the device has nothing to do: what the clock remembers would grow

    def log_epoch(self, evaluations: dict[str, Evaluation]) -> None:
        """Log metrics, the loss's diagnostics and figures."""
        place = {"images_seen": self.images_seen, "epoch": self.epoch}
        self.log.evaluations(evaluations, values=self.epoch_values, **place)
        self.log.soft_labels(self.loss.artifacts().get("soft_labels"), **place)

    def log_test(self, evaluations: dict[str, Evaluation]) -> None:
        """Log the best epoch's results on the test split, once however often the command is typed."""
        if not self.tested:
            self.log.evaluations(evaluations, images_seen=self.images_seen, epoch=self.best.epoch)
            self.log.end(evaluations, epoch=self.best.epoch, soft_labels=self.loss.artifacts().get("soft_labels"))
            self.tested = True
            record_best(self)

    def report_epoch(self, evaluations: dict[str, Evaluation]) -> None:
        """Print a line."""
        for prefix, evaluation in evaluations.items():
            line = epoch_line(
                prefix,
                evaluation,
                self.task,
                place=f"{self.epoch}/{self.config.epochs}",
                train_loss=self.train_loss,
                images_per_second=self.epoch_values["train/images_per_second"],
            )
            if self.accelerator.is_main_process:
                tqdm.write(line)

    def save(self) -> None:
        """Write a checkpoint, and delete those that are neither new nor the best."""
        self.read_steps()
        save_run(self)
        self.prune()
        self.clock.mark("checkpoint")
        self.saved_at = time.monotonic()

    def prune(self) -> None:
        """Delete checkpoints that are neither new nor the best."""
        if self.accelerator.is_main_process:
            prune_checkpoints(self.checkpoints, keep_last=self.config.keep_last, keep=best_folder(self))


def average_batch_statistics(model: nn.Module, num_processes: int) -> None:
    """Average the running statistics of batch normalisation, which each process gathers from its own batches."""
    if num_processes > 1:
        distribute_bn(model, num_processes, reduce=True)
