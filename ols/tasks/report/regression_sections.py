"""A report of numbers, such as ages."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ols.figures import predicted_against_true, residuals_against_predicted
from ols.metrics.measures import find_measure
from ols.tasks.report.intervals import interval_note
from ols.tasks.report.measured import SplitNumbers, measure_splits
from ols.tasks.report.parts import (
    Card,
    Cell,
    Column,
    Drawing,
    Drawings,
    Exhibit,
    Gallery,
    Predicted,
    Report,
    Row,
    Section,
    Table,
    Text,
)
from ols.tasks.report.wording import interval_text, measure_card, measure_rows, number
from ols.tasks.task import Task

ERRORS_SHOWN = 12
PARTS = 5  # of the targets, equally many images each


def report_numbers(
    task: Task, predictions: Mapping[str, Predicted], splits: Sequence[str], predicted: NDArray, *, mean: float
) -> Report:
    """Return the report of a regression task.

    Args:
        task: What was predicted.
        predictions: Of each split.
        splits: What is reported; the first one is shown in full.
        predicted: Of the split that is shown, in the target's unit `[N]`; NaN where the output is no number.
        mean: Of the training targets.
    """
    numbers = measure_splits(task, predictions, splits)
    shown, answers, values = numbers[splits[0]], predictions[splits[0]], numbers[splits[0]].values
    true, name = answers.targets.double().numpy(), task.classes[0]
    of_mean = f"of predicting {number(mean)} for every image"
    difference = f"{number(values['mae_less_of_mean_low'])} to {number(values['mae_less_of_mean_high'])}"
    return Report(
        subject=f"a model of {name}",
        cards=[
            measure_card("mae", values, split=splits[0], images=shown.images),
            Card("MAE of the training mean", number(values["mae_of_mean"]), of_mean),
            Card("R2", number(values["r2"]), interval_text("r2", values)),
            Card("RMSE", number(values["rmse"]), interval_text("rmse", values)),
        ],
        sentences=[*task.remarks(values), *_verdict(values), *shown.nonfinite()],
        note=interval_note(answers, [find_measure(measure).label for measure in ("mae", "rmse", "r2", "bias")]),
        images={split: found.images for split, found in numbers.items()},
        tones=("",),
        measures=measure_rows(task.report, [found.values for found in numbers.values()]),
        measures_note=f"In the unit of {name}. The arrow says what is better.",
        sections=[
            _agreement(true, predicted, name=name, mean=mean),
            _baselines(shown, true, predicted, mean=mean, difference=difference),
            _by_target(true, predicted, name=name),
            _errors(answers, true, predicted),
        ],
        record={"shown": splits[0], "splits": {split: found.values for split, found in numbers.items()}},
    )


def _verdict(values: Mapping[str, float | None]) -> list[str]:
    low, high = values["mae_less_of_mean_low"], values["mae_less_of_mean_high"]
    if low is None or high is None:
        return []
    verdict = "is better than" if high < 0 else "is worse than" if low > 0 else "cannot be told from"
    return [f"The model {verdict} the training mean: its MAE less that of the mean lies from {low:.4g} to {high:.4g}."]


def _agreement(true: NDArray, predicted: NDArray, *, name: str, mean: float) -> Section:
    has = ~np.isnan(predicted)
    drawings = [
        Drawing(
            predicted_against_true(true[has], predicted[has], mean=mean, name=name),
            "Predictions against targets",
            "A point an image. A model that knows nothing predicts the training mean for all.",
        ),
        Drawing(
            residuals_against_predicted(true[has], predicted[has], name=name),
            "Residuals against predictions",
            "Prediction less target. Above 0 the prediction is too high.",
        ),
    ]
    return Section("agreement", "Predictions and targets", [Drawings(drawings)])


def _baselines(shown: SplitNumbers, true: NDArray, predicted: NDArray, *, mean: float, difference: str) -> Section:
    has, values = ~np.isnan(predicted), shown.values
    rows = [
        Row(
            [
                Cell("the model"),
                *(Cell(number(values[name]), below=[interval_text(name, values)]) for name in ("mae", "rmse", "r2")),
            ]
        ),
        Row([Cell("MAE of the model less that of the training mean"), Cell(below=[difference]), Cell(), Cell()]),
    ]
    if has.any():
        own = float(true[has].mean())
        for name, value in (("the training mean", mean), ("the mean of these images", own)):
            error, variance = true[has] - value, true[has].var()
            r2 = 1 - (error**2).mean() / variance if variance > 0 else None
            cells = [np.abs(error).mean(), np.sqrt((error**2).mean()), r2]
            rows.insert(-1, Row([Cell(f"{name}, {number(value)}"), *(Cell(number(cell)) for cell in cells)]))
    columns = [Column("predicted"), *(Column(find_measure(name).label, True) for name in ("mae", "rmse", "r2"))]
    introduction = "A model is worth what it adds to the mean of the training images, which needs no image."
    return Section("baselines", "Against the mean", [Text(introduction, "introduction"), Table(columns, rows)])


def _by_target(true: NDArray, predicted: NDArray, *, name: str) -> Section:
    has = np.flatnonzero(~np.isnan(predicted))
    rows = []
    for part in np.array_split(has[np.argsort(true[has], kind="stable")], PARTS):
        if len(part):
            error = predicted[part] - true[part]
            cells = [number(true[part].min()), number(true[part].max()), f"{len(part):,}", number(np.abs(error).mean())]
            rows.append(Row([Cell(cell) for cell in [*cells, number(error.mean())]]))
    titles = (f"{name} from", "to", "images", "MAE", "bias")
    introduction = (
        "By target, equally many images each. Shrinking to the mean makes it too high below and too low above."
    )
    columns = [Column(title, True) for title in titles]
    return Section("targets", "By target", [Text(introduction, "introduction"), Table(columns, rows)])


def _errors(answers: Predicted, true: NDArray, predicted: NDArray) -> Section:
    error = np.abs(predicted - true)
    worst = [i for i in np.argsort(-error, kind="stable").tolist() if not np.isnan(error[i])]  # NaN comes last
    exhibits = [
        Exhibit(
            int(answers.indices[i]),
            answers.sample_ids[i],
            f"{number(predicted[i], 2)}, is {number(true[i], 2)}",
            [[(number(predicted[i], 2), "strong"), ("is", "soft"), (number(true[i], 2), "")]],
        )
        for i in worst[:ERRORS_SHOWN]
    ]
    introduction = "The images of the largest errors. Some of them may be errors of the targets."
    return Section("errors", "Largest errors", [Text(introduction, "introduction"), Gallery(exhibits)])
