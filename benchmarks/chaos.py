"""Kill a run at random moments, type its command again until it is finished, and compare with a run left alone.

    PYTHONPATH=. python benchmarks/chaos.py --kills 50 --seed 0

SIGKILL goes to the training process and all its children: at any moment of the start, between two steps, while a
checkpoint is written, while one is deleted. Weights, moving average, soft labels and optimizer are compared bit by bit,
metrics.jsonl line by line except for images per second, TensorBoard point by point. A run that finishes before
all kills are spent is followed by another one.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import Process
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ols.data
import ols.evaluation.report
import ols.runs.export
import ols.training.trainer  # noqa: F401 - like those above, imported once for all attempts
from ols.command_line import parse_config
from ols.runs.environment import environment_record
from recipes.pretrain import QUICKSTART, main

ROOT = Path(__file__).parents[1]
EPOCHS = 4
OPTIONS = {
    "data.image_size": 32,
    "data.resize_size": 34,
    "data.workers": 1,
    "data.phantoms": "true",
    "phantoms.image_size": 34,
    "phantoms.num_train": 1000,
    "phantoms.num_val": 200,
    "phantoms.num_test": 170,
    "train.epochs": EPOCHS,
    "train.global_batch_size": 40,  # 25 steps per epoch
    "train.accumulation_steps": 2,
    "train.ema_decay": 0.9,
    "train.log_every_steps": 4,
    "train.checkpoint_every_steps": 3,
    "train.keep_last": 2,
    "train.threads": 1,
    "train.device": "cpu",
    "loss.name": "ols",
}
# When to kill, and how often of 100.
MOMENTS = {"starting": 10, "training": 40, "writing a checkpoint": 40, "deleting a checkpoint": 10}


def launch(run_dir: Path, data: Path, log: Path, processes: int) -> Process:
    """Start the recipe as a process of its own, forked from this one, which has imported what takes long."""
    arguments = [f"--{key}={value}" for key, value in ({"run_dir": run_dir, "data.root": data} | OPTIONS).items()]
    process = multiprocessing.get_context("fork").Process(target=run_recipe, args=(arguments, log, processes))
    process.start()
    return process


def run_recipe(arguments: list[str], log: Path, processes: int) -> None:
    """Become the run, in its own session; with several processes, become torchrun."""
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if processes > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        os.execv(sys.executable, [sys.executable, *torchrun, str(ROOT / "recipes" / "pretrain.py"), *arguments])
    sys.argv = ["recipes/pretrain.py", *arguments]
    main(parse_config(QUICKSTART, arguments))


def kill(process: Process) -> None:
    """Send SIGKILL to a process and all its children."""
    for victim in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended in the meantime
            victim.kill()
    process.join()


def wait_for_moment(process: Process, moment: str, checkpoints: Path, log: Path, rng: random.Random) -> bool:
    """Wait until a moment to kill; return False if the process ended before."""

    def wait_until(condition: Callable[[], bool]) -> bool:
        while process.is_alive():
            if condition():
                return True
            time.sleep(0.0005)
        return False

    def wait_for(seconds: float) -> bool:
        until = time.monotonic() + seconds
        return wait_until(lambda: time.monotonic() > until)

    if moment == "starting":
        return wait_for(rng.uniform(0, 3))
    if not wait_until(lambda: log.exists() and "steps of" in log.read_text()):
        return False
    if moment == "training":
        return wait_for(rng.uniform(0, 2))
    pattern = ".epoch-*.partial" if moment == "writing a checkpoint" else ".epoch-*.deleted"
    return all(wait_until(lambda: any(checkpoints.glob(pattern))) and wait_for(rng.uniform(0, 0.02)) for _ in range(2))


def run_with_kills(run_dir: Path, data: Path, kills: int, rng: random.Random, processes: int = 1) -> list[str]:
    """Start a run again until it is finished; return the moments at which it was killed.

    Raises:
        RuntimeError: It ended with an error, which the message shows, or does not end.
    """
    log, spent = run_dir.with_name(f"{run_dir.name}.log"), []
    while True:
        process = launch(run_dir, data, log, processes)
        moment = rng.choices(list(MOMENTS), MOMENTS.values())[0]
        if len(spent) < kills and wait_for_moment(process, moment, run_dir / "checkpoints", log, rng):
            kill(process)
            spent.append(moment)
            continue
        process.join(timeout=600)
        if process.exitcode != 0:
            raise RuntimeError(f"the run ended with exit status {process.exitcode}:\n{log.read_text()}")
        return spent


def differences(expected: Path, found: Path, *, epoch: int = EPOCHS) -> list[str]:
    """Return what differs between the results of two runs."""
    wrong = []
    checkpoint = f"checkpoints/epoch-{epoch:04d}"
    for name in [*(f"{checkpoint}/{part}" for part in ("model", "ema", "loss", "optimizer")), "export/model"]:
        a, b = (load_file(run / f"{name}.safetensors") for run in (expected, found))
        if a.keys() != b.keys():
            wrong.append(f"{name}: other tensors")
        wrong += [f"{name}: {key}" for key in a.keys() & b.keys() if not _same_bits(a[key], b[key])]
    a, b = (metrics_without_timing(run) for run in (expected, found))
    wrong += [f"metrics.jsonl: {len(a)} and {len(b)} records"] if len(a) != len(b) else []
    wrong += [f"metrics.jsonl: {x} and {y}" for x, y in zip(a, b, strict=False) if x != y]
    a, b = (tensorboard_points(run) for run in (expected, found))
    wrong += [f"TensorBoard: {tag}" for tag in a.keys() | b.keys() if a.get(tag) != b.get(tag)]
    return wrong


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def metrics_without_timing(run: Path) -> list[str]:
    """Return the lines of metrics.jsonl, without images per second."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [json.dumps({key: value for key, value in record.items() if "second" not in key}) for record in records]


