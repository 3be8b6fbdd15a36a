"""Which start leans on a confounder: heads on frozen features of real images, at each share of confounded positives.

    python benchmarks/confounded_heads.py --data targets.csv --target pneumonia --split folds.json \
        --starts imagenet:weights.pth run:runs/source none --attributes sex view --output confounded

Features are computed once for each start and form of an image; logistic heads then cost seconds a cell, their strength
chosen on validation images that are confounded as in training. An attribute is a confounder by choice of images. What
is done lies in the folder and is not done again.
"""

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ols.config import Config, DataConfig, ModelConfig
from ols.data.confounding import Confounded, draw_carriers
from ols.data.options import CONFOUNDER_STRENGTHS
from ols.data.sampled_confounder import SampledConfounder
from ols.data.sources.table import Table
from ols.data.splits import Folds, load_folds
from ols.data.transforms import EvalTransform, Preprocessing
from ols.evaluation.confounding import FORMS, Arm, ConfoundedRow, confounder_report
from ols.evaluation.draws import BinaryOutputs
from ols.files import written_aside
from ols.metrics.auc import auc
from ols.representations.features import cached_features, weights_checksum
from ols.representations.probe_heads import LOGISTIC, Problem
from ols.runs.environment import environment_record
from ols.runs.export import run_normalization
from ols.runs.run_model import build_run_model
from ols.tasks import build_task_for
from ols.training.machine import seed_everything


def features_of(start: str, table: Table, confounders: list[str], options: argparse.Namespace) -> dict[str, Tensor]:
    """Return features `[N, D]` of all images as they are (`none`) and with each confounder."""
    seed_everything(0)
    data = DataConfig(root=options.data, image_size=options.size, phantoms=False)
    config = Config(task="binary", data=data, model=ModelConfig(name=options.model, start=start))
    config = replace(config, data=data.with_resize_size().with_normalization(*run_normalization(config)))
    preprocessing = Preprocessing.from_options(config.data)
    task, everyone = build_task_for("binary", table, np.arange(len(table)), positive="1"), np.arange(len(table))
    some = torch.stack(
        [torch.from_numpy(EvalTransform(preprocessing)(table.read(i), np.ones(3) / 2)) for i in range(32)]
    )
    model, lines = build_run_model(config, task, images=lambda: some / 255)
    print("\n".join(lines))
    found = {}
    for name in ["none", *confounders]:
        strength = None if name == "none" else CONFOUNDER_STRENGTHS[name][1]
        source = table if strength is None else Confounded(
            table, name, strength, carriers=everyone, preprocessing=preprocessing
        )  # fmt: skip
        found[name] = cached_features(
            Path(options.output, "features"), model, source, [EvalTransform(preprocessing)],
            weights=weights_checksum(model),
        )[0]  # fmt: skip
    return found


