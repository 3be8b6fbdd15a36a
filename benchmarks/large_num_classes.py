"""Online label smoothing with as many classes as ImageNet-21k has: memory of its state, and time of a step.

    python benchmarks/large_num_classes.py --batch 256

Needs twice 4 K^2 bytes: 3.8 GB. Memory is what the allocator has given out at once, and the process's peak in `/proc`,
for the constructor, a step, the end of an epoch, and saving and loading the state. Time is that of one step forward and
backward, interleaved in random order with `F.cross_entropy`, which runs twice to show the noise.
"""

import argparse
import json
import random
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from loss_cost import allocated_peak, step_seconds

from ols.losses import OnlineLabelSmoothing
from ols.runs.environment import environment_record

RESET_PEAK = "5"  # see clear_refs in proc(5)


def measured(action: Callable[[], object], baseline: int) -> tuple[object, dict[str, float]]:
    """Run an action; return its result, and its peaks in GB.

    The allocator's is beyond what was held before the action, the process's beyond `baseline` bytes.
    """
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    result, peak = allocated_peak(action)
    return result, {"allocator_gb": round(peak / 1e9, 4), "process_gb": round((status("VmHWM") - baseline) / 1e9, 4)}


def status(key: str) -> int:
    """Return a size of this process, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])


def main() -> None:
    """Measure, print, and write the results with their conditions."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--classes", type=int, default=21_841)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "large_num_classes.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)
    logits = torch.randn(args.batch[0], args.classes, requires_grad=True)
    F.cross_entropy(logits, logits.argmax(1)).backward()  # what torch loads when it first computes is not counted
    memory, baseline = {}, status("VmRSS")
    loss, memory["constructor"] = measured(lambda: OnlineLabelSmoothing(args.classes), baseline)
    _, memory["step"] = measured(lambda: loss(logits, logits.argmax(1)).backward(), baseline)
    diagnostics, memory["end of epoch"] = measured(loss.end_epoch, baseline)
    state, memory["state dict"] = measured(loss.state_dict, baseline)
    _, memory["loading it"] = measured(lambda: loss.load_state_dict(state), baseline)
    matrix_gb = 4 * args.classes**2 / 1e9
    for name, row in memory.items():
        print(
            f"{name:14}{row['allocator_gb']:8.3f} GB more by the allocator, {row['process_gb']:8.3f} GB of the process"
        )

    losses = {"cross_entropy": F.cross_entropy, "cross_entropy, again": F.cross_entropy, "OnlineLabelSmoothing": loss}
    steps = {}
    for batch in args.batch:
        inputs = [3 * torch.randn(batch, args.classes) for _ in range(4)]
        labels = [torch.where(torch.rand(batch) < 0.7, logits.argmax(1), 0) for logits in inputs]  # 70 % are correct
        seconds: dict[str, list[float]] = {name: [] for name in losses}
        for number in range(3 + args.rounds):
            for name in random.sample(list(losses), len(losses)):
                target = labels[number % 4]
                taken = step_seconds(
                    lambda logits, name=name, target=target: losses[name](logits, target), inputs[number % 4]
                )
                if number >= 3:
                    seconds[name].append(taken)
        medians = {name: statistics.median(taken) for name, taken in seconds.items()}
        steps[batch] = {
            name: {
                "median_ms": round(1e3 * medians[name], 2),
                "quartiles_ms": [round(1e3 * value, 2) for value in statistics.quantiles(taken, n=4)[::2]],
                "over_cross_entropy": round(medians[name] / medians["cross_entropy"], 3),
            }
            for name, taken in seconds.items()
        }
        for name, row in steps[batch].items():
            print(
                f"{batch} x {args.classes}  {name:22}{row['median_ms']:8.1f} ms {row['over_cross_entropy']:6.2f}",
                flush=True,
            )

    sums, counts = loss.prob_sums.double().sum().item(), loss.correct_counts.sum().item()
    mass_error = abs(sums / counts - 1)
    results = {
        "format": 1,
        **environment_record(torch.device("cpu"), num_processes=1, threads=args.threads),
        "classes": args.classes,
        "matrix_gb": round(matrix_gb, 4),
        "peaks": memory,
        "steps": steps,
        "rounds": args.rounds,
        "relative_error_of_the_mass_collected": mass_error,
        "diagnostics": diagnostics,
    }
    args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