def tensorboard_points(run: Path) -> dict[str, list]:
    """Return step and value of each scalar, and step of each figure, as TensorBoard reads them."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0}).Reload()
    tags = events.Tags()
    points = {tag: [(e.step, repr(e.value)) for e in events.Scalars(tag)] for tag in tags["scalars"]}
    for tag in points:
        if "second" in tag:
            points[tag] = [step for step, _ in points[tag]]
    return points | {tag: [e.step for e in events.Images(tag)] for tag in tags["images"]}


def measure() -> None:
    """Run, kill, compare; print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--output", type=Path, default=None, help="JSON file; by default in results/ beside this script"
    )
    args = parser.parse_args()
    rng, started = random.Random(args.seed), time.monotonic()
    moments: Counter[str] = Counter()
    environment = environment_record(torch.device("cpu"), num_processes=args.processes, threads=1)
    results = {"format": 1, **environment, "seed": args.seed, "options": OPTIONS, "moments": moments, "runs": []}
    output = args.output or ROOT / "benchmarks" / "results" / f"chaos_{args.processes}_processes.json"
    with tempfile.TemporaryDirectory() as folder:
        whole, data = Path(folder) / "whole", Path(folder) / "data"
        run_with_kills(whole, data, 0, rng, args.processes)
        while moments.total() < args.kills:
            killed = Path(folder) / f"killed{len(results['runs'])}"
            spent = run_with_kills(killed, data, args.kills - moments.total(), rng, args.processes)
            moments.update(spent)
            wrong = differences(whole, killed)
            results["runs"].append({"kills": len(spent), "differences": wrong})
            results["minutes"] = round((time.monotonic() - started) / 60, 1)
            output.write_text(json.dumps(results, indent=2) + "\n")
            print(f"killed {len(spent)} times: {wrong or 'the same bits'}", flush=True)
    differing = sum(bool(run["differences"]) for run in results["runs"])
    print(f"{moments.total()} kills: {dict(moments)}; {differing} of {len(results['runs'])} runs differ")
    sys.exit(differing > 0)


if __name__ == "__main__":
    measure()
