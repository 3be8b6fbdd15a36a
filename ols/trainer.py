"""The training loop. The same for every loss: it calls the loss, and `end_epoch()` once per epoch."""

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from timm.layers import convert_sync_batchnorm
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from timm.utils.distributed import distribute_bn
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from ols import checkpoint
from ols.config import TrainConfig
from ols.data.loading import Loader
from ols.evaluation import Evaluation, evaluate, tagged
from ols.figures import reliability_diagram, soft_label_heatmap
from ols.losses.base import LabelLoss
from ols.reproducibility import seed_step
from ols.tracking import Tracker

SMALLER_IS_BETTER = {"nll"}


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Set up device, precision and processes.

    Raises:
        RuntimeError: The launcher started several processes, but Accelerate does not see them.
    """
    # Without `cpu=True`, Accelerate takes CPU ranks for unrelated single processes.
    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=config.precision if config.precision in ("bf16", "fp16") else "no",
        gradient_accumulation_steps=config.accumulation_steps,
        # Batch statistics are averaged over processes once, before they are used: see `average_batch_statistics`.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != launched:
        raise RuntimeError(f"{launched} processes were launched, but Accelerate sees {accelerator.num_processes}")
    return accelerator


@dataclass
class Best:
    """The epoch whose weights are tested and exported."""

    epoch: int = 0
    metric: float = math.nan


class Trainer:
    """Trains a model; each epoch is trained, ended, evaluated, logged and saved, in that order.

    Args:
        config: The loop's configuration.
        seed: Keys dropout and the like, together with epoch, micro-batch and process.
        accelerator: Device, precision and processes.
        model: From images to logits `[B, K]`, on the device.
        loss: With `reduction='sum'`: the trainer divides by the number of images, so that neither the number of
            processes nor accumulation changes what is minimised, class weights included.
        optimizer: Of the model's parameters.
        schedule: Function of the optimizer steps taken.
        train_loader: Training split.
        val_loader: Validation split.
        tracker: Where the run is recorded.
        teacher: Frozen model whose logits go to a loss that needs a teacher.

    Raises:
        ValueError: The loss reduces otherwise, or lacks the teacher it needs.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        seed: int,
        accelerator: Accelerator,
        model: nn.Module,
        loss: LabelLoss,
        optimizer: Optimizer,
        schedule: Scheduler,
        train_loader: Loader,
        val_loader: Loader,
        tracker: Tracker,
        teacher: nn.Module | None = None,
    ):
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
        self.checkpoints = tracker.run_dir / "checkpoints"
        self.teacher = teacher.eval().requires_grad_(False) if teacher is not None else None
        self.ema = ModelEmaV3(model, decay=config.ema_decay) if config.ema_decay is not None else None
        self.raw_model = model
        if config.compile:
            model.compile()
        # The loss stays outside: prepared, it would be taken for a second model.
        self.loss = loss.to(accelerator.device)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)

        self.epoch = 0  # epochs completed
        self.step = 0  # optimizer steps taken
        self.best = Best()
        dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.loss_sum = torch.zeros((), dtype=dtype, device=accelerator.device)  # since the last reading
        self.images_in_sum = 0

    @property
    def images_seen(self) -> int:
        """Images trained on, over all processes: the x-axis of everything logged."""
        return self.step * self.train_loader.batches.global_batch_size

    @property
    def selected_model(self) -> nn.Module:
        """The model that is selected and exported: the moving average where there is one."""
        return self.raw_model if self.ema is None else self.ema.module

    def fit(self) -> Best:
        """Train to the end, from the newest checkpoint if there is one; the best epoch's weights are loaded at last."""
        self.resume()
        self.tracker.start(images_seen=self.images_seen)
        total = self.config.epochs * self.train_loader.batches.steps * self.train_loader.batches.global_batch_size
        with tqdm(
            total=total,
            initial=self.images_seen,
            unit="img",
            unit_scale=True,
            dynamic_ncols=True,
            disable=None if self.accelerator.is_main_process else True,  # None: only on a terminal
        ) as bar:
            while self.epoch < self.config.epochs:
                bar.set_description(f"epoch {self.epoch + 1}/{self.config.epochs}")
                started = time.perf_counter()
                images_before = self.images_seen
                train_loss = self.train_epoch(bar)
                images_per_second = (self.images_seen - images_before) / (time.perf_counter() - started)
                diagnostics = self.loss.end_epoch()
                self.epoch += 1
                evaluations = self.evaluate(self.val_loader, "val")
                self.log_epoch(evaluations, diagnostics, images_per_second)
                self.save(evaluations)
                self.report_epoch(train_loss, evaluations, images_per_second)
        self.load_best()
        return self.best

    def train_epoch(self, bar: tqdm) -> float:
        """Train on every global batch of an epoch; return the last reading of the loss."""
        self.model.train()
        self.loss.train()
        self.train_loader.batches.epoch = self.epoch
        train_loss = math.nan
        for number, batch in enumerate(self.train_loader):
            # Both are functions of where the run is, so that nothing depends on what came before.
            self.schedule.step_update(self.step)
            seed_step(self.seed, self.epoch, number, self.accelerator.process_index)
            with self.accelerator.accumulate(self.model):
                self.train_step(batch)
            self.images_in_sum += len(batch["target"])
            bar.update(len(batch["target"]) * self.accelerator.num_processes)
            if self.accelerator.sync_gradients:
                self.step += 1
                if self.ema is not None:
                    self.ema.update(self.raw_model)
                last = self.step % self.train_loader.batches.steps == 0
                if self.step % self.config.log_every_steps == 0 or last:
                    train_loss = self.log_train_loss()
                    bar.set_postfix(loss=f"{train_loss:.3f}", refresh=False)
        return train_loss

    def train_step(self, batch: dict[str, Tensor]) -> None:
        """Forward, backward and, where a global batch is complete, an optimizer step; the device is not waited for."""
        images, target = batch["image"], batch["target"]
        logits = self.model(images)
        if self.teacher is None:
            loss = self.loss(logits, target)
        else:
            with torch.no_grad(), self.accelerator.autocast():
                teacher_logits = self.teacher(images)
            loss = self.loss(logits, target, teacher_logits)
        self.accelerator.backward(loss / len(target))
        if self.accelerator.sync_gradients and self.config.clip_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.loss_sum += loss.detach()

    def evaluate(self, loader: Loader, split: str) -> dict[str, Evaluation]:
        """Evaluate the model, and its moving average, on a split; keyed by the tags' prefix, the selected one last."""
        average_batch_statistics(self.raw_model, self.accelerator.num_processes)
        evaluations = {split: evaluate(self.raw_model, loader, self.accelerator.autocast)}
        if self.ema is not None:
            average_batch_statistics(self.ema.module, self.accelerator.num_processes)
            evaluations[f"{split}_ema"] = evaluate(self.ema.module, loader, self.accelerator.autocast)
        return evaluations

    def log_train_loss(self) -> float:
        """Read the mean loss since the last reading from the device, over all processes, and log it.

        Raises:
            RuntimeError: The loss is not finite.
        """
        sums = torch.stack([self.loss_sum, self.loss_sum.new_tensor(self.images_in_sum)])
        total, images = self.accelerator.reduce(sums).tolist()
        train_loss = total / images
        if not math.isfinite(train_loss):
            raise RuntimeError(
                f"the training loss is {train_loss} at step {self.step} (epoch {self.epoch + 1}); "
                f"lower optim.peak_lr or set train.clip_grad_norm; the last checkpoint is in {self.checkpoints}"
            )
        self.loss_sum.zero_()
        self.images_in_sum = 0
        values = {"train/loss": train_loss, "train/lr": self.optimizer.param_groups[0]["lr"]}
        self.tracker.log(values, images_seen=self.images_seen, epoch=self.epoch)
        return train_loss

    def log_epoch(
        self, evaluations: dict[str, Evaluation], diagnostics: dict[str, float], images_per_second: float
    ) -> None:
        """Log metrics, the loss's diagnostics and figures."""
        self.log_evaluations(
            evaluations, epoch=self.epoch, values={"train/images_per_second": images_per_second, **diagnostics}
        )
        soft_labels = getattr(self.loss, "soft_labels", None)
        if soft_labels is not None and self.accelerator.is_main_process:
            source = self.train_loader.source
            figure = soft_label_heatmap(soft_labels, source.classes, source.groups, title=f"after epoch {self.epoch}")
            self.tracker.log_figure("soft_labels/matrix", figure, images_seen=self.images_seen)

    def log_evaluations(
        self, evaluations: dict[str, Evaluation], *, epoch: int, values: dict[str, float] | None = None
    ) -> None:
        """Log metrics and reliability diagrams of an epoch's weights, beside other values."""
        self.tracker.log(tagged(evaluations) | (values or {}), images_seen=self.images_seen, epoch=epoch)
        if self.accelerator.is_main_process:
            for prefix, evaluation in evaluations.items():
                title = f"{prefix}, epoch {epoch}, N = {evaluation.metrics['count']:.0f}"
                figure = reliability_diagram(evaluation.reliability, title=title)
                self.tracker.log_figure(f"{prefix}/reliability", figure, images_seen=self.images_seen)
                self.tracker.log_reliability(prefix, evaluation.reliability, images_seen=self.images_seen)
                source = self.train_loader.source
                self.tracker.log_confusion(
                    f"{prefix}/most_confused",
                    evaluation.confusion,
                    source.classes,
                    source.groups,
                    images_seen=self.images_seen,
                )

    def report_epoch(self, train_loss: float, evaluations: dict[str, Evaluation], images_per_second: float) -> None:
        """Print a line."""
        for prefix, evaluation in evaluations.items():
            metrics = evaluation.metrics
            line = (
                f"epoch {self.epoch}/{self.config.epochs}  train loss {train_loss:.3f}  {prefix} "
                f"top1 {metrics['top1']:.1%}  top5 {metrics['top5']:.1%}  balanced {metrics['balanced_accuracy']:.1%}  "
                f"nll {metrics['nll']:.3f}  ece {metrics['ece']:.3f}  {images_per_second:.0f} img/s"
            )
            if metrics["nonfinite"]:
                line += f"  ({metrics['nonfinite']:.0f} samples with non-finite logits)"
            if self.accelerator.is_main_process:
                tqdm.write(line)

    def save(self, evaluations: dict[str, Evaluation]) -> None:
        """Remember whether this epoch is the best, and write a checkpoint; the main process writes."""
        metric = list(evaluations.values())[-1].metrics[self.config.select_by]
        sign = -1 if self.config.select_by in SMALLER_IS_BETTER else 1
        if math.isnan(self.best.metric) or sign * metric > sign * self.best.metric:
            self.best = Best(self.epoch, metric)
        if self.accelerator.is_main_process:
            optimizer_tensors, optimizer_rest = checkpoint.optimizer_tensors(self.optimizer)
            tensors = {"model": self.raw_model.state_dict(), "loss": self.loss.state_dict()}
            tensors["optimizer"] = optimizer_tensors
            if self.ema is not None:
                tensors["ema"] = self.ema.module.state_dict()
            state = {"epoch": self.epoch, "step": self.step, "best": vars(self.best), "optimizer": optimizer_rest}
            if self.accelerator.scaler is not None:
                state["scaler"] = self.accelerator.scaler.state_dict()
            checkpoint.save_checkpoint(self.folder(self.epoch), tensors, state)
            checkpoint.prune_checkpoints(
                self.checkpoints, keep_last=self.config.keep_last, keep=self.folder(self.best.epoch)
            )
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Continue from the newest checkpoint of the run, if there is one."""
        found = checkpoint.list_checkpoints(self.checkpoints)
        if not found:
            return
        state = checkpoint.load_state(found[-1])
        self.load_weights(found[-1])
        self.loss.load_state_dict(checkpoint.load_tensors(found[-1], "loss"))
        checkpoint.load_optimizer(self.optimizer, checkpoint.load_tensors(found[-1], "optimizer"), state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step, self.best = state["epoch"], state["step"], Best(**state["best"])
        self.accelerator.print(f"continuing after epoch {self.epoch} from {found[-1]}")

    def load_best(self) -> None:
        """Load the weights and soft labels of the best epoch."""
        folder = self.folder(self.best.epoch)
        self.load_weights(folder)
        self.loss.load_state_dict(checkpoint.load_tensors(folder, "loss"))

    def load_weights(self, folder: Path) -> None:
        """Load the model, and its moving average, from a checkpoint."""
        self.raw_model.load_state_dict(checkpoint.load_tensors(folder, "model"))
        if self.ema is not None:
            self.ema.module.load_state_dict(checkpoint.load_tensors(folder, "ema"))

    def folder(self, epoch: int) -> Path:
        """Return the checkpoint folder of an epoch."""
        return self.checkpoints / f"epoch-{epoch:04d}"


def average_batch_statistics(model: nn.Module, num_processes: int) -> None:
    """Average the running statistics of batch normalisation, which each process gathers from its own batches."""
    if num_processes > 1:
        distribute_bn(model, num_processes, reduce=True)
