"""What a loss costs per step, forward and backward: time and peak memory, side by side in one process.

    python benchmarks/loss_cost.py --threads 1

The variants run interleaved in random order, on inputs that change, and the table gives medians; `label_smoothing` runs
twice, so that the second line shows the noise. Labels of every tenth sample are ignored where a loss knows how to.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor
from torch.profiler import profile

from ols.losses import OnlineLabelSmoothing
from ols.runs.environment import environment_record

SIZES = ((128, 165), (256, 165), (1024, 165), (256, 1000), (1024, 1000))
INPUTS = 8


class PlainOnlineLabelSmoothing(torch.nn.Module):
    """Online label smoothing as one would first write it: no weights, no ignored labels, no care for cost."""

    def __init__(self, num_classes: int, hard_weight: float = 0.5):
        super().__init__()
        self.hard_weight = hard_weight
        self.register_buffer("soft_labels", torch.full((num_classes, num_classes), 1 / num_classes))
        self.register_buffer("sums", torch.zeros(num_classes, num_classes))
        self.register_buffer("counts", torch.zeros(num_classes))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss and collect the correct predictions."""
        log_probs = logits.log_softmax(1)
        soft_loss = -(self.soft_labels[labels] * log_probs).sum(1).mean()
        with torch.no_grad():
            probs = log_probs.exp()
            correct = probs.argmax(1) == labels
            self.sums.index_put_((labels[correct],), probs[correct], accumulate=True)
            self.counts.index_put_((labels[correct],), torch.ones_like(labels[correct]).float(), accumulate=True)
        return self.hard_weight * F.cross_entropy(logits, labels) + (1 - self.hard_weight) * soft_loss


def build_variants(batch: int, num_classes: int, device: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return each variant as a function of the logits."""
    labels = torch.randint(num_classes, (batch,), device=device)
    some_ignored = labels.clone()
    some_ignored[::10] = -100
    one_hot = F.one_hot(labels, num_classes).float() * 0.9 + 0.1 / num_classes
    weight = torch.rand(num_classes, device=device) + 0.5
    ols = OnlineLabelSmoothing(num_classes).to(device)
    weighted_ols = OnlineLabelSmoothing(num_classes, weight=weight).to(device)
    plain_ols = PlainOnlineLabelSmoothing(num_classes).to(device)
    timm_smoothing, timm_soft = LabelSmoothingCrossEntropy(0.1), SoftTargetCrossEntropy()
    return {
        "cross_entropy": lambda logits: F.cross_entropy(logits, some_ignored),
        "label_smoothing": lambda logits: F.cross_entropy(logits, some_ignored, label_smoothing=0.1),
        "label_smoothing, again": lambda logits: F.cross_entropy(logits, some_ignored, label_smoothing=0.1),
        "label_smoothing, weighted": lambda logits: F.cross_entropy(logits, some_ignored, weight, label_smoothing=0.1),
        "timm LabelSmoothingCrossEntropy": lambda logits: timm_smoothing(logits, labels),
        "timm SoftTargetCrossEntropy": lambda logits: timm_soft(logits, one_hot),
        "OLS, plainly written": lambda logits: plain_ols(logits, labels),
        "OnlineLabelSmoothing": lambda logits: ols(logits, some_ignored),
        "OnlineLabelSmoothing, weighted": lambda logits: weighted_ols(logits, some_ignored),
    }


def step_seconds(loss: Callable[[Tensor], Tensor], logits: Tensor) -> float:
    """Return the time of one forward and backward pass."""
    logits = logits.detach().requires_grad_()
    if logits.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    loss(logits).backward()
    if logits.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_bytes(loss: Callable[[Tensor], Tensor], logits: Tensor) -> int:
    """Return the peak of what one forward and backward pass has allocated at once, by the allocator."""
    logits = logits.detach().requires_grad_()
    if logits.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss(logits).backward()
        return torch.cuda.max_memory_allocated() - before
    return allocated_peak(lambda: loss(logits).backward())[1]


def allocated_peak(action: Callable[[], object]) -> tuple[object, int]:
    """Return an action's result, and the peak of what it has allocated at once on the CPU, by the allocator."""
    with profile(profile_memory=True) as profiled:
        result = action()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return result, peak


def measure(batch: int, num_classes: int, rounds: int, device: str) -> dict[str, dict[str, float]]:
    """Return each variant's cost at one size."""
    variants = build_variants(batch, num_classes, device)
    inputs = [3 * torch.randn(batch, num_classes, device=device) for _ in range(INPUTS)]
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    warm_up = max(10, rounds // 10)
    for number in range(rounds + warm_up):
        for name in random.sample(list(variants), len(variants)):
            taken = step_seconds(variants[name], inputs[number % INPUTS])
            if number >= warm_up:
                seconds[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    rows = {}
    for name, taken in seconds.items():
        lower, _, upper = statistics.quantiles(taken, n=4)
        rows[name] = {
            "median_us": round(1e6 * medians[name], 1),
            "quartiles_us": [round(1e6 * lower, 1), round(1e6 * upper, 1)],
            "over_cross_entropy": round(medians[name] / medians["cross_entropy"], 3),
            "over_label_smoothing": round(medians[name] / medians["label_smoothing"], 3),
            "peak_in_logits": round(peak_bytes(variants[name], inputs[0]) / inputs[0].nbytes, 2),
        }
    return rows


def main() -> None:
    """Measure, print a table, and write the results with their conditions."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--output", type=Path, default=None, help="JSON file; by default beside this script")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)
    environment = environment_record(torch.device(args.device), num_processes=1, threads=args.threads)
    results = {"format": 1, **environment, "rounds": args.rounds, "sizes": {}}
    print("| B x K | loss | us | / cross_entropy | / label_smoothing | peak, in B x K float32 |")
    print("|---|---|---|---|---|---|")
    for batch, num_classes in SIZES:
        rows = measure(batch, num_classes, args.rounds, args.device)
        results["sizes"][f"{batch}x{num_classes}"] = rows
        for name, row in rows.items():
            ratios = (
                f"{row['over_cross_entropy']:.2f} | {row['over_label_smoothing']:.2f} | {row['peak_in_logits']:.2f}"
            )
            print(f"| {batch} x {num_classes} | {name} | {row['median_us']:.0f} | {ratios} |", flush=True)
    output = args.output or Path(__file__).parent / "results" / f"loss_cost_{args.device}_{args.threads}_threads.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
