import numpy as np
import pytest
import torch

from ols.evaluation.predictions import Predictions
from ols.studies.results import CellResult
from ols.tasks import build_task

TASK = build_task("binary", ["no", "yes"], ["x", "x"])


def predict(skill, positive, rows, rng, images=2):
    """Scores of images whose positives lie `2 * skill` above negatives, `images` of each patient."""
    y = positive[rows]
    score = skill * (2 * y - 1) + rng.normal(size=len(rows))
    names = [f"image{row}" for row in rows]
    patients = [f"patient{row // images}" for row in rows]
    logits = torch.tensor(np.stack([-score / 2, score / 2], axis=1))
    return Predictions(
        logits, torch.tensor(y), torch.tensor(rows), names, patients, TASK.classes, TASK.groups, "binary",
        conditions={"device": "cpu", "commit": "abc"},
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_cells(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")

    def make(skills, *, folds=5, seeds=1, images=120, shift=0.0, seed=0, targets=("thyroid",), lrs=("0.01",)):
        """Cells of each source; the second rate is worse by 0.3, and `shift` is how much trainings differ."""
        rng, cells = np.random.default_rng(seed), []
        for target in targets:
            positive = rng.integers(0, 2, images)
            member = np.arange(images) // 2 % folds
            for source, skill in skills.items():
                for lr in lrs:
                    for fold in range(folds):
                        for number in range(seeds):
                            own = skill + shift * rng.normal() - 0.3 * (lr != lrs[0])
                            test = np.flatnonzero(member == fold)
                            val = np.flatnonzero(member == (fold + 1) % folds)
                            labels = {"source": source, "target": target, "lr": lr}
                            labels |= {"fold": str(fold), "seed": str(number)}
                            cells.append(
                                CellResult(
                                    labels=labels,
                                    run_dir=runs / "-".join(labels.values()),
                                    seconds=60.0,
                                    parameters=1000,
                                    val=predict(own, positive, val, rng),
                                    test=predict(own, positive, test, rng),
                                    task=TASK,
                                    measure="auc",
                                    curve=[(1, 0.5), (2, 0.7), (3, 0.8)],
                                    columns={"cka": 0.4},
                                )
                            )
        return cells

    return make
