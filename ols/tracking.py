"""What a run leaves behind: its configuration and environment, metrics.jsonl and TensorBoard; main process only."""

import json
import math
import os
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
        self._metrics = run_dir / "metrics.jsonl"
        self._writer: SummaryWriter | None = None  # None: nothing is written

    def start(self, *, images_seen: int, metrics_bytes: int = 0, purge_from: int = 0) -> None:
        """Write configuration, environment and command, and open the logs.

        Args:
            images_seen: Where the run continues.
            metrics_bytes: What `flush` returned there: later records of an interrupted attempt are dropped.
            purge_from: First place on the x-axis at which TensorBoard forgets that attempt; scalars there that are
                not dropped are written again.
        """
        if not self.enabled:
            return
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._replace("config.yaml", yaml.safe_dump(self.config, sort_keys=False))
        attempts = self.run_dir / "environment.jsonl"
        with attempts.open("a") as file:
            file.write(json.dumps({"format": FORMAT, "images_seen": images_seen, **self.environment}) + "\n")
        self._replace("command.txt", shlex.join(self.environment["command"]) + "\n")
        self._metrics.touch()
        if self._metrics.stat().st_size > metrics_bytes:
            os.truncate(self._metrics, metrics_bytes)
        self._writer = SummaryWriter(str(self.run_dir), purge_step=purge_from)
        for line in self._metrics.read_text().splitlines():
            record = json.loads(line)
            if record["images_seen"] >= purge_from:
                values = {tag: math.nan if value is None else value for tag, value in record.items() if "/" in tag}
                self._add_scalars(values, record["images_seen"])

    def log(self, values: dict[str, float], *, images_seen: int, epoch: int) -> None:
        """Record scalars, by tags such as `val/top1`."""
        if self._writer is None:
            return
        self._add_scalars(values, images_seen)
        finite = {tag: value if math.isfinite(value) else None for tag, value in values.items()}  # JSON has no NaN
        record = {"format": FORMAT, "epoch": epoch, "images_seen": images_seen, **finite}
        try:
            with self._metrics.open("a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:  # Python names the file only where it cannot be opened
            raise OSError(error.errno, f"cannot write: {error.strerror}", str(self._metrics)) from error

    def log_figure(self, tag: str, figure: Figure, *, images_seen: int) -> None:
        """Record a figure."""
        if self._writer is not None:
            self._writer.add_figure(tag, figure, images_seen)

    def flush(self) -> int:
        """Bring to the disk what was recorded, and return how many bytes metrics.jsonl has: see `start`."""
        if self._writer is None:
            return 0
        self._writer.flush()
        with self._metrics.open("a") as file:
            os.fsync(file.fileno())
            return file.tell()

    def close(self) -> None:
        """Flush and close the logs."""
        if self._writer is not None:
            self._writer.close()

    def _replace(self, name: str, contents: str) -> None:
        """Write a file at once or not at all: a kill leaves the one before."""
        temporary = self.run_dir / f".{name}.partial"
        temporary.write_text(contents)
        temporary.replace(self.run_dir / name)

    def _add_scalars(self, values: dict[str, float], images_seen: int) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, images_seen)
