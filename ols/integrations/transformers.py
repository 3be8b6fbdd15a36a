"""Label losses under `transformers.Trainer`: the loss, the end of the epoch, and checkpoints of all ranks."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ols.losses import LabelLoss

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError("ols.integrations.transformers needs transformers: pip install transformers") from error

FILE = "label_loss.safetensors"


class LabelLossCallback(TrainerCallback):
    """Computes a label loss, ends its epochs, logs their diagnostics and keeps its state in the checkpoint folders.

    `Trainer(..., compute_loss_func=callback.compute_loss, callbacks=[callback])`. An epoch ends at its last step:
    before the evaluation, and before any checkpoint, also one that `save_steps` writes there. A checkpoint inside an
    epoch holds what all ranks collected. Diagnostics go to `trainer.state.log_history`; after
    `callback.log = trainer.log` they go to TensorBoard and the other integrations as well.

    On resume the state is read from `output_dir`, or from `TrainingArguments(resume_from_checkpoint=folder)`: the
    Trainer does not tell its callbacks which folder was given to `train`.

    Args:
        loss: With `reduction="sum"`: the Trainer counts the labels of all accumulated batches, over all ranks, and it
            is that number the sum is divided by. Its `ignore_index` is -100, the label that the Trainer does not count.

    Raises:
        ValueError: The loss reduces otherwise, or ignores another label.
    """

    def __init__(self, loss: LabelLoss):
        if loss.reduction != "sum":
            raise ValueError(f"the loss must have reduction='sum' for the Trainer, got {loss.reduction!r}")
        if loss.ignore_index != -100:
            raise ValueError(f"the loss must have the Trainer's ignore_index of -100, got {loss.ignore_index}")
        self.loss = loss
        self.log: Callable[[dict[str, float]], None] | None = None
        self.step_ended = -1  # the global step of the last end of an epoch

    def compute_loss(
        self, outputs: Mapping[str, Tensor], labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Return the mean training loss, or in evaluation, where no gradients are taken, the mean cross entropy.

        Args:
            outputs: What the model returned; its `logits` `[B, K]`.
            labels: Class indices `[B]`, or probabilities `[B, K]`.
            num_items_in_batch: Number of entries of `labels` that are not -100 in the whole accumulated batch.

        Raises:
            ValueError: The batch has no labels.
        """
        if labels is None:
            raise ValueError("the batch must have class indices or probabilities under 'labels', got none")
        total = self.loss.train(torch.is_grad_enabled())(outputs["logits"], labels)
        items = labels.ne(-100).sum() if num_items_in_batch is None else num_items_in_batch
        return total / (items / self.loss.num_classes if labels.is_floating_point() else items)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Move the loss to the Trainer's device and, in a resumed run, load its state."""
        self.step_ended = -1
        self.loss.to(args.device)
        if state.global_step > 0:
            path = Path(args.resume_from_checkpoint or _checkpoint(args, state)) / FILE
            if not path.exists():
                where = "TrainingArguments(resume_from_checkpoint=...) names a checkpoint outside output_dir"
                raise FileNotFoundError(f"{path} must exist to resume, written by this callback; {where}")
            self.loss.load_state_dict(load_file(path))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """End the epoch after its last step."""
        if float(state.epoch).is_integer():
            self._end_epoch(state, control)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """End an epoch that was cut short."""
        if state.global_step != self.step_ended:
            self._end_epoch(state, control)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Write the state, with what all ranks collected, into the checkpoint folder."""
        self.loss.sum_over_ranks()
        if args.should_save:
            save_file(self.loss.state_dict(), _checkpoint(args, state) / FILE, {"format": "1"})

    def _end_epoch(self, state: TrainerState, control: TrainerControl) -> None:
        self.step_ended = state.global_step
        diagnostics = self.loss.end_epoch()
        if self.log is None:
            state.log_history.append({**diagnostics, "epoch": state.epoch, "step": state.global_step})
            return
        should_log = control.should_log
        self.log(diagnostics)
        control.should_log = should_log  # Trainer.log clears it, and the Trainer has yet to log this step


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
