"""The training loop. The same for every loss: it calls the loss, and `end_epoch()` once per epoch."""

import shlex
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import NoReturn

import torch
from accelerate import Accelerator
from timm.layers import convert_sync_batchnorm
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from ols.config import TrainConfig
from ols.data.loading import EvalLoader, TrainLoader, beside
from ols.data.sources.protocol import Split
from ols.evaluation.evaluate import Evaluation, evaluate
from ols.losses import Loss
from ols.metrics.measures import find_measure
from ols.models.freezing import Freezing
from ols.runs.folder import RunFolder
from ols.tasks.task import Task
from ols.tracking.run_log import RunLog
from ols.tracking.tracker import Tracker
from ols.training.agreement import Agreement
from ols.training.clock import DATA, StepClock, build_trace
from ols.training.ddp import average_batch_statistics, settle_gradient_buckets, wrap_anew
from ols.training.interruption import Interrupted, Interruption
from ols.training.loss_contract import check_loss
from ols.training.machine import seed_step
from ols.training.optim import MovingAverage, scale_learning_rates, scheduled_lr
from ols.training.progress import Best, Progress
from ols.training.resumption import RunCheckpoints
from ols.training.safe_step import SafeStep
from ols.training.troubled_samples import give_up, list_unreadable


class Trainer:
    """Trains a model; each epoch is trained, ended, saved, evaluated and logged, in that order.

    What a run depends on is keyed by where it is, or lies in a checkpoint; so the same command continues an interrupted
    run bit for bit, from a checkpoint between any two steps.

    The host does not wait for the device but every `log_every_steps`, and to save. A step whose loss or gradient is not
    finite is therefore undone on the device, and the host counts it at the next reading.

    Args:
        config: The loop's configuration.
        seed: Keys dropout and the like, together with epoch, micro-batch and process.
        folder: The run's folder, which this process has claimed.
        accelerator: Device, precision and processes.
        task: What is predicted, and what is measured of it.
        model: From images to the task's outputs, on the device.
        loss: With `reduction='sum'`: the trainer divides by the number of images, so that neither the number of
            processes nor accumulation changes what is minimised, class weights included.
        optimizer: Of the model's parameters.
        schedule: Function of the optimizer steps taken.
        train_loader: Training split.
        val_loader: Validation split.
        data: What tells another data set from this one, see `Loaders.fingerprints`: a run continues on the same one.
        freezing: What of the model is trained in which epoch; None trains everything.
        tracker: Where the run is recorded.
        teacher: Frozen model whose logits go to a loss that needs a teacher.
        profile: Whether to write a trace of some steps to the run's folder.

    Raises:
        ValueError: The loss does not fit the task, reduces otherwise, lacks the teacher it needs, or is given one that
            it does not need; or the measure that is to choose the epoch is none of the task's.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        seed: int,
        folder: RunFolder,
        accelerator: Accelerator,
        task: Task,
        model: nn.Module,
        loss: Loss,
        optimizer: Optimizer,
        schedule: Scheduler,
        train_loader: TrainLoader,
        val_loader: EvalLoader,
        data: Mapping[Split, Mapping[str, str]],
        tracker: Tracker,
        freezing: Freezing | None = None,
        teacher: nn.Module | None = None,
        profile: bool = False,
    ):
        task.check_loss(loss)
        check_loss(loss, teacher)
        if config.sync_bn:
            if accelerator.device.type != "cuda":
                raise ValueError(f"train.sync_bn needs CUDA devices, got {accelerator.device.type}")
            model = convert_sync_batchnorm(model)  # timm's: torch's drops the activations of BatchNormAct2d
        self.config, self.seed, self.folder, self.accelerator = config, seed, folder, accelerator
        self.freezing = freezing
        self.schedule, self.train_loader, self.val_loader = schedule, train_loader, val_loader
        self.task, self.select_by = task, task.selecting(config.select_by)
        self.log = RunLog(tracker, task)
        self.clock = StepClock(accelerator.device, reading_advice=train_loader.reading_advice)
        self.trace = build_trace(folder.path, accelerator.process_index, wanted=profile)
        self.teacher = teacher.eval().requires_grad_(False) if teacher is not None else None
        self.ema = MovingAverage(model, decay=config.ema_decay) if config.ema_decay is not None else None
        self.raw_model = model
        if config.compile:
            model.compile()
        # The loss stays outside: prepared, it would be taken for a second model.
        self.loss = loss.to(accelerator.device)
        self.model, self.optimizer = accelerator.prepare(model), optimizer

        self.progress = Progress()
        dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.loss_sum = torch.zeros((), dtype=dtype, device=accelerator.device)  # since the last reading
        # What a process has of its own; all else is the same on every process.
        own = {"sum.loss": self.loss_sum} | {f"sum.{key}": value for key, value in loss.collected().items()}
        own |= {f"model.{name}": buffer for name, buffer in model.named_buffers()}
        self.safe_step = SafeStep(
            model,
            optimizer,
            guarded=own.values(),
            any_process=lambda flag: accelerator.reduce(flag.int()) > 0,
            scaler=accelerator.scaler,
            clip_grad_norm=config.clip_grad_norm,
            average=self.ema,
        )
        if self.ema is not None:
            own |= {f"ema.{name}": buffer for name, buffer in self.ema.module.named_buffers()}
        self.checkpoints = RunCheckpoints(
            folder,
            accelerator,
            model=model,
            average=None if self.ema is None else self.ema.module,
            loss=loss,
            optimizer=optimizer,
            own=own,
            data=data,
            steps_per_epoch=train_loader.steps_per_epoch,
        )

        self.interruption = Interruption()
        self.agreement = Agreement(
            lambda: (self.interruption.requested, self.is_time_to_save()), accelerator.num_processes
        )
        self.stopping = self.saving = False  # as agreed upon by all processes
        self.saved_at = time.monotonic()

    @property
    def images_seen(self) -> int:
        """Images trained on, over all processes: the x-axis of everything logged."""
        return self.progress.step * self.train_loader.batches.global_batch_size

    @property
    def selected_model(self) -> nn.Module:
        """The model that is selected and exported: the moving average where there is one."""
        return self.raw_model if self.ema is None else self.ema.module

    def fit(self) -> Best:
        """Train to the end, from the newest checkpoint if there is one; the best epoch's weights are loaded at last.

        Raises:
            Interrupted: SIGTERM, SIGINT or SIGHUP asked to stop; the run is saved and can be continued.
            RuntimeError: Too many steps in a row were not finite.
        """
        total = self.config.epochs * self.train_loader.batches.steps * self.train_loader.batches.global_batch_size
        with (
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
            self.resume()
            self.enter_phase(started=True)
            bar.update(self.images_seen)
            while True:
                if self.progress.evaluated < self.progress.epoch:
                    self.evaluate_epoch()
                if self.has_ended(self.progress):
                    break
                self.enter_phase()
                self.train_epoch(bar)
                self.end_epoch()
        self.checkpoints.load_best(self.progress)
        return self.progress.best

    def has_ended(self, progress: Progress) -> bool:
        """Return whether there is nothing left to train."""
        return progress.has_ended(epochs=self.config.epochs, early_stop_epochs=self.config.early_stop_epochs)

    def resume(self) -> None:
        """Continue from the newest intact checkpoint, if there is one, and open the logs there."""
        self.progress, metrics_bytes = self.checkpoints.resume(self.has_ended)
        repeated = self.progress.evaluated < self.progress.epoch  # the evaluation here, should it be recorded already
        self.log.tracker.start(
            images_seen=self.images_seen,
            metrics_bytes=metrics_bytes,
            purge_from=self.images_seen + (not repeated),
        )

    def enter_phase(self, *, started: bool = False) -> None:
        """Set what the next epoch trains, and how fast; processes settle anew which gradients they exchange."""
        changed = False
        if self.freezing is not None:
            changed = self.freezing.enter(self.progress.epoch)
            scale_learning_rates(self.optimizer, self.freezing.lr_factor(self.progress.epoch))
        if changed:
            self.model = wrap_anew(self.model, self.raw_model)
        if (changed or started) and self.accelerator.num_processes > 1:
            self.model.train()
            settle_gradient_buckets(self.model, self.train_loader.zeros(2), self.safe_step.guard)

    def train_epoch(self, bar: tqdm) -> None:
        """Train on every global batch that is left of the epoch."""
        progress, batches = self.progress, self.train_loader.batches
        bar.set_description(f"epoch {progress.epoch + 1}/{self.config.epochs}")
        self.model.train()
        self.loss.train()
        start_step = progress.step - progress.epoch * batches.steps
        started, images_before = time.perf_counter(), self.images_seen
        self.clock.mark(None)
        for number, batch in enumerate(
            self.train_loader.epoch(progress.epoch, start_step), start_step * batches.accumulation_steps
        ):
            self.clock.mark(DATA)
            # Both are functions of where the run is, so that nothing depends on what came before.
            self.schedule.step_update(progress.step)
            seed_step(self.seed, progress.epoch, number, self.accelerator.process_index)
            if number % batches.accumulation_steps == 0:
                self.safe_step.begin()
            self.safe_step.add(batch["index"])
            # Not Accelerate's `accumulate`, which goes by what else this Python process has done with Accelerate, too.
            complete = (number + 1) % batches.accumulation_steps == 0
            with nullcontext() if complete else self.accelerator.no_sync(self.model):
                self.train_step(batch)
            bar.update(len(batch["target"]) * self.accelerator.num_processes)
            if complete:
                self.end_step()
                bar.set_postfix(loss=f"{progress.train_loss:.3f}", refresh=False)
        speed = (self.images_seen - images_before) / (time.perf_counter() - started)
        progress.epoch_values = {"train/images_per_second": speed}

    def train_step(self, batch: dict[str, Tensor]) -> None:
        """Forward and backward of one micro-batch."""
        images, target = batch["image"], batch["target"]
        beside_target: tuple[Tensor, ...] = (batch["index"].to(target.device),) if self.loss.needs_index else ()
        with self.clock.section("forward"):
            logits = self.model(images, **beside(batch))
            if self.teacher is not None:
                with torch.no_grad(), self.accelerator.autocast():
                    beside_target = (self.teacher(images),)
        with self.clock.section("loss"):
            loss = self.loss(logits, target, *beside_target)
            if (terms := self.task.terms_per_image(self.loss, target)) != 1:
                loss = loss / terms
            self.loss_sum += loss.detach()
        with self.clock.section("backward"):
            self.accelerator.backward(loss / len(target) / self.config.accumulation_steps)

    def end_step(self) -> None:
        """Update the weights, unless loss or gradient is not finite; then log, save and stop where it is time to."""
        progress, batches = self.progress, self.train_loader.batches
        with self.clock.section("optimizer"):
            self.safe_step.take(progress.step + 1, self.loss_sum)
        progress.step += 1
        self.trace.step()
        last = progress.step % batches.steps == 0
        if progress.step % self.config.log_every_steps == 0 or last:
            self.log_train_loss()
        self.stopping, self.saving = self.agreement.poll()
        self.clock.mark("logging")
        speed = self.clock.count_step(
            steps_left=self.config.epochs * batches.steps - progress.step, global_batch_size=batches.global_batch_size
        )
        if speed is not None and self.accelerator.is_main_process:
            tqdm.write(speed)
        if last:
            return  # the end of the epoch saves
        every = self.config.checkpoint_every_steps
        if self.saving or self.stopping or (every is not None and progress.step % every == 0):
            self.save()
        if self.stopping:
            self.leave()

    def read_steps(self) -> None:
        """Read from the device which steps were skipped since the last reading, and count them.

        Raises:
            RuntimeError: They were too many in a row.
        """
        for step, finite in self.safe_step.read():
            self.progress.count_step(finite=finite, images=self.train_loader.batches.global_batch_size)
            if self.progress.nonfinite_in_a_row >= self.config.max_nonfinite_steps:
                give_up(
                    self.folder,
                    self.train_loader,
                    self.accelerator,
                    place=self.place_of(step.number),
                    indices=torch.cat(step.indices).tolist(),
                    in_a_row=self.progress.nonfinite_in_a_row,
                )

    def place_of(self, step: int) -> str:
        """Return which step of which epoch the n-th step of the run is, both from 1."""
        epoch, inside = divmod(step - 1, self.train_loader.batches.steps)
        return f"step {inside + 1} of epoch {epoch + 1}"

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
        self.progress.epoch_values |= self.loss.end_epoch()
        self.progress.epoch += 1
        list_unreadable(self.folder, self.train_loader, self.accelerator)
        self.save()
        if self.stopping:
            self.leave()

    def evaluate_epoch(self) -> None:
        """Evaluate the epoch's weights, log, and remember whether they are the best."""
        evaluations = self.evaluate(self.val_loader, "val")
        self.log.epoch(
            evaluations,
            values=self.progress.epoch_values,
            soft_labels=self.loss.artifacts().get("soft_labels"),
            images_seen=self.images_seen,
            epoch=self.progress.epoch,
        )
        selected = list(evaluations.values())[-1]
        self.progress.count_evaluation(
            selected.metrics[self.select_by], higher_is_better=find_measure(self.select_by).higher_is_better is True
        )
        self.record_best()
        self.prune()
        self.log.print_epoch(
            evaluations,
            place=f"{self.progress.epoch}/{self.config.epochs}",
            train_loss=self.progress.train_loss,
            images_per_second=self.progress.epoch_values["train/images_per_second"],
        )

    def evaluate(self, loader: EvalLoader, split: str) -> dict[str, Evaluation]:
        """Evaluate the model, and its moving average, on a split; keyed by the tags' prefix, the selected one last.

        Raises:
            Interrupted: SIGTERM, SIGINT or SIGHUP asked to stop; the same command evaluates again.
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
                    select_by=self.select_by,
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
        command = shlex.join(self.log.tracker.environment["command"])
        place = self.place_of(self.progress.step) if self.progress.step else "no step"
        self.accelerator.print(f"stopped after {place}; the same command continues: {command}")
        self.log.tracker.close()
        self.accelerator.end_training()
        raise Interrupted

    def log_train_loss(self) -> None:
        """Read the mean loss since the last reading from the device, over all processes, and log it."""
        self.read_steps()
        total = self.accelerator.reduce(self.loss_sum.clone()).item()
        progress = self.progress
        progress.train_loss = total / progress.images_in_sum if progress.images_in_sum else float("nan")
        self.loss_sum.zero_()
        progress.images_in_sum = 0
        values = {
            "train/loss": progress.train_loss,
            "train/lr": scheduled_lr(self.optimizer),
            "train/nonfinite_steps": float(progress.nonfinite_steps),
        }
        self.log.tracker.log(values, images_seen=self.images_seen, epoch=progress.epoch)
        self.clock.read()  # while the device has nothing to do: what the clock remembers would grow

    def log_test(self, evaluations: dict[str, Evaluation]) -> None:
        """Log the best epoch's results on the test split, once however often the command is typed."""
        if not self.progress.tested:
            soft_labels = self.loss.artifacts().get("soft_labels")
            self.log.test(
                evaluations, soft_labels=soft_labels, images_seen=self.images_seen, epoch=self.progress.best.epoch
            )
            self.progress.tested = True
            self.record_best()

    def save(self) -> None:
        """Write a checkpoint, and delete those that are neither new nor the best."""
        self.read_steps()
        self.checkpoints.save(self.progress, self.log.tracker.flush())
        self.prune()
        self.clock.mark("checkpoint")
        self.saved_at = time.monotonic()

    def record_best(self) -> None:
        """Write down which epoch is the best, and that the newest one was evaluated."""
        split = "val" if self.ema is None else "val_ema"
        self.checkpoints.record_best(self.progress, f"{split}/{self.select_by}", self.log.tracker.flush())

    def prune(self) -> None:
        """Delete checkpoints that are neither new nor the best."""
        self.checkpoints.prune(self.progress, keep_last=self.config.keep_last)
