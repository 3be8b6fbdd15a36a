"""What a run leaves behind: its configuration and environment, metrics.jsonl and TensorBoard; main process only."""

import json
import math
import os
import shlex
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ols.files import append_line, write_file, write_record
from ols.runs.folder import RunFolder
from ols.tasks.task import Task
from ols.tracking import dashboard

FORMAT = 1
EVENTS = "events.out.tfevents."  # and the time in seconds, ten digits


class Tracker:
    """Records a run in its folder; the x-axis is images seen.

    Args:
        folder: Folder of the run.
        config: Resolved configuration, as nested dictionaries.
        environment: Versions, device, commit; `command` is the command line.
        task: What is predicted, and which measures say how well.
        enabled: False on every process but the main one, where nothing is written.
        axes: Label of the run on each axis of its study, for TensorBoard's HParams.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        config: dict[str, Any],
        environment: dict[str, Any],
        task: Task,
        enabled: bool,
        axes: Mapping[str, str] | None = None,
    ):
        self.folder, self.config, self.environment, self.enabled = folder, config, environment, enabled
        self.task, self.axes = task, axes
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
        folder, command = self.folder, shlex.join(self.environment["command"])
        config = yaml.safe_dump(self.config, sort_keys=False)
        write_file(folder.config, config)
        write_record(folder.identity_file, folder.identity)
        append_line(folder.environment, json.dumps({"format": FORMAT, "images_seen": images_seen, **self.environment}))
        write_file(folder.command, f"{command}\n")
        records = _continue_records(folder.metrics, metrics_bytes)
        _keep_order(folder.path)
        self._writer = SummaryWriter(str(folder), purge_step=purge_from)
        for record in records:
            if record["images_seen"] >= purge_from:
                values = {tag: math.nan if value is None else value for tag, value in record.items() if "/" in tag}
                _add_scalars(self._writer, values, record["images_seen"])
        if images_seen == 0:
            averaged = self.config.get("train", {}).get("ema_decay") is not None
            dashboard.add_layout(self._writer, self.task, ["val", "val_ema"] if averaged else ["val"])
            self.log_text("run/command", f"    {command}", images_seen=0)
            self.log_text("run/config", f"```\n{config}```", images_seen=0)

    def log(self, values: dict[str, float], *, images_seen: int, epoch: int) -> None:
        """Record scalars, by tags such as `val/top1`."""
        if self._writer is None:
            return
        finite = {tag: value if math.isfinite(value) else None for tag, value in values.items()}  # JSON has no NaN
        record = {"format": FORMAT, "epoch": epoch, "images_seen": images_seen, **finite}
        append_line(self.folder.metrics, json.dumps(record))
        _add_scalars(self._writer, values, images_seen)

    def log_figure(self, tag: str, figure: Figure, *, images_seen: int) -> None:
        """Record a figure."""
        if self._writer is not None:
            self._writer.add_figure(tag, figure, images_seen)

    def flush(self) -> int:
        """Bring to the disk what was recorded, and return how many bytes metrics.jsonl has: see `start`."""
        if self._writer is None:
            return 0
        self._writer.flush()
        with self.folder.metrics.open("a") as file:
            os.fsync(file.fileno())
            return file.tell()

    def log_text(self, tag: str, markdown: str, *, images_seen: int) -> None:
        """Record a text."""
        if self._writer is not None:
            self._writer.add_text(tag, markdown, images_seen)

    def log_reliability(self, prefix: str, reliability: Tensor, *, images_seen: int) -> None:
        """Record a reliability curve `[15, 3]` of count, mean confidence and accuracy; see `ols.tracking.dashboard`."""
        if self._writer is not None:
            dashboard.write_perfect(self.folder.path.parent, prefix)
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
        dashboard.add_hparams(self._writer, self.config, self.task, metrics, axes=self.axes)
        if soft_labels is not None:
            dashboard.add_projector(self._writer, "soft_labels", soft_labels, classes, groups, epoch=epoch)

    def close(self) -> None:
        """Flush and close the logs."""
        if self._writer is not None:
            self._writer.close()


def _keep_order(folder: Path) -> None:
    """Rename earlier event files so that one that is begun now comes after them.

    TensorBoard reads them in the order of the time in their names, and a clock may have been set back, or be another
    machine's.
    """
    now = int(time.time())
    earlier = sorted(folder.glob(f"{EVENTS}*"))
    if not earlier or int(earlier[-1].name[len(EVENTS) :].split(".")[0]) < now:
        return
    for number, path in enumerate(earlier):
        rest = path.name[len(EVENTS) :].partition(".")[2]
        path.rename(path.with_name(f"{EVENTS}{now - len(earlier) + number:010d}.{rest}"))


def _add_scalars(writer: SummaryWriter, values: dict[str, float], images_seen: int) -> None:
    for tag, value in values.items():
        writer.add_scalar(tag, value, images_seen)


def _continue_records(path: Path, length: int) -> list[dict[str, Any]]:
    """Cut metrics.jsonl to the bytes that it had where a run continues, and return its records.

    A file that is shorter than that, or damaged, is set aside with a warning, and the run goes on with what is intact.
    """
    content = path.read_bytes() if path.exists() else b""
    lines, records = content[:length].splitlines(keepends=True), []
    for line in lines:
        try:
            records.append(json.loads(line))
        except ValueError:  # UnicodeDecodeError is one
            break
    if len(content) >= length and len(records) == len(lines):
        with path.open("ab") as file:
            file.truncate(length)
        return records
    aside = path.with_name(f"damaged-{path.name}")
    path.replace(aside)
    write_file(path, b"".join(lines[: len(records)]))
    warnings.warn(
        f"{path} was truncated or altered: its first {len(records)} records are kept; as it was, it is {aside}",
        stacklevel=2,
    )
    return records
