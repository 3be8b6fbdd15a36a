import math

import pytest
from conftest import build_loaders_of
from torch import nn

from ols.evaluation.evaluate import Evaluation
from ols.evaluation.report.console import describe_cost, describe_data, result_table
from ols.tasks import build_task


@pytest.fixture
def loaders(tree):
    tree.rows["val"] = [row for row in tree.rows["val"] if row[1] not in ("ct-b", "us-a")]
    tree.write_csvs()
    return build_loaders_of(tree.root, image_size=8, resize_size=10, workers=0, global_batch_size=5)


def test_what_a_split_holds_and_lacks_is_said(loaders):
    train, val, absent, test = (
        " ".join(line.split())
        for line in describe_data(loaders, build_task("multiclass", loaders.classes, loaders.groups)).splitlines()
    )
    assert train == "train 24 images, 4 of 4 classes, 6 to 6 images a class"
    assert val == "val 6 images, 2 of 4 classes, 3 to 3 images a class"
    assert absent == "absent: ct-b, us-a"
    assert test.startswith("test")


def test_the_arithmetic_of_a_run_by_pencil(loaders):
    """A 3 x 3 convolution of one channel to two over 8 x 8 pixels, padded: 2 * 9 * 2 * 64 operations an image."""
    model = nn.Conv2d(1, 2, 3, padding=1)
    text = describe_cost(model, loaders, epochs=1000)
    assert "2.304e-06 GFLOP forward" in text
    assert "0.00 M parameters" in text
    assert "1000 epochs x 4 steps of 5 images = 4,000 steps" in text
    assert "about 1.382e-07 PFLOP" in text


def test_a_table_has_a_row_for_each_evaluation_and_aligned_columns():
    metrics = {"top1": 0.5, "top5": 1.0, "balanced_accuracy": 0.25, "macro_f1": 0.125, "nll": 1.23456, "ece": 0.1}
    metrics |= {"ece_low": 0.05, "ece_high": 0.2, "ece_null": 0.0123, "count": 12.0}
    evaluation = Evaluation(metrics, {})
    task = build_task("multiclass", ["a", "b"], ["CT", "CT"])
    header, first, second = result_table({"val": evaluation, "test_ema": evaluation}, task).splitlines()
    expected = "top1 top5 balanced_accuracy macro_f1 nll ece 95 % interval null images"
    assert " ".join(header.split()) == expected
    expected = "val 50.00% 100.00% 25.00% 12.50% 1.2346 0.1000 0.0500-0.2000 0.0123 12"
    assert " ".join(first.split()) == expected
    assert len(header) == len(first) == len(second)


def test_a_table_of_a_binary_task_says_of_how_many_its_auc_is_and_why_it_has_none():
    metrics = dict.fromkeys(("sensitivity", "specificity", "average_precision", "brier_positive", "ece"), 0.5)
    metrics |= {"ece_low": 0.05, "ece_high": 0.2, "ece_null": 0.0123, "count": 12.0}
    some = metrics | {"auc": 0.75, "auc_low": 0.45, "auc_high": 1.0, "positives": 4.0, "negatives": 8.0}
    none = metrics | dict.fromkeys(("auc", "auc_low", "auc_high"), math.nan) | {"positives": 0.0, "negatives": 12.0}
    task = build_task("binary", ["benign", "malignant"], ["CT", "CT"])
    header, first, second, *remarks = result_table(
        {"val": Evaluation(some, {}), "test": Evaluation(none, {})}, task
    ).splitlines()
    assert header.split()[:5] == ["auc", "95", "%", "interval", "sensitivity"]
    assert first.split()[:4] == ["val", "0.7500", "0.4500-1.0000", "50.00%"]
    assert second.split()[:3] == ["test", "n/a", "n/a-n/a"]
    of = "4 positives (malignant) and 8 negatives (benign)"
    assert remarks == [
        f"val: The AUC is 0.7500 (0.4500 to 1.0000) of {of}, which cannot be told from chance.",
        "test: The AUC is undefined, as there is no positive: 0 positives (malignant) and 12 negatives (benign).",
    ]
