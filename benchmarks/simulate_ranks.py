"""What the number of ranks does to the soft labels: the same samples over 1, 8, 64 and 512 simulated ranks.

    python benchmarks/simulate_ranks.py

Every rank has a loss of its own, sees its share of each global batch, and ends the epoch with the sums of all ranks,
added in float32 as a ring all-reduce adds them: each chunk in another order of ranks. Reported is the largest
difference of the soft labels to those of one rank, and to those of one rank in float64.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from ols.losses import OnlineLabelSmoothing
from ols.runs.environment import environment_record


def ring_sum(parts: list[Tensor]) -> Tensor:
    """Add tensors as a ring all-reduce does: chunk c of the flattened tensors starts at rank c and goes round."""
    chunks = [part.flatten().tensor_split(len(parts)) for part in parts]
    summed = []
    for chunk in range(len(parts)):
        total = chunks[chunk][chunk].clone()
        for step in range(1, len(parts)):
            total += chunks[(chunk + step) % len(parts)][chunk]
        summed.append(total)
    return torch.cat(summed).view_as(parts[0])


def soft_labels(ranks: int, batches: list[tuple[Tensor, Tensor]], num_classes: int, dtype: torch.dtype) -> Tensor:
    """Train the loss of each rank on its share of the batches, end the epoch, and return the soft labels."""
    losses = [OnlineLabelSmoothing(num_classes).to(dtype) for _ in range(ranks)]
    for logits, labels in batches:
        for loss, some_logits, some_labels in zip(losses, logits.chunk(ranks), labels.chunk(ranks), strict=True):
            loss(some_logits.to(dtype).requires_grad_(), some_labels)
    sums = ring_sum([loss.prob_sums for loss in losses])
    counts = torch.stack([loss.correct_counts for loss in losses]).sum(0)
    losses[0].end_epoch(reduce=lambda part: counts if part.dtype == torch.int64 else sums)
    return losses[0].soft_labels


def main() -> None:
    """Simulate, print, and write the results with their conditions."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--classes", type=int, default=165)
    parser.add_argument("--batch", type=int, default=4096, help="images per global batch")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "simulate_ranks.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batches = []
    for _ in range(args.steps):
        labels = torch.randint(args.classes, (args.batch,))
        logits = torch.randn(args.batch, args.classes)
        logits[torch.arange(args.batch), labels] += 3  # most are predicted correctly
        batches.append((logits, labels))
    exact = soft_labels(1, batches, args.classes, torch.float64)
    one = soft_labels(1, batches, args.classes, torch.float32)
    rows = {1: {"to_one_rank": 0.0, "to_float64": (one - exact).abs().max().item()}}
    for ranks in args.ranks:
        found = soft_labels(ranks, batches, args.classes, torch.float32)
        rows[ranks] = {
            "to_one_rank": (found - one).abs().max().item(),
            "to_float64": (found - exact).abs().max().item(),
        }
    for ranks, row in rows.items():
        print(f"{ranks:4} ranks  {row['to_one_rank']:.1e} to one rank  {row['to_float64']:.1e} to float64")
    results = {
        "format": 1,
        **environment_record(torch.device("cpu"), num_processes=1, threads=1),
        "classes": args.classes,
        "global_batch": args.batch,
        "steps": args.steps,
        "largest_difference_by_ranks": rows,
    }
    args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
