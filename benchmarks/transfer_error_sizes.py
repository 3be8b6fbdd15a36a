"""How large each error is, from what the cells of `transfer_errors.py` predict: no model is needed.

    python benchmarks/transfer_error_sizes.py --output runs/transfer_errors --results benchmarks/results/transfer_errors

Writes `summary.json`, `table.md`, `forest.png`, and `predictions.csv.gz`, from which all of them can be computed: the
score of every image in every cell; its patient and label are in the table. A difference is the mean, over folds and
seeds, of wrong less right within a fold. One interval is over other patients, who are drawn anew for all folds and
seeds together; the other over other trainings: that of the t-test which knows that training folds overlap (Nadeau and
Bengio 2003). A cell that was chosen stays chosen in every draw.
"""

import argparse
import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from ols.data.splits import load_folds
from ols.evaluation.predictions import load_predictions
from ols.files import write_file, write_record
from ols.metrics.auc import auc_of_counts
from ols.metrics.resampling import bootstrap_interval, mean_of_counts, resample
from ols.models.build import build_model
from ols.models.freezing import KERAS_LAST_10, Freezing
from ols.models.options import FreezeOptions
from ols.runs.folder import RunFolder

ROOT = Path(__file__).parents[1]


def load_scores(path: Path) -> tuple[NDArray, NDArray, list[str]]:
    """Return the score of the second class, whether an image is of it, and the names of the images, `[N]` each."""
    predictions = load_predictions(path)
    score = (predictions.logits[:, 1] - predictions.logits[:, 0]).double().numpy()
    return score, (predictions.targets == 1).numpy(), predictions.sample_ids


def recall(score: NDArray, positive: NDArray, counts: NDArray) -> NDArray:
    """Return the share of positives that are found at probability 1/2."""
    return mean_of_counts(np.where(positive, score > 0, np.nan))(counts)


def precision(score: NDArray, positive: NDArray, counts: NDArray) -> NDArray:
    """Return the share of positives among those found at probability 1/2."""
    return mean_of_counts(np.where(score > 0, positive, np.nan))(counts)


def flattened_auc(score: NDArray, positive: NDArray, counts: NDArray) -> NDArray:
    """Return the AUC of both columns of the one-hot targets in one row."""
    both = np.concatenate([positive, ~positive])
    return auc_of_counts(np.concatenate([score, -score]), both, np.concatenate([counts, counts], axis=1))


Measure = Callable[[NDArray, NDArray, NDArray], NDArray]


class Mistake(NamedTuple):
    """What is compared: arms, or `val` and `test` for the cell of the grid with the largest AUC there."""

    wrong: str
    right: str = "right"
    wrong_measure: Measure = auc_of_counts
    right_measure: Measure = auc_of_counts


GRID_ARMS = ("right", "lower_lr", "higher_lr", "right_frozen")
MISTAKES = {
    "folds by image, not by patient": Mistake("folds_by_image"),
    "weights carried over from fold to fold": Mistake("weights_carried_over"),
    "nothing loaded (`strict=False`)": Mistake("nothing_loaded"),
    "frozen batch norm in train mode": Mistake("frozen_batch_norm_in_train_mode", "right_frozen"),
    "inputs 255 times too small": Mistake("inputs_255_times_too_small"),
    "inputs 255 times too small, trunk frozen": Mistake("frozen_inputs_255_times_too_small", "right_frozen"),
    "inputs 255 times too large": Mistake("inputs_255_times_too_large"),
    "inputs 255 times too large, trunk frozen": Mistake("frozen_inputs_255_times_too_large", "right_frozen"),
    "another source's mean and sd": Mistake("scaling_of_another_source"),
    "another source's mean and sd, trunk frozen": Mistake("frozen_scaling_of_another_source", "right_frozen"),
    "best of four cells chosen on test": Mistake("test", "val"),
    "AUC of the flattened one-hot matrix": Mistake("right", wrong_measure=flattened_auc),
    "shares that shrink the test set": Mistake("shares_that_shrink_the_test_set", "right_share"),
    "precision reported as recall": Mistake("right", wrong_measure=precision, right_measure=recall),
}
RESAMPLES = 2000


