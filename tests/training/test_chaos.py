"""Real runs, and real kills."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import Tree, fill
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
RECORDING = ROOT / "tests" / "launched" / "recording_pretrain.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def _chaos(folder: Path, *arguments: str) -> dict:
    output = folder / "chaos.json"
    command = [sys.executable, ROOT / "benchmarks" / "chaos.py", "--output", output, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(output.read_text())


@pytest.mark.slow
def test_a_run_killed_three_times_ends_with_the_bits_of_one_left_alone(tmp_path):
    results = _chaos(tmp_path, "--kills=3", "--seed=1")
    assert sum(results["moments"].values()) == sum(run["kills"] for run in results["runs"]) == 3
    assert results["moments"]["writing a checkpoint"] > 0
    assert [run["differences"] for run in results["runs"]] == [[]] * len(results["runs"])


@pytest.mark.slow
def test_two_ranks_killed_three_times_end_with_the_bits_of_two_left_alone(tmp_path):
    results = _chaos(tmp_path, "--kills=3", "--seed=2", "--processes=2")
    assert sum(results["moments"].values()) == 3
    assert [run["differences"] for run in results["runs"]] == [[]] * len(results["runs"])


def _options(folder: Path, name: str, **options) -> list[str]:
    options = {
        "run_dir": folder / name,
        "data.root": folder / "set",
        "data.phantoms": "false",
        "data.image_size": 32,
        "data.resize_size": 34,
        "data.workers": 1,
        "model.name": "test_resnet",
        "train.epochs": 2,
        "train.global_batch_size": 12,
        "train.log_every_steps": 1,
        "train.checkpoint_every_steps": 1,
        "train.threads": 1,
        "train.device": "cpu",
    } | options
    return [f"--{key}={value}" for key, value in options.items()]


@pytest.fixture
def folder(tmp_path):
    fill(Tree(tmp_path / "set"), {"train": 18, "val": 3, "test": 3}).write_csvs()
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["rank", "worker"])
def test_when_a_rank_or_a_reading_process_is_killed_the_run_ends_with_a_message_and_continues(folder, victim):
    options = _options(folder, "run", **{"train.epochs": 10})
    command = [*TORCHRUN, "2", RECORDING, folder / "ids", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
    ) as process:
        while not list(folder.glob("run/checkpoints/epoch-0002*")):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.05)
        (rank,) = [child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1"]
        (rank if victim == "rank" else rank.children()[0]).kill()
        printed, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Error" in printed
    if victim == "worker":
        assert "DataLoader worker" in printed
    done = subprocess.run(
        [*TORCHRUN, "2", RECORDING, folder / "ids", *options],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=600,
        check=False,
    )
    assert "continuing after epoch" in done.stdout
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_three_ranks_stopped_inside_an_epoch_end_with_the_bits_of_three_left_alone(folder):
    for name, stops in (("whole", [None]), ("broken", ["3", None])):
        for stop in stops:
            environment = ENVIRONMENT if stop is None else ENVIRONMENT | {"STOP_BEFORE_STEP": stop}
            command = [*TORCHRUN, "3", RECORDING, folder / "ids", *_options(folder, name)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert ("the same command continues" in done.stdout) == (stop is not None)
    for part in ("model", "loss", "optimizer"):
        a, b = (load_file(folder / name / f"checkpoints/epoch-0002/{part}.safetensors") for name in ("whole", "broken"))
        assert {name for name in a if a[name].numpy().tobytes() != b[name].numpy().tobytes()} == set()
