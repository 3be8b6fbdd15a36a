"""One process against two, through the recipe, as a user launches it."""

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, SPLITS, Tree
from safetensors.torch import load_file

LAUNCHED = Path(__file__).parents[1] / "launched"
STEPS, GLOBAL_BATCH, EPOCHS = 6, 12, 2


def _imbalanced(root: Path) -> Tree:
    """16 to 24 training images of each class, and 13 in each other split: odd shares for two processes."""
    tree = Tree(root)
    for split in SPLITS:
        for level, (label, folder) in enumerate(CLASSES.items()):
            for number in range(16 + 2 * level if split == "train" else 3 + (level == 0)):
                tree.add(split, f"{folder}/{split}{number}.png", label, level=40 + 50 * level, size=(34, 32))
    tree.write_csvs()
    return tree


def _torchrun(processes: int, *command) -> str:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    done = subprocess.run(
        [*torchrun, *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _launch(processes: int, folder: Path, root: Path) -> Path:
    """Run on so many processes to the end."""
    run_dir = folder / f"run{processes}"
    options = _options(run_dir, root, accumulation_steps=3 - processes, workers=processes - 1)
    _torchrun(processes, LAUNCHED / "recording_pretrain.py", folder / f"ids{processes}", *options)
    return run_dir


def _options(run_dir: Path, root: Path, *, accumulation_steps: int, workers: int) -> list[str]:
    arguments = {
        "--run_dir": run_dir,
        "--data.root": root,
        "--data.phantoms": "false",
        "--data.image_size": 32,
        "--data.resize_size": 34,
        "--data.class_weights": "inverse",
        "--data.workers": workers,
        "--model.name": "test_convnext",
        "--optim.peak_lr": 0.02,
        "--train.precision": "float64",
        "--train.epochs": EPOCHS,
        "--train.global_batch_size": GLOBAL_BATCH,
        "--train.accumulation_steps": accumulation_steps,
        "--train.log_every_steps": 2,
        "--train.ema_decay": 0.9,
        "--train.threads": 1,
        "--train.device": "cpu",
        "--loss.name": "ols",
        "--loss.hard_weight": 0.6,
        "--freeze.first_epochs": 1,  # of two: processes settle anew which gradients they exchange
        "--freeze.first_lr_factor": 2,
    }
    return [str(argument) for argument in chain(*arguments.items())]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    tree = _imbalanced(folder / "set")
    return folder, [_launch(processes, folder, tree.root) for processes in (1, 2)]


def test_two_ranks_read_the_samples_of_one_at_every_step(runs):
    folder, _ = runs
    one = json.loads((folder / "ids1.0.json").read_text())
    two = [json.loads((folder / f"ids2.{rank}.json").read_text()) for rank in (0, 1)]
    assert len(one) == 2 * STEPS * EPOCHS
    assert [len(rank) for rank in two] == [STEPS * EPOCHS] * 2
    for step in range(STEPS * EPOCHS):
        assert one[2 * step] + one[2 * step + 1] == two[0][step] + two[1][step]
        assert len({*two[0][step], *two[1][step]}) == GLOBAL_BATCH


def test_two_ranks_learn_the_weights_and_soft_labels_of_one_first_of_the_head_then_of_all(runs):
    _, (one, two) = runs
    compared = 0
    for part in ("model", "ema", "loss", "optimizer"):
        for epoch in range(1, EPOCHS + 1):
            path = f"checkpoints/epoch-{epoch:04d}/{part}.safetensors"
            if not (one / path).exists():
                continue  # pruned: only the newest and the best are kept
            expected, found = load_file(one / path), load_file(two / path)
            assert expected.keys() == found.keys()
            for name in expected:
                torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)
                assert expected[name].dtype in (torch.float64, torch.int64)
                compared += 1
    assert compared > 100
    soft_labels = load_file(two / f"checkpoints/epoch-{EPOCHS:04d}/loss.safetensors")["soft_labels"]
    assert soft_labels.dtype == torch.float64
    assert (soft_labels - 0.25).abs().max() > 1e-3  # something was collected
    torch.testing.assert_close(soft_labels.sum(1), torch.ones(4, dtype=torch.float64))


def test_two_ranks_report_the_metrics_of_one_over_every_sample_once(runs):
    _, (one, two) = runs
    records = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)]
    assert len(records[0]) == len(records[1]) == EPOCHS * (STEPS // 2 + 1) + 1  # readings, epochs, the test
    compared = 0
    for expected, found in zip(*records, strict=True):
        assert expected.keys() == found.keys()
        for tag in expected.keys() - {"train/images_per_second"}:
            assert found[tag] == pytest.approx(expected[tag], abs=1e-6), tag
            compared += 1
    assert compared > 80
    assert [record["val/count"] for record in records[1] if "val/count" in record] == [13] * EPOCHS
    assert records[1][-1]["test/count"] == records[1][-1]["test_ema/count"] == 13


@pytest.mark.slow
def test_one_process_then_two_then_one_continue_the_run_of_one(runs, monkeypatch):
    """Stopped inside both epochs; of the two processes, the signal reaches only the second."""
    folder, (whole, _) = runs
    run_dir, record = folder / "elastic", LAUNCHED / "recording_pretrain.py"
    options = _options(run_dir, folder / "set", accumulation_steps=1, workers=1)
    ids = []
    for number, (processes, stop) in enumerate(((1, "3"), (2, "8"), (1, None))):
        if stop is None:
            monkeypatch.delenv("STOP_BEFORE_STEP")
        else:
            monkeypatch.setenv("STOP_BEFORE_STEP", stop)
        printed = _torchrun(processes, record, folder / f"elastic{number}", *options)
        assert (stop is None) != ("the same command continues: " in printed)
        ranks = [json.loads((folder / f"elastic{number}.{rank}.json").read_text()) for rank in range(processes)]
        ids += [[*chain(*step)] for step in zip(*ranks, strict=True)]
    expected = json.loads((folder / "ids1.0.json").read_text())  # in two micro-batches
    assert ids == [first + second for first, second in zip(expected[::2], expected[1::2], strict=True)]

    last = f"checkpoints/epoch-{EPOCHS:04d}"
    for part in ("model", "ema", "loss", "optimizer"):
        a, b = (load_file(run / last / f"{part}.safetensors") for run in (whole, run_dir))
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(b[name], a[name], rtol=0, atol=1e-6)
    a, b = ([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (whole, run_dir))
    assert len(a) == len(b)
    for expected, found in zip(a, b, strict=True):
        assert expected.keys() == found.keys()
        for tag in expected.keys() - {"train/images_per_second"}:
            assert found[tag] == pytest.approx(expected[tag], abs=1e-6), tag


def test_two_ranks_leave_one_set_of_event_files(runs):
    _, (_, two) = runs
    assert len(list(two.glob("events.*"))) == 1


def test_two_ranks_evaluate_every_sample_once_and_average_their_batch_statistics(tmp_path):
    tree = _imbalanced(tmp_path / "set")
    printed = _torchrun(2, LAUNCHED / "evaluating_ranks.py", tree.root)
    assert "rank 0 agrees" in printed
    assert "rank 1 agrees" in printed
