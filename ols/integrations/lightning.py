"""Label losses under `lightning.Trainer`: the end of the epoch, and checkpoints of all ranks."""

from typing import Any

from torch.nn.parallel import DistributedDataParallel

from ols.losses import LabelLoss

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError("ols.integrations.lightning needs Lightning: pip install lightning") from error


class LabelLossCallback(Callback):
    """Ends the epoch of label losses, logs their diagnostics and keeps their state in Lightning's checkpoints.

    An epoch ends at its last training batch: before the validation, and before any checkpoint. Lightning resumes a
    checkpoint of the last batch (`every_n_train_steps`) without calling `on_train_epoch_end` for it, and one of the
    validation after it (`save_on_train_epoch_end=False`) with calling it; `on_train_epoch_end` therefore ends only
    epochs that were cut short. A checkpoint inside an epoch holds what all ranks collected.

    A loss may be an attribute of the LightningModule: DistributedDataParallel is told to leave its buffers alone, whose
    broadcast at every forward would overwrite what the other ranks collected.

    Args:
        loss: The loss, where it is not an attribute of the LightningModule; None for all that are.

    Raises:
        ValueError: No loss was given, and the LightningModule has none when `fit` begins.
    """

    def __init__(self, loss: LabelLoss | None = None):
        self.loss = loss
        self.step_ended = -1  # the global step of the last end of an epoch
        self._losses: dict[str, LabelLoss] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the losses, and keep their buffers out of the broadcasts of the wrapper that the module will get."""
        inside = {name: module for name, module in pl_module.named_modules() if isinstance(module, LabelLoss)}
        self._losses = inside if self.loss is None else {"": self.loss}
        if stage == "fit" and not self._losses:
            raise ValueError(
                f"{type(pl_module).__name__} has no LabelLoss: make one an attribute of it in __init__, "
                f"or give it to LabelLossCallback(loss)"
            )
        buffers = {f"{name}.{buffer}" for name, loss in inside.items() for buffer, _ in loss.named_buffers()}
        others = getattr(pl_module, "_ddp_params_and_buffers_to_ignore", ())
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(pl_module, [*buffers.union(others)])
        self.step_ended = -1
        for loss in self._losses.values():
            loss.to(pl_module.device).train(stage == "fit")

    def on_train_batch_start(self, *args: Any) -> None:
        """Train with the training loss."""
        self._set_training(True)

    def on_validation_start(self, *args: Any) -> None:
        """Validate with plain cross entropy."""
        self._set_training(False)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """End the epoch after its last batch."""
        if trainer.is_last_batch:
            self._end_epoch(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End an epoch that was cut short."""
        if trainer.global_step != self.step_ended:
            self._end_epoch(trainer, pl_module)

    def on_save_checkpoint(self, *args: Any) -> None:
        """Sum on rank 0 what the ranks collected; what Lightning is about to write are references to these sums."""
        for loss in self._losses.values():
            loss.sum_over_ranks()

    def state_dict(self) -> dict[str, Any]:
        """Return what the LightningModule's own state lacks."""
        return {"step_ended": self.step_ended, "loss": None if self.loss is None else self.loss.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self.step_ended = state_dict["step_ended"]
        if self.loss is not None:
            self.loss.load_state_dict(state_dict["loss"])

    def _set_training(self, training: bool) -> None:
        for loss in self._losses.values():
            loss.train(training)

    def _end_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step_ended = trainer.global_step
        for name, loss in self._losses.items():
            prefix = f"{name}/" if len(self._losses) > 1 else ""
            diagnostics = {prefix + tag: value for tag, value in loss.end_epoch().items()}
            pl_module.log_dict(diagnostics, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
