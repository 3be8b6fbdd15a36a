"""Two ranks evaluate a split of odd size and agree on flags; each asserts what it finds. Run by `test_two_ranks.py`."""

import math
import sys

import torch
import torch.distributed as dist
from torch.nn import BatchNorm2d

from ols.data.loaders import build_loaders
from ols.data.options import DataOptions
from ols.data.sampling import BatchShare
from ols.evaluation.evaluate import evaluate, predict
from ols.models.build import build_model
from ols.tasks import build_task
from ols.training.agreement import Agreement
from ols.training.ddp import average_batch_statistics


def test_loader(root, rank, world_size):
    options = DataOptions(root=str(root), image_size=32, resize_size=34, workers=0)
    return build_loaders(options, BatchShare(8, rank=rank, world_size=world_size)).test


def main(root):
    torch.manual_seed(0)
    model = build_model("test_resnet", 4)
    loader = test_loader(root, 0, 1)
    task = build_task("multiclass", loader.source.classes, loader.source.groups)
    alone, alone_predicted = evaluate(model, loader, task), predict(model, loader, task, features=True)

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    loader = test_loader(root, rank, 2)
    found, predicted = evaluate(model, loader, task), predict(model, loader, task, features=True)
    assert found.metrics.keys() == alone.metrics.keys()
    for name, value in alone.metrics.items():
        both_missing = math.isnan(value) and math.isnan(found.metrics[name])  # such as `mce` of so few samples
        assert both_missing or abs(found.metrics[name] - value) < 1e-6, name
    assert found.metrics["count"] == 13
    reliability, expected = found.tables["reliability"], alone.tables["reliability"]
    torch.testing.assert_close(reliability, expected, equal_nan=True, atol=1e-6, rtol=0)
    assert torch.equal(found.tables["confusion"], alone.tables["confusion"])
    assert torch.equal(predicted.indices, alone_predicted.indices)
    assert torch.equal(predicted.targets, alone_predicted.targets)
    torch.testing.assert_close(predicted.logits, alone_predicted.logits)
    torch.testing.assert_close(predicted.features, alone_predicted.features)

    norms = [module for module in model.modules() if isinstance(module, BatchNorm2d)]
    assert norms
    for norm in norms:
        norm.running_mean.fill_(rank)
        norm.running_var.fill_(2 + 2 * rank)
    average_batch_statistics(model, 2)
    for norm in norms:
        assert (norm.running_mean == 0.5).all()
        assert (norm.running_var == 3).all()

    flags = [(False, False), (rank == 1, False), (False, rank == 0), (False, False), (False, False)]
    agreement = Agreement(iter(flags).__next__, 2)
    found = [agreement.poll() for _ in flags]
    assert found == [(False, False), (False, False), (True, False), (False, True), (False, False)]
    dist.destroy_process_group()
    print(f"rank {rank} agrees")


if __name__ == "__main__":
    main(sys.argv[1])
