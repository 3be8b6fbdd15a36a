import pytest
import torch
from torch import nn

from ols.data.loaders import build_loaders
from ols.data.transforms import Preprocessing
from ols.evaluation.evaluate import Evaluation
from ols.evaluation.report.console import describe_cost, describe_data, result_table


@pytest.fixture
def loaders(tree):
    tree.rows["val"] = [row for row in tree.rows["val"] if row[1] not in ("ct-b", "us-a")]
    tree.write_csvs()
    return build_loaders(tree.root, preprocessing=Preprocessing(8, 10), global_batch_size=5)


def test_what_a_split_holds_and_lacks_is_said(loaders):
    train, val, absent, test = (" ".join(line.split()) for line in describe_data(loaders).splitlines())
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
    evaluation = Evaluation(metrics, torch.zeros(15, 3), torch.zeros(2, 3))
    header, first, second = result_table({"val": evaluation, "test_ema": evaluation}).splitlines()
    expected = "top1 top5 balanced_accuracy macro_f1 nll ece 95 % interval null images"
    assert " ".join(header.split()) == expected
    expected = "val 50.00% 100.00% 25.00% 12.50% 1.2346 0.1000 0.0500-0.2000 0.0123 12"
    assert " ".join(first.split()) == expected
    assert len(header) == len(first) == len(second)