class Results:
    """Cells of a table, and what they predict.

    Args:
        output: Folder of the table.
        cells: Their lines.
        commands: A line of each command that trained some of them, with its environment.
    """

    def __init__(self, output: Path, cells: list[dict[str, Any]], commands: Sequence[dict[str, Any]] = ()):
        self.output, self.cells = output, {(cell["arm"], cell["seed"], cell["fold"]): cell for cell in cells}
        self.environments = [
            {key: value for key, value in one["environment"].items() if key != "command"} for one in commands
        ]
        folds = load_folds(output / "folds.json")
        self.patient_names, numbers = np.unique(folds.groups, return_inverse=True)
        self.patient_of = dict(zip(folds.ids, numbers.tolist(), strict=True))

    def arm_of(self, arm: str, seed: int, fold: int) -> str | None:
        """Return the arm, or the one of the grid that is best on a split; None where a cell is missing."""
        if arm not in ("val", "test"):
            return arm if (arm, seed, fold) in self.cells else None
        if any((name, seed, fold) not in self.cells for name in GRID_ARMS):
            return None
        return max(GRID_ARMS, key=lambda name: self.cells[name, seed, fold][f"{arm}_auc"] or 0)

    def predictions(self, arm: str, seed: int, fold: int, split: str) -> Path:
        """Return the file of what a cell predicts of a split."""
        return RunFolder(self.output / "runs" / arm / f"seed{seed}" / f"fold{fold}").predictions(split)

    def statistic(self, arm: str, seed: int, fold: int, measure: Measure) -> Callable[[NDArray], NDArray]:
        """Return the measure of a cell's test images, from how often each patient counts `[R, P]`."""
        score, positive, names = load_scores(self.predictions(arm, seed, fold, "test"))
        patients = np.array([self.patient_of[name] for name in names])
        return lambda counts: measure(score, positive, counts[:, patients])

    def compare(self, mistake: Mistake, study: dict[str, Any]) -> dict[str, Any] | None:
        """Return wrong less right over all pairs of seed and fold: over other patients, and over other trainings."""
        wrong, right = [], []
        for seed in study["seeds"]:
            for fold in range(study["folds"]):
                one, other = (self.arm_of(arm, seed, fold) for arm in (mistake.wrong, mistake.right))
                if one and other:
                    wrong.append(self.statistic(one, seed, fold, mistake.wrong_measure))
                    right.append(self.statistic(other, seed, fold, mistake.right_measure))
        if not wrong:
            return None
        whole = np.ones((1, len(self.patient_names)))
        wrongs, rights = (np.array([part(whole)[0] for part in parts]) for parts in (wrong, right))

        def difference(counts: NDArray) -> NDArray:
            return np.mean([one(counts) - other(counts) for one, other in zip(wrong, right, strict=True)], axis=0)

        value = float(np.mean(wrongs - rights))
        drawn = resample(difference, whole.size, resamples=RESAMPLES, seed=0)
        patients = bootstrap_interval(value, drawn[~np.isnan(drawn)])
        return {
            "wrong": float(wrongs.mean()),
            "right": float(rights.mean()),
            "difference": value,
            "over_patients": [float(end) for end in patients],
            "over_trainings": over_trainings(wrongs - rights, test_share=1 / study["folds"]),
            "pairs": len(wrong),
            "planned": len(study["seeds"]) * study["folds"],
        }


def over_trainings(differences: NDArray, *, test_share: float) -> list[float] | None:
    """Return the 95 % interval that belongs to `corrected_t_test`; None of a single difference."""
    if (n := len(differences)) < 2:
        return None
    variance = (1 / n + test_share / (1 - test_share)) * differences.var(ddof=1)
    half = float(stats.t.ppf(0.975, n - 1) * np.sqrt(variance))
    return [float(differences.mean()) - half, float(differences.mean()) + half]


def top_10_layers() -> dict[str, int]:
    """Return how many parameters of the trunk 'the last ten layers' of Keras are in each of the four nets."""
    found = {}
    for name in KERAS_LAST_10:
        model = build_model(name, 2, 3)
        Freezing(model, FreezeOptions(scheme="head"))
        head = sum(value.numel() for value in model.parameters() if value.requires_grad)
        Freezing(model, FreezeOptions(scheme="keras_last_10"))
        found[name] = sum(value.numel() for value in model.parameters() if value.requires_grad) - head
    return found


