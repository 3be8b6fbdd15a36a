"""What the metrics cost per batch, as ratios to an update of torchmetrics' macro accuracy, side by side in one process.

    python benchmarks/metric_cost.py --threads 1

The variants run interleaved in random order, on inputs that change, and the table gives medians; the macro accuracy
runs twice, so that the second line shows the noise.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.classification import ClassificationMetrics
from ols.runs.environment import environment_record

SIZES = ((256, 165), (1024, 165), (256, 1000))
INPUTS = 8
REFERENCE = "torchmetrics macro accuracy"


def build_variants(num_classes: int) -> dict[str, Metric]:
    """Return each variant."""
    return {
        REFERENCE: MulticlassAccuracy(num_classes, average="macro"),
        f"{REFERENCE}, again": MulticlassAccuracy(num_classes, average="macro"),
        "torchmetrics top-5": MulticlassAccuracy(num_classes, average="micro", top_k=5),
        "torchmetrics calibration error": MulticlassCalibrationError(num_classes, n_bins=15),
        "CalibrationHistogram": CalibrationHistogram(),
        "ClassificationMetrics": ClassificationMetrics(num_classes),
        "ClassificationMetrics, classwise": ClassificationMetrics(num_classes, classwise=True),
    }


def seconds(call: Callable, device: str) -> float:
    """Return the time of a call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(batch: int, num_classes: int, rounds: int, device: str) -> dict[str, dict]:
    """Return each variant's cost at one size."""
    variants = {name: metric.to(device) for name, metric in build_variants(num_classes).items()}
    inputs = [3 * torch.randn(batch, num_classes, device=device) for _ in range(INPUTS)]
    target = torch.randint(num_classes, (batch,), device=device)
    taken: dict[str, list[float]] = {name: [] for name in variants}
    warm_up = max(10, rounds // 10)
    for number in range(rounds + warm_up):
        logits = inputs[number % INPUTS]
        for name in random.sample(list(variants), len(variants)):
            elapsed = seconds(partial(variants[name].update, logits, target), device)
            if number >= warm_up:
                taken[name].append(elapsed)
    reference = statistics.median(taken[REFERENCE])
    rows = {}
    for name, metric in variants.items():
        lower, median, upper = statistics.quantiles(taken[name], n=4)
        rows[name] = {
            "median_us": round(1e6 * median, 1),
            "quartiles_us": [round(1e6 * lower, 1), round(1e6 * upper, 1)],
            "over_macro_accuracy": round(median / reference, 3),
        }
        if isinstance(metric, CalibrationHistogram):
            states = [getattr(metric, state) for state in metric._defaults]
            rows[name]["state_kib"] = round(sum(state.nbytes for state in states) / 1024, 1)
            rows[name]["compute_ms"] = round(1e3 * seconds(metric.compute, device), 1)
    return rows


def main() -> None:
    """Measure, print a table, and write the results with their conditions."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--output", type=Path, default=None, help="JSON file; by default beside this script")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)
    environment = environment_record(torch.device(args.device), num_processes=1, threads=args.threads)
    results = {"format": 1, **environment, "rounds": args.rounds, "sizes": {}}
    print("| B x K | metric | us | / macro accuracy | state, KiB | compute, ms |")
    print("|---|---|---|---|---|---|")
    for batch, num_classes in SIZES:
        rows = measure(batch, num_classes, args.rounds, args.device)
        results["sizes"][f"{batch}x{num_classes}"] = rows
        for name, row in rows.items():
            ends = f"{row.get('state_kib', '')} | {row.get('compute_ms', '')}"
            ratio = f"{row['over_macro_accuracy']:.2f}"
            print(f"| {batch} x {num_classes} | {name} | {row['median_us']:.0f} | {ratio} | {ends} |", flush=True)
    output = args.output or Path(__file__).parent / "results" / f"metric_cost_{args.device}_{args.threads}_threads.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
