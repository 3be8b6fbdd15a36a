"""What the cells of a study came to, read from their folders."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ols.config import ProbeConfig
from ols.evaluation.confounding import FORMS
from ols.evaluation.localised_images import LOCALISED, LocalisedImages
from ols.evaluation.predictions import Predictions, load_predictions
from ols.files import read_record
from ols.runs.export import load_description
from ols.runs.folder import RunFolder
from ols.studies.grid import Run
from ols.studies.jobs import read_attempts, total_seconds
from ols.tasks import find_task
from ols.tasks.task import Task


@dataclass(frozen=True)
class CellResult:
    """What a cell of a study came to.

    Args:
        labels: Label of its value, by the name of the axis, in the order of the axes.
        run_dir: Folder of its run.
        seconds: Wall time of all attempts; None where it is not known.
        parameters: Weights and biases of the network.
        val: Predictions of the validation images by the exported model.
        test: Predictions of the test images.
        task: What the outputs mean.
        measure: Name of the measure that chose on validation, `train.select_by`, in which cells are compared.
        curve: Epoch, and that measure on validation, one by one.
        columns: Further numbers that the study asked for, by name.
        forms: Predictions of the test images in each form of a confounder's test, where they were asked for.
        localised: How well its maps hit each marked test image, where that was asked for.
    """

    labels: dict[str, str]
    run_dir: Path
    seconds: float | None
    parameters: int
    val: Predictions
    test: Predictions
    task: Task
    measure: str
    curve: list[tuple[int, float]]
    columns: dict[str, float]
    forms: dict[str, Predictions] = field(default_factory=dict)
    localised: LocalisedImages | None = None

    def value(self, split: Predictions) -> float:
        """Return its measure of a split's predictions; NaN where it is undefined."""
        return self.task.value(split.logits, split.targets, self.measure)


def load_cells(runs: Sequence[Run], logs: Path) -> list[CellResult]:
    """Return what those among these came to that are complete and whose predictions are there, in their order.

    Args:
        runs: Runs of a study.
        logs: Folder with the logs of their jobs.

    Raises:
        DamagedFileError: Predictions are damaged; the message names the file.
    """
    there = [run for run in runs if run.is_complete and all(path.is_file() for path in _predictions(run))]
    return [_load(run, logs) for run in there]


def _predictions(run: Run) -> list[Path]:
    return [RunFolder(run.run_dir).predictions(split) for split in ("val", "test")]


def _load(run: Run, logs: Path) -> CellResult:
    folder = RunFolder(run.run_dir)
    val, test = (load_predictions(path, features=False) for path in _predictions(run))
    if isinstance(run.config, ProbeConfig):
        probed = read_record(folder.probe)
        state, parameters = probed["task_state"], probed["parameters"]
    else:
        state = load_description(folder.export)["ols"]["task_state"]
        parameters = _count_parameters(folder.export / "model.safetensors")
    task = find_task(test.task).from_outputs(test.classes, test.groups, **state)
    measure = task.selecting(run.own_config.train.select_by)
    return CellResult(
        labels=run.cell.labels,
        run_dir=run.run_dir,
        seconds=total_seconds(read_attempts(logs, run.run_dir.name)),
        parameters=parameters,
        val=val,
        test=test,
        task=task,
        measure=measure,
        curve=_read_curve(folder.metrics, f"val/{measure}"),
        columns=read_record(folder.columns)["columns"] if folder.columns.is_file() else {},
        forms={
            form: load_predictions(path, features=False)
            for form in FORMS
            if (path := folder.predictions("test", form)).is_file()
        },
        localised=LocalisedImages.read(file) if (file := folder.evaluation / LOCALISED).is_file() else None,
    )


def _count_parameters(weights: Path) -> int:
    """Return the number of weights and biases, without the statistics of batch norm."""
    with safe_open(weights, "pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  # no mapping
    counts = {name: math.prod(shape) for name, shape in shapes.items()}
    return sum(
        count for name, count in counts.items() if not name.endswith(("running_mean", "running_var", "_tracked"))
    )


def _read_curve(metrics: Path, tag: str) -> list[tuple[int, float]]:
    """Return a measure at the end of each epoch; a line that a kill has cut off is passed over."""
    curve: dict[int, float] = {}
    for line in metrics.read_text().splitlines() if metrics.is_file() else []:
        try:
            record: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        if tag in record:
            curve[record["epoch"]] = record[tag]
    return sorted(curve.items())