def predictions_csv(output: Path, study: dict[str, Any]) -> bytes:
    """Return a line for each image of validation and test of each cell, compressed: the same bytes every time.

    Images are numbered as the lines of their table. Patients and labels are there of phantoms only; those of another
    table are not ours to give away.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("table", "arm", "seed", "fold", "split", "image", "patient", "positive", "score"))
    for table, own in study.items():
        results = load_results(output / table)
        image_of = {name: number for number, name in enumerate(results.patient_of)}
        for cell in sorted(results.cells):
            for split in ("val", "test"):
                for score, positive, name in zip(*load_scores(results.predictions(*cell, split)), strict=True):
                    known = (results.patient_of[name], int(positive)) if "lesions" in own else (None, None)
                    lines.writerow((table, *cell, split, image_of[name], *known, f"{score:.9g}"))
    return gzip.compress(text.getvalue().encode(), mtime=0)


def load_results(output: Path) -> Results:
    """Return the cells of a table that are there."""
    lines = [json.loads(line) for line in (output / "cells.jsonl").read_text().splitlines()]
    return Results(output, [line for line in lines if "arm" in line], [line for line in lines if "arm" not in line])


def write_summary(output: Path, study: dict[str, Any], folder: Path) -> None:
    """Write into a folder what the cells that are there say, and what they predict."""
    record: dict[str, Any] = {"top_10_layers": top_10_layers(), "tables": {}}
    for name, own in study.items():
        results = load_results(output / name)
        found = {mistake: results.compare(asked, own) for mistake, asked in MISTAKES.items()}
        arms: dict[str, list[dict]] = {}
        for cell in results.cells.values():
            arms.setdefault(cell["arm"], []).append(cell)
        record["tables"][name] = {
            "mistakes": {mistake: one for mistake, one in found.items() if one},
            "arms": {
                arm: {key: float(np.mean([cell[key] for cell in cells])) for key in ("test_auc", "seconds")}
                for arm, cells in arms.items()
            },
            "cells": len(results.cells),
            "environments": results.environments,
        }
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / "summary.json", record)
    write_file(folder / "table.md", "\n\n".join(map(markdown, record["tables"], record["tables"].values())) + "\n")
    draw_forest(record["tables"]).savefig(folder / "forest.png", dpi=110, metadata={"Software": None})
    (folder / "predictions.csv.gz").write_bytes(predictions_csv(output, study))


def markdown(name: str, found: dict[str, Any]) -> str:
    """Return a table's rows, in points (hundredths)."""

    def interval(ends: list[float] | None) -> str:
        return "" if ends is None else f"{100 * ends[0]:+.1f} to {100 * ends[1]:+.1f}"

    rows = [
        f"| {mistake} | {one['right']:.3f} | {one['wrong']:.3f} | {100 * one['difference']:+.1f} | "
        f"{interval(one['over_patients'])} | {interval(one['over_trainings'])} | {one['pairs']} of {one['planned']} |"
        for mistake, one in found["mistakes"].items()
    ]
    head = "| mistake | right | wrong | points | other patients | other trainings | pairs |"
    return "\n".join([f"{name}: {found['cells']} cells", "", head, "|---|" + "--:|" * 6, *rows])


def draw_forest(tables: dict[str, Any]) -> Figure:
    """Draw a row for each mistake: the thick line over other patients, the thin one over other trainings."""
    figure = Figure(figsize=(5 + 3.2 * len(tables), 0.4 * len(MISTAKES) + 1.2), layout="constrained")
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axes, (name, found) in zip(panels, tables.items(), strict=True):
        axes.axvline(0, color="0.6", linewidth=1)
        for row, mistake in enumerate(MISTAKES):
            if one := found["mistakes"].get(mistake):
                for ends, width in ((one["over_trainings"], 1), (one["over_patients"], 3)):
                    if ends:
                        axes.plot([100 * end for end in ends], [row, row], color="#4c78a8", linewidth=width)
                axes.plot(100 * one["difference"], row, "o", color="0.15", markersize=4)
        axes.set(title=name, xlabel="wrong less right, points of AUC (last row: of recall)")
        axes.set_yticks(range(len(MISTAKES)), [mistake.replace("`", "") for mistake in MISTAKES])
    panels[0].invert_yaxis()
    return figure


def main() -> None:
    """Sum up the cells that are there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", type=Path, default=ROOT / "recipes" / "configs" / "studies" / "errors.yaml")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "transfer_errors")
    parser.add_argument("--results", type=Path, help="folder to write to, by default that of the cells")
    args = parser.parse_args()
    write_summary(args.output, yaml.safe_load(args.study.read_text()), args.results or args.output)


if __name__ == "__main__":
    main()
