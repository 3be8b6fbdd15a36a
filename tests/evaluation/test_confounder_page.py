"""Tests over folds as a page: against scikit-learn within each fold, and draws of a perfectly calibrated model."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ols.evaluation.confounder_page import fold_tests, write_confounder_page
from ols.evaluation.confounding import Arm, confounder_report
from ols.evaluation.draws import BinaryOutputs
from ols.evaluation.folds import OutOfFold
from ols.evaluation.predictions import Predictions
from ols.tasks import build_task

TASK = build_task("binary", ["no", "yes"], ["", ""])


def _found(leaning, *, sizes=(60, 90), scale=(1.0, 20.0), seed=0):
    rng, folds, start = np.random.default_rng(seed), [], 0
    for size, factor in zip(sizes, scale, strict=True):
        yes, names = np.arange(size) % 2, [f"{i}.png" for i in range(start, start + size)]
        score = factor * (rng.normal(size=size) + leaning * (yes - 0.5))
        logits, indices = torch.tensor(np.stack([0 * score, score], 1)), torch.arange(start, start + size)
        folds.append(Predictions(logits, torch.tensor(yes), indices, names, names, ["no", "yes"], ["", ""], "binary"))
        start += size
    return OutOfFold(folds, [TASK, TASK])


def test_the_auc_of_folds_is_their_mean_and_the_rest_is_of_all_images_together():
    found = _found(1.5)
    (outputs,) = fold_tests({("a", 0.5): {"clean": found}}, "yes").values()
    by_fold = [roc_auc_score(fold.targets, fold.logits[:, 1]) for fold in found.folds]
    order = np.random.default_rng(1).permutation(150)
    shuffled = outputs.in_order_of([outputs.sample_ids[i] for i in order])
    for one in (outputs, shuffled):
        assert one.measures()["auc"](np.ones((1, 150)))[0] == pytest.approx(np.mean(by_fold))
    confidence = torch.cat([fold.logits.softmax(1).amax(1) for fold in found.folds])
    assert outputs.measures()["confidence"](np.ones((1, 150)))[0] == pytest.approx(confidence.mean().item())


def test_outputs_for_a_fixed_test_are_put_in_order_fold_by_fold():
    first = _found(1.5, sizes=(40,), scale=(1.0,)).folds[0]
    found = OutOfFold([first, replace(first, logits=2 * first.logits + torch.tensor([0.0, 1.0]))], [TASK, TASK])
    outputs = BinaryOutputs.of_folds(found, "yes")
    names = sorted(outputs.sample_ids)
    ordered = outputs.in_order_of(names)
    assert ordered.sample_ids == names
    assert ordered.folds.tolist() == [0, 1] * 40
    assert ordered.score[1::2] == pytest.approx(2 * ordered.score[::2] + 1)
    assert ordered.measures()["auc"](np.ones((1, 80)))[0] == pytest.approx(
        roc_auc_score(first.targets, first.logits[:, 1])
    )
    with pytest.raises(ValueError, match="predictions of other images: 80 and 40"):
        outputs.in_order_of(first.sample_ids)


def test_the_null_of_an_ece_is_what_labels_drawn_with_the_confidences_show():
    (outputs,) = fold_tests({("a", 0.5): {"clean": _found(1.5, scale=(1.0, 1.0))}}, "yes").values()
    rng, eces = np.random.default_rng(2), []
    for _ in range(300):
        drawn = replace(outputs, positive=rng.random(150) < 1 / (1 + np.exp(-outputs.score)))
        eces.append(drawn.measures()["ece"](np.ones((1, 150)))[0])
    assert outputs.ece_null() == pytest.approx(np.mean(eces), rel=0.05)


@pytest.mark.slow  # draws
def test_a_page_says_where_a_source_breaks_and_how_sure_it_is_then(tmp_path):
    leanings = {0.0: 2.0, 0.5: 0.5, 1.0: -3.0}
    trainings = {
        ("cheats", share): {form: _found(leaning if form == "inverted" else 2) for form in ("clean", "inverted")}
        for share, leaning in leanings.items()
    }
    report = confounder_report(fold_tests(trainings, "yes"), resamples=200)
    write_confounder_page(tmp_path, report, title="A tag", conditions="Made up.")
    page = (tmp_path / "confounder.md").read_text()
    (breaking,) = report.breaking
    assert 0.5 < breaking.share < 1
    assert f"| cheats | {breaking.share:.0%} (" in page
    with (tmp_path / "confounder.csv").open() as file:
        rows = {(row["share"], row["form"], row["measure"]): row for row in csv.DictReader(file)}
    assert len(rows) == 3 * 2 * 4
    assert float(rows["1.0", "inverted", "confidence_less_accuracy"]["low"]) > 0.4
    assert float(rows["1.0", "clean", "ece"]["null"]) > 0
    assert rows["1.0", "clean", "auc"]["null"] == ""
    assert (tmp_path / "confounder.png").stat().st_size > 10_000


def test_matched_tests_of_two_shares_may_be_of_other_images_and_inverted_ones_may_not():
    one, other = _found(1.0), _found(1.0, sizes=(50, 70))
    trainings = {("a", 0.2): {"matched": one}, ("a", 0.5): {"matched": other}}
    assert len(confounder_report(fold_tests(trainings, "yes"), resamples=20).rows) == 8
    trainings = {("a", 0.2): {"inverted": one}, ("a", 0.5): {"inverted": other}}
    with pytest.raises(ValueError, match="a at 50%, inverted: predictions of other images"):
        confounder_report(fold_tests(trainings, "yes"))
    assert Arm("a", 0.2, "inverted") in fold_tests(trainings, "yes")
