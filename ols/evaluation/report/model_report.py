"""What a report is of: a model, how it came about, and its predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ols.evaluation.predictions import Predictions
from ols.runs.trained_model import Trained


@dataclass(frozen=True)
class ModelReport:
    """The head of a report; what it says is the task's, see `ols.tasks.report.parts.Report`.

    Args:
        name: Name of the run, or of the export.
        task: What was predicted, a name of `ols.tasks.TASKS`.
        architecture: timm's name of the model.
        epoch: Epochs it was trained for, where its run knows.
        seed: Seed of its run.
        loss: Name of its loss, and its options.
        preprocessing: What is done to an image.
        shown: The split that is reported in full.
        conditions: Versions, device, date, commit of the `report` itself and of the `predictions` of each split.
        format: Version of the form of `report.json`.
    """

    name: str
    task: str
    architecture: str
    epoch: int | None
    seed: int | None
    loss: dict[str, Any] | None
    preprocessing: dict[str, Any]
    shown: str
    conditions: dict[str, Any]
    format: int = 1

    @classmethod
    def of(
        cls,
        trained: Trained,
        predictions: Mapping[str, Predictions],
        *,
        splits: Sequence[str],
        conditions: dict[str, Any],
    ) -> "ModelReport":
        """Return the head of a report.

        Args:
            trained: What the predictions are of.
            predictions: Of each split.
            splits: What is reported; the first one is shown in full.
            conditions: Versions, device, date, commit of the report itself.
        """
        return cls(
            name=trained.name,
            task=predictions[splits[0]].task,
            architecture=trained.architecture,
            epoch=trained.epoch,
            seed=trained.config.seed if trained.config else None,
            loss=trained.config.loss if trained.config else None,
            preprocessing=vars(trained.preprocessing),
            shown=splits[0],
            conditions={
                "report": conditions,
                "predictions": {split: predictions[split].conditions for split in splits},
            },
        )

    def facts(self) -> list[str]:
        """Return what the report is of, in a few words each."""
        loss = self.loss or {}
        options = ", ".join(f"{key} {value}" for key, value in loss.items() if key != "name" and value is not None)
        environment = self.conditions["predictions"][self.shown]
        return [
            fact
            for fact in (
                self.architecture,
                self.task,
                loss.get("name", "") + (f" ({options})" if options else ""),
                f"seed {self.seed}" if self.seed is not None else "",
                f"epoch {self.epoch}" if self.epoch is not None else "",
                f"{self.preprocessing['image_size']} px",
                Path(environment["data"]).name,
                environment["device"],
                f"torch {environment['versions']['torch']}",
                environment["date"][:10],
                f"commit {environment['commit'][:7]}" if environment["commit"] else "",
            )
            if fact
        ]
