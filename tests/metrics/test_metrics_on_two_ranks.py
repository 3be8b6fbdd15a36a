"""A composed metric merges its states and those of its parts, of processes with unequal shares, one of them empty."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from metrics.cases import random_case

from ols.metrics.binary import BinaryMetrics
from ols.metrics.classification import ClassificationMetrics

SHARES = ([slice(0, 40), slice(40, 133)], [slice(0, 133), slice(133, 133)])


def _results(metric) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


def _rank(rank: int, rendezvous: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    found = []
    for num_classes, build in ((7, lambda: ClassificationMetrics(7, classwise=True)), (2, BinaryMetrics)):
        logits, _ = random_case(133, num_classes)
        target = torch.arange(133) % num_classes
        for shares in SHARES:
            metric = build()
            if len(target[shares[rank]]):
                metric.update(logits[shares[rank]], target[shares[rank]])
            results = _results(metric)
            found.append((results, metric.tables()))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_have_the_results_of_one(tmp_path):
    mp.spawn(_rank, (str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert [len(found) for found in ranks] == [4, 4]
    for i in range(4):
        num_classes = 7 if i < 2 else 2
        alone = ClassificationMetrics(7, classwise=True) if i < 2 else BinaryMetrics()
        alone.update(random_case(133, num_classes)[0], torch.arange(133) % num_classes)
        for found in ranks:
            results, tables = found[i]
            expected = torch.tensor(list(_results(alone).values()))
            torch.testing.assert_close(torch.tensor(list(results.values())), expected, equal_nan=True)
            assert results.keys() == _results(alone).keys()
            for name, table in alone.tables().items():
                torch.testing.assert_close(tables[name], table, equal_nan=True)
            assert tables["confusion"].sum() == 133
