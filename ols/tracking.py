"""What a run leaves behind: its configuration and environment, metrics.jsonl and TensorBoard; main process only."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

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
        self._writer = SummaryWriter(str(self.run_dir), purge_step=images_seen + 1 if images_seen else None)

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

    def close(self) -> None:
        """Flush and close the logs."""
        if self._writer is not None:
            self._writer.close()
