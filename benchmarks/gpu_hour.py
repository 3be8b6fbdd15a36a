"""What an hour of one GPU shows: tests, speed, cost of the loss, four losses on real images, and an exact resume.

    python benchmarks/gpu_hour.py --data <folder>        # again and again, until it says that all is done

Each call ends within `--minutes` and needs no network. A step that has its line in the JSON is skipped, a run that was
cut off is continued, and the rows of the README are printed of what there is. `<folder>` is whatever `--data.root`
takes; it is packed first. `--tiny` is a rehearsal on a CPU, whose figures mean nothing.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from chaos import differences

from ols.files import write_file
from ols.runs.environment import environment_record

ROOT = Path(__file__).parents[1]
NETS = ("resnet50", "mobilenetv2_100", "vgg19")
LOSSES = ("hard", "label_smoothing", "virtual_teacher_kd", "ols")
LAST_CHARACTERS = 600  # of a failed step's output
GRACE = 60  # seconds that a run has to save


class CutOffError(Exception):
    """The time of this call is used up."""


class Hour:
    """The steps, each a function that returns what is written down of it.

    Args:
        data: What `--data.root` takes.
        work: Folder of the pack and the runs.
        tiny: Whether to rehearse on the CPU.
        until: When this call ends, by `time.monotonic`.
    """

    def __init__(self, data: str, work: Path, *, tiny: bool, until: float):
        self.data, self.work, self.tiny, self.until = data, work, tiny, until
        self.device = "cpu" if tiny else "cuda"
        self.nets = ("test_resnet",) if tiny else NETS
        self.pack = work / "pack"

    def steps(self) -> dict[str, Callable[[], dict]]:
        """Return the steps by name, in order."""
        steps: dict[str, Callable[[], dict]] = {"tests": self.tests, "pack": self.write_pack}
        for net in self.nets:
            for compiled in (False, True):
                kind = "compiled" if compiled else "eager"
                steps[f"speed, {net}, {kind}"] = partial(self.speed, net, str(self.pack), compiled)
        steps[f"speed, {self.nets[0]}, from files"] = partial(self.speed, self.nets[0], self.data, False)
        steps["loss cost"] = self.loss_cost
        for loss in LOSSES:
            steps[f"run, {loss}"] = partial(self.train, loss)
        return steps | {"exact resume": self.resume_exactly}

    def tests(self) -> dict:
        """Run the tests that need a GPU."""
        printed = self._call("-m", "pytest", "-q", "-n", "0", "tests/training/test_gpu.py")
        return {name: int(number) for number, name in re.findall(r"(\d+) (passed|failed|skipped)", printed)}

    def write_pack(self) -> dict:
        """Pack the images."""
        size = "36" if self.tiny else "256"
        self._call("recipes/pack.py", "--data.root", self.data, "--size", size, "--output", str(self.pack))
        return {"bytes": sum(path.stat().st_size for path in self.pack.rglob("*") if path.is_file())}

    def speed(self, net: str, data: str, compiled: bool) -> dict:
        """Measure whole training steps of a net, on batches from memory and from data."""
        sizes = ["--image_size=32", "--batch=4", "--steps=1", "--rounds=2", "--threads=1"]
        if not self.tiny:
            sizes = ["--image_size=224", "--batch=256", "--steps=20", "--rounds=8", "--precision=bf16"]
            sizes += ["--channels_last"]
        sizes += ["--compile"] if compiled and not self.tiny else []
        arguments = ["--device", self.device, "--models", net, "--data", data, *sizes]
        return self._measured("benchmarks/step_throughput.py", *arguments)["models"][net]

    def loss_cost(self) -> dict:
        """Measure forward and backward of the losses alone."""
        rounds = "2" if self.tiny else "300"
        return self._measured("benchmarks/loss_cost.py", "--device", self.device, "--rounds", rounds)["sizes"]

    def train(self, loss: str) -> dict:
        """Train on the pack with a loss, test, and return what the test and the clock say."""
        run, start = self.work / f"run-{loss}", time.monotonic()
        self._train(run, loss, [] if self.tiny else ["--train.epochs=12"])
        found = {"seconds_of_last_call": round(time.monotonic() - start, 1)}
        test = next(record for record in _records(run) if "test/top1" in record)
        return found | {name: test[f"test/{name}"] for name in ("top1", "top5", "nll", "ece")}

    def resume_exactly(self) -> dict:
        """Train twice with deterministic algorithms, one run killed inside an epoch, and compare them bit by bit."""
        options = ["--train.deterministic=true", "--train.checkpoint_every_steps=2", "--train.ema_decay=0.9"]
        options += ["--train.epochs=2", f"--data.train_images={24 if self.tiny else 4096}"]
        whole, killed = self.work / "whole", self.work / "killed"
        self._train(whole, "ols", options)
        kills = 0
        if not killed.exists():
            process = self._start(*self._recipe(killed, "ols", options))
            while process.poll() is None and not list(killed.glob("checkpoints/epoch-0001-step-*")):
                self._check_time(process)
                time.sleep(0.01)
            kills = int(process.poll() is None)
            _end(process, signal.SIGKILL)
        self._train(killed, "ols", options)
        return {"kills": kills, "differences": differences(whole, killed, epoch=2)}

    def _recipe(self, run: Path, loss: str, options: list[str]) -> list[str]:
        sizes = ["--model.name=resnet50", "--data.image_size=224", "--data.resize_size=256", "--train.precision=bf16"]
        sizes += ["--train.global_batch_size=256", "--optim.peak_lr=0.1"]
        if self.tiny:
            sizes = ["--model.name=test_resnet", "--data.image_size=32", "--data.resize_size=36", "--data.workers=0"]
            sizes += ["--train.global_batch_size=4", "--train.device=cpu", "--train.threads=1", "--train.epochs=1"]
        given = [f"--run_dir={run}", f"--data.root={self.pack}", f"--loss.name={loss}", *sizes, *options]
        return ["recipes/pretrain.py", "--config", "recipes/configs/radiology13.yaml", *given]

    def _train(self, run: Path, loss: str, options: list[str]) -> None:
        self._call(*self._recipe(run, loss, options))
        if not any("test/top1" in record for record in _records(run)):
            raise CutOffError

    def _measured(self, script: str, *arguments: str) -> dict:
        output = self.work / "measured.json"
        self._call(script, *arguments, "--output", str(output))
        return json.loads(output.read_text())

    def _start(self, *arguments: str) -> subprocess.Popen:
        log = (self.work / "output.log").open("w")
        environment = os.environ | {"PYTHONPATH": str(ROOT), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        options = {"cwd": ROOT, "stdout": log, "stderr": subprocess.STDOUT, "env": environment}
        with log:
            return subprocess.Popen([sys.executable, *arguments], start_new_session=True, **options)  # type: ignore[call-overload]

    def _call(self, *arguments: str) -> str:
        """Run a script to its end and return what it printed.

        Raises:
            CutOffError: There was no time left; it was told to save and to stop.
            RuntimeError: It failed; the message has its last words.
        """
        process = self._start(*arguments)
        while process.poll() is None:
            self._check_time(process)
            time.sleep(0.02)
        printed = (self.work / "output.log").read_text(errors="replace")
        if process.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: exit status {process.returncode}: {printed[-LAST_CHARACTERS:]}")
        return printed

    def _check_time(self, process: subprocess.Popen) -> None:
        if time.monotonic() > self.until:
            _end(process, signal.SIGTERM)
            raise CutOffError


def _end(process: subprocess.Popen, first: signal.Signals) -> None:
    """End a process and its children, with SIGKILL where the first signal does not."""
    for number in (first, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(timeout=GRACE)
            except subprocess.TimeoutExpired:
                continue


def _records(run: Path) -> list[dict]:
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def rows(results: dict) -> list[str]:
    """Return the rows of the README, of the steps that are done."""
    lines = [f"| step | {results['device']}, {results['date'][:10]} |", "|---|---|"]
    for name, found in results["steps"].items():
        if "failed" in found:
            said = f"failed: {found['failed'].splitlines()[-1]}"
        elif name.startswith("speed"):
            ours, hard = found["trainer, OLS"], found["trainer, hard"]
            data = found["trainer, OLS, from data"]
            said = f"{ours['images_per_second']:.0f} images/s with OLS, {ours['over trainer, hard']:.3f} of hard labels"
            said += (
                f" ({hard['over bare loop']:.3f} of a bare loop); from data {data['images_per_second']:.0f} images/s"
            )
            said += f", data wait {data['data_wait']:.1%}"
        elif name == "loss cost":
            ratios = (
                f"{size}: {row['OnlineLabelSmoothing']['over_label_smoothing']:.2f}" for size, row in found.items()
            )
            said = f"OLS over `F.cross_entropy(label_smoothing=0.1)`: {', '.join(ratios)}"
        elif name.startswith("run"):
            said = f"Top-1 {found['top1']:.2%}, NLL {found['nll']:.4f}, ECE {found['ece']:.4f}"
        elif name == "exact resume":
            said = "the same bits" if not found["differences"] else f"{len(found['differences'])} differences"
        else:
            said = ", ".join(f"{key} {value}" for key, value in found.items() if key != "seconds")
        lines.append(f"| {name} | {said} |")
    return lines


def main() -> None:
    """Take the steps that are not in the JSON yet, until the time of this call is used up."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="images: whatever --data.root takes")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu_hour"), help="folder of the pack and the runs")
    parser.add_argument("--minutes", type=float, default=9.0, help="time of this call; a run needs up to one to save")
    parser.add_argument("--steps", nargs="+", default=None, help="only steps whose names begin so")
    parser.add_argument("--retry", action="store_true", help="take steps that failed once more")
    parser.add_argument("--tiny", action="store_true", help="rehearse on the CPU")
    parser.add_argument("--output", type=Path, default=None, help="JSON file; by default beside this script")
    args = parser.parse_args()
    if not args.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU here; --tiny rehearses on the CPU")
    args.work.mkdir(parents=True, exist_ok=True)
    output = args.output or ROOT / "benchmarks" / "results" / "gpu_hour.json"
    hour = Hour(
        str(Path(args.data).expanduser().resolve()),
        args.work.resolve(),
        tiny=args.tiny,
        until=time.monotonic() + 60 * args.minutes,
    )
    environment = environment_record(torch.device(hour.device), num_processes=1, threads=torch.get_num_threads())
    results = json.loads(output.read_text()) if output.is_file() else {"format": 1, **environment, "steps": {}}
    wanted = [name for name in hour.steps() if args.steps is None or name.startswith(tuple(args.steps))]
    done = {name for name, found in results["steps"].items() if not (args.retry and "failed" in found)}
    left = [name for name in wanted if name not in done]
    for number, name in enumerate(left):
        start = time.monotonic()
        try:
            found = hour.steps()[name]()
        except CutOffError:
            if number == 0 and not name.startswith(("run", "exact")):
                found = {"failed": f"did not end within {args.minutes:g} minutes"}
            else:
                print(f"{name}: cut off; the same command continues, {len(left) - number} steps are left", flush=True)
                break
        except RuntimeError as error:
            found = {"failed": str(error)}
        results["steps"][name] = found | {"seconds": round(time.monotonic() - start, 1)}
        write_file(output, json.dumps(results, indent=2) + "\n")
        print(f"{name}: {'failed' if 'failed' in found else 'done'}", flush=True)
    else:
        print("all is done")
    print("\n".join(rows(results)))


if __name__ == "__main__":
    main()