def rows_of_cell(
    table: Table, pool: dict, confounder: str, share: float
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return rows of training, validation and each test; a confounded image is its own number and N more."""
    positive = table.targets == 1
    if confounder in CONFOUNDER_STRENGTHS:
        size = len(table)

        def carrying(split: str) -> np.ndarray:
            rows = pool[split]
            return rows + size * np.isin(rows, draw_carriers(table, rows[positive[rows]], share))

        test = pool["test"]
        forms = {"matched": carrying("test"), "clean": test, "inverted": test + size * ~positive[test]}
        return carrying("train"), carrying("val"), forms
    values = table.attributes[confounder]
    attribute = values == np.unique(values[values != ""])[1]

    def sampled(split: str) -> SampledConfounder:
        return SampledConfounder(table, pool[split][values[pool[split]] != ""], positive, attribute)

    forms = dict(zip(FORMS, (sampled("test").draw(part) for part in (share, 0.0, -1.0)), strict=True))
    return sampled("train").draw(share), sampled("val").draw(share), forms


def run_cell(both: Tensor, table: Table, folds: Folds, confounder: str, share: float) -> dict[str, np.ndarray]:
    """Return image, fold and score of each test image `[T, 3]`, by the form of the test."""
    found: dict[str, list[np.ndarray]] = {form: [] for form in FORMS}
    targets = torch.from_numpy(table.targets).repeat(2)
    for number in range(len(folds.folds)):
        train, val, tests = rows_of_cell(table, folds.pools(number), confounder, share)
        wanted = np.concatenate([train, val, *tests.values()])  # no more is answered than is asked for
        problem = Problem(both[wanted], targets[wanted], 2, torch.arange(len(train)), both[:0, None])
        outputs = LOGISTIC.outputs(problem, LOGISTIC.settings).numpy()
        score = outputs[..., 1] - outputs[..., 0]
        ends = np.cumsum([len(train), len(val), *map(len, tests.values())])
        at_val = [auc(one[ends[0] : ends[1]], table.targets[val % len(table)] == 1).value for one in score]
        chosen = score[int(np.argmax(at_val))]
        for form, part in zip(tests, np.split(chosen, ends)[2:], strict=False):
            rows = tests[form]
            found[form].append(np.stack([rows % len(table), np.full(len(rows), number), part], 1))
    return {form: np.concatenate(parts) for form, parts in found.items()}


def write_report(table: Table, confounders: list[str], options: argparse.Namespace) -> None:
    """Measure the scores of all cells; the AUC is the mean of the folds'."""
    folder, lines, parts = Path(options.output), [["confounder", *ConfoundedRow._fields]], []
    for confounder in confounders:
        tests = {}
        for start in options.starts:
            source = start.partition(":")[0]
            for share in options.shares:
                with np.load(cell_path(options, confounder, source, share)) as cell:
                    for form in FORMS:
                        images = cell[form][:, 0].astype(int)
                        tests[Arm(source, share, form)] = BinaryOutputs(
                            cell[form][:, 2],
                            table.targets[images] == 1,
                            np.array([table.sample_group(i) for i in images.tolist()]),
                            [table.sample_id(i) for i in images.tolist()],
                            cell[form][:, 1].astype(int),
                        )
        found = confounder_report(tests)
        lines += [[confounder, *row] for row in found.rows]
        parts.append(f"## {confounder}\n\n{found.markdown()}")
    with written_aside(folder / "heads.csv") as aside, aside.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
    conditions = environment_record(torch.device("cpu"), 1, 1)
    with written_aside(folder / "heads.md") as aside:
        aside.write_text(f"# Heads under a confounder\n\n{conditions}\n\n" + "\n".join(parts))


def cell_path(options: argparse.Namespace, confounder: str, source: str, share: float) -> Path:
    """Return where the scores of a cell lie."""
    return Path(options.output, "cells", f"{confounder}-{source}-{share:g}.npz")


def main() -> None:
    """Compute what is not there yet, and measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="table of targets")
    parser.add_argument("--target", required=True, help="its column of 0 and 1")
    parser.add_argument("--split", required=True, help="file of folds, of recipes/split.py")
    parser.add_argument("--starts", nargs="+", required=True, help="as model.start has them")
    parser.add_argument("--confounders", nargs="*", default=["tag", "low_pass", "noise"])
    parser.add_argument("--attributes", nargs="*", default=[], help="columns of two values")
    parser.add_argument("--shares", nargs="+", type=float, default=[0, 0.2, 0.5, 0.8, 1])
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(options.data, targets=[options.target])
    folds = load_folds(Path(options.split)).aligned_with(table)
    begun = time.perf_counter()
    for start in options.starts:
        source, both = start.partition(":")[0], None
        for confounder in [*options.confounders, *options.attributes]:
            for share in options.shares:
                path = cell_path(options, confounder, source, share)
                if path.exists():
                    continue
                both = both or features_of(start, table, options.confounders, options)
                confounded = both.get(confounder, both["none"])
                pair = torch.cat([both["none"], confounded])
                cell = run_cell(pair, table, folds, confounder, share)
                with written_aside(path) as aside, aside.open("wb") as file:
                    np.savez(file, **cell)
                print(f"{path.name}: {time.perf_counter() - begun:.0f} s since the start", flush=True)
    write_report(table, [*options.confounders, *options.attributes], options)


if __name__ == "__main__":
    main()
