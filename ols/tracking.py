"""What a run leaves behind: its configuration and environment, metrics.jsonl and TensorBoard; main process only."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ols import dashboard

FORMAT = 1


class Tracker:
    """Records a run in its folder; the x-axis is images seen.

    Args:
        run_dir: Folder of the run.
        config: Resolved configuration.
        environment: Versions, device, commit; `command` is the command line.
        enabled: False on every process but the main one, where nothing is written.
    """

    def __init__(self, run_dir: Path, *, config: dict[str, Any], environment: dict[str, Any], enabled: bool):
        self.run_dir, self.config, self.environment, self.enabled = run_dir, config, environment, enabled
        self._writer: SummaryWriter | None = None

    def start(self, *, images_seen: int) -> None:
        """Write configuration, environment and command, and open the logs.

        Args:
            images_seen: Where the run continues: later records of an interrupted attempt are dropped.
        """
        if not self.enabled:
            return
        self.run_dir.mkdir(parents=True, exist_ok=True)
        (self.run_dir / "config.yaml").write_text(yaml.safe_dump(self.config, sort_keys=False))
        attempts = self.run_dir / "environment.jsonl"
        with attempts.open("a") as file:
            file.write(json.dumps({"format": FORMAT, "images_seen": images_seen, **self.environment}) + "\n")
        (self.run_dir / "command.txt").write_text(shlex.join(self.environment["command"]) + "\n")
        metrics = self.run_dir / "metrics.jsonl"
        if metrics.exists():
            kept = [
                line for line in metrics.read_text().splitlines(True) if json.loads(line)["images_seen"] <= images_seen
            ]
            metrics.write_text("".join(kept))
        # TensorBoard forgets nothing at the first such mark it meets, so a run begins with one.
        self._writer = SummaryWriter(str(self.run_dir), purge_step=images_seen + 1 if images_seen else 0)
        averaged = self.config.get("train", {}).get("ema_decay") is not None
        dashboard.add_layout(self._writer, ["val", "val_ema"] if averaged else ["val"])
        self.log_text("run/command", f"    {shlex.join(self.environment['command'])}", images_seen=images_seen)
        config = yaml.safe_dump(self.config, sort_keys=False)
        self.log_text("run/config", f"```\n{config}```", images_seen=images_seen)

    def log(self, values: dict[str, float], *, images_seen: int, epoch: int) -> None:
        """Record scalars, by tags such as `val/top1`."""
        if self._writer is None:
            return
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, images_seen)
        finite = {tag: value if math.isfinite(value) else None for tag, value in values.items()}  # JSON has no NaN
        record = {"format": FORMAT, "epoch": epoch, "images_seen": images_seen, **finite}
        with (self.run_dir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")

    def log_figure(self, tag: str, figure: Figure, *, images_seen: int) -> None:
        """Record a figure."""
        if self._writer is not None:
            self._writer.add_figure(tag, figure, images_seen)

    def log_text(self, tag: str, markdown: str, *, images_seen: int) -> None:
        """Record a text."""
        if self._writer is not None:
            self._writer.add_text(tag, markdown, images_seen)

    def log_reliability(self, prefix: str, reliability: Tensor, *, images_seen: int) -> None:
        """Record a reliability curve `[15, 3]` of count, mean confidence and accuracy; see `ols.dashboard`."""
        if self._writer is not None:
            dashboard.write_perfect(self.run_dir.parent, prefix)
            dashboard.add_reliability(self._writer, prefix, reliability, images_seen=images_seen)

    def log_confusion(
        self, tag: str, confusion: Tensor, classes: list[str], groups: list[str], *, images_seen: int
    ) -> None:
        """Record the most confused pairs of a confusion matrix `[K, K + 1]`, whose last column is no prediction."""
        if self._writer is not None:
            self.log_text(tag, dashboard.confusion_table(confusion, classes, groups), images_seen=images_seen)

    def log_end(
        self,
        metrics: dict[str, float],
        *,
        epoch: int,
        soft_labels: Tensor | None,
        classes: list[str],
        groups: list[str],
    ) -> None:
        """Record what a run comes to: its row among the hyperparameters, and the soft labels as vectors.

        Args:
            metrics: Final metrics by tag; their scalars are recorded.
            epoch: The epoch that was chosen.
            soft_labels: Its soft labels `[K, K]`, where the loss has some.
            classes: Label of each class.
            groups: Modality and anatomy of each class.
        """
        if self._writer is None:
            return
        dashboard.add_hparams(self._writer, self.config, metrics)
        if soft_labels is not None:
            dashboard.add_projector(self._writer, "soft_labels", soft_labels, classes, groups, epoch=epoch)

    def close(self) -> None:
        """Flush and close the logs."""
        if self._writer is not None:
            self._writer.close()
