"""Where online label smoothing helps: by steps, images a class and label noise, on phantoms whose truth is known.

    OMP_NUM_THREADS=1 python benchmarks/ols_map.py                # continues where it was stopped
    python benchmarks/ols_map.py --report <folder>                # what the lines so far say, as tables and figures

Each cell trains a small network from random weights on phantoms of three anatomies (31 classes, 24 px) whose labels a
known matrix Q has changed: P(label | image) = Q[latent class]. Cells of one seed share images and order; a loss is the
only difference between those of one length, size and noise. The last step is tested, none is selected; the temperature
is fitted on 500 validation labels. Beside losses that learn no soft labels runs an OLS that only collects.

Several seeds in one network of grouped convolutions did not pay: 6,400 images a second for eight at once against 6,800
for one (32 px, one core, torch 2.15).
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ols_map_report import Place, write_report
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from ols.keyed import keyed_order, keyed_uniform
from ols.losses import OnlineLabelSmoothing, build_loss, find_loss
from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.posterior import posterior_calibration, soft_label_recovery
from ols.metrics.selective import is_correct, maximum_probability, selective_metrics
from ols.phantoms import PHANTOM_CLASSES, PhantomConfig, reader_confusion, render_phantoms
from ols.runs.environment import environment_record
from ols.training.machine import seed_everything

ANATOMIES = ("brain", "lung", "us")  # 31 classes
CLASSES = np.array([k for k, c in enumerate(PHANTOM_CLASSES) if c.anatomy in ANATOMIES])
GROUPS = [PHANTOM_CLASSES[k].anatomy for k in CLASSES]
K = len(CLASSES)
IMAGE_SIZE, CONTRAST = 24, 0.7
LENGTHS = (50, 155, 485, 1500)  # optimizer steps
SIZES = (10, 32, 100)  # training images of a class
NOISES = ("none", "readers", "symmetric20", "symmetric40", "class_dependent")
VAL_IMAGES, TEST_IMAGES = 500, 2000
BATCH, PEAK_LR, WEIGHT_DECAY, SHIFT = 64, 0.1, 5e-4, 2
LABELS = 0x1ABE1  # keys the draw of labels
LOSSES: dict[str, dict] = {
    "hard": {"name": "hard"},
    "label_smoothing_0.05": {"name": "label_smoothing", "smoothing": 0.05},
    "label_smoothing_0.1": {"name": "label_smoothing", "smoothing": 0.1},
    "label_smoothing_0.2": {"name": "label_smoothing", "smoothing": 0.2},
    "virtual_teacher_kd": {"name": "virtual_teacher_kd"},
    "max_sup": {"name": "max_sup"},
    "ols": {"name": "ols"},
    "ols_smoothed": {"name": "ols", "initial": "smoothed"},
    "ols_smoothed_0.8": {"name": "ols", "initial": "smoothed", "hard_weight": 0.8},
    "ols_prior_10": {"name": "ols", "initial": "smoothed", "prior_count": 10.0},
}
FURTHER_LOSSES: dict[str, dict] = {  # trained where `--losses` names them
    "ols_robust": {"name": "ols", "preset": "robust"},
    "ols_hard_0.3": {"name": "ols", "hard_weight": 0.3},
    "ols_hard_0.7": {"name": "ols", "hard_weight": 0.7},
    "ols_hard_0.9": {"name": "ols", "hard_weight": 0.9},
    "ols_momentum_0.5": {"name": "ols", "momentum": 0.5},
    "ols_unseen_uniform": {"name": "ols", "unseen": "uniform"},
    "ols_smoothed_warm_10": {"name": "ols", "initial": "smoothed", "min_correct": 10},
    "label_smoothing_pp": {"name": "label_smoothing_pp"},
    "progressive_self_kd": {"name": "progressive_self_kd"},
    "zipf_label_smoothing": {"name": "zipf_label_smoothing"},
    "label_relaxation": {"name": "label_relaxation"},
    "logit_norm": {"name": "logit_norm"},
}


def confusion_matrix(noise: str) -> np.ndarray:
    """Return Q `[K, K]`: row = latent class, column = label."""
    identity = np.eye(K)
    if noise == "readers":
        return reader_confusion(1.0, CLASSES)
    if noise.startswith("symmetric"):
        rate = int(noise.removeprefix("symmetric")) / 100
        return (1 - rate) * identity + rate * (1 - identity) / (K - 1)
    if noise == "class_dependent":  # 30 % of every second class of an anatomy are called the next one
        matrix = identity.copy()
        for k in range(0, K - 1, 2):
            if GROUPS[k] == GROUPS[k + 1]:
                matrix[k, k], matrix[k, k + 1] = 0.7, 0.3
        return matrix
    return identity


class Split:
    """Phantoms, all classes equally often, and labels under every noise.

    Args:
        num_images: N.
        first: Index of the first phantom.
        seed: Of phantoms and labels.
    """

    def __init__(self, num_images: int, first: int, seed: int):
        indices = np.arange(first, first + num_images)
        latent = indices % K
        config = PhantomConfig(image_size=IMAGE_SIZE, contrast=CONTRAST, seed=seed)
        images = torch.from_numpy(render_phantoms(CLASSES[latent], indices, config)).unsqueeze(1)
        self.images = images.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)
        self.latent = torch.from_numpy(latent)
        self.labels: dict[str, Tensor] = {}
        for noise in NOISES:
            draw = keyed_uniform(LABELS, seed, indices)[:, None]
            label = (confusion_matrix(noise)[latent].cumsum(1) <= draw).sum(1).clip(max=K - 1)
            self.labels[noise] = torch.from_numpy(label)


def build_network() -> nn.Module:
    """Build three convolutions and a linear layer: 11,700 images a second for a training step on one core."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    layers = [*block(1, 8, 2), *block(8, 16, 1), nn.MaxPool2d(2), *block(16, 32, 1), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * (IMAGE_SIZE // 8) ** 2, K))
    return network.to(memory_format=torch.channels_last)


def train(options: dict, images: Tensor, labels: Tensor, *, seed: int, steps: int):
    """Return the trained network, the soft labels of its last complete epoch `[K, K]`, and their mean diagonals."""
    seed_everything(seed)
    model = build_network()
    if find_loss(options["name"]).needs_index:
        options = options | {"num_samples": len(images), "epochs": math.ceil(steps / epoch_steps(len(images)))}
    loss = build_loss(num_classes=K, **options)
    collector = loss if isinstance(loss, OnlineLabelSmoothing) else OnlineLabelSmoothing(K)
    optimizer = torch.optim.SGD(model.parameters(), lr=PEAK_LR, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LR, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(seed)
    model.train()
    diagonals = []
    for step, (batch, ends_epoch) in enumerate(batches(len(images), seed)):
        if step == steps:
            break
        shift = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
        logits = model(images[batch].roll(shift, (2, 3)))
        if collector is not loss:
            collector(logits, labels[batch])
        optimizer.zero_grad()
        loss(logits, labels[batch], *([batch] if loss.needs_index else [])).backward()
        optimizer.step()
        schedule.step()
        if ends_epoch:
            collector.end_epoch()
            if collector is not loss:
                loss.end_epoch()
            diagonals.append(collector.soft_labels.diagonal().mean().item())
    return model, collector.soft_labels, diagonals


def epoch_steps(num_images: int) -> int:
    """Return the whole batches of an epoch, at least one."""
    return max(num_images // BATCH, 1)


def batches(num_images: int, seed: int) -> Iterator[tuple[Tensor, bool]]:
    """Yield batches without end, epoch after epoch, and whether each is the last one of its epoch."""
    epoch = 0
    while True:
        order = torch.from_numpy(keyed_order(seed, epoch, num_images))
        whole = order[: epoch_steps(num_images) * BATCH].split(BATCH)
        for number, batch in enumerate(whole, 1):
            yield batch, number == len(whole)
        epoch += 1


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Return logits `[N, K]`."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in images.split(500)])


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature of least NLL (Guo et al. 2017), in [1/20, 20]."""
    found = minimize_scalar(
        lambda log_t: F.cross_entropy(logits.double() / np.exp(log_t), labels).item(),
        bounds=(-np.log(20), np.log(20)),
        method="bounded",
    )
    return float(np.exp(found.x))


def measure(loss: str, noise: str, size: int, steps: int, seed: int, splits: dict[str, Split]) -> dict:
    """Train a cell, and return all that is measured of it."""
    truth, training, test = torch.from_numpy(confusion_matrix(noise)), splits["train"], splits["test"]
    used = size * K
    model, soft_labels, diagonals = train(
        (LOSSES | FURTHER_LOSSES)[loss], training.images[:used], training.labels[noise][:used], seed=seed, steps=steps
    )
    temperature = fit_temperature(predict(model, splits["val"].images), splits["val"].labels[noise])
    logits = predict(model, test.images)
    histogram = CalibrationHistogram()
    histogram.update(logits, test.labels[noise])
    found = {
        "top1_latent": (logits.argmax(1) == test.latent).double().mean().item(),
        "ece": histogram.compute()["ece"].item(),
        "nll": F.cross_entropy(logits, test.labels[noise]).item(),
        "aurc": selective_metrics(maximum_probability(logits), is_correct(logits, test.labels[noise]))["aurc"],
        "temperature": temperature,
    }
    for suffix, scaled in (("", logits), ("_scaled", logits / temperature)):
        against_truth = posterior_calibration(scaled, truth, latent=test.latent)
        found |= {f"{name}{suffix}": against_truth[name] for name in ("posterior_kl", "confidence_error")}
    recovery = soft_label_recovery(soft_labels, truth, GROUPS)
    found |= {f"soft_labels_{name}": recovery[name] for name in ("rank_correlation_within", "off_diagonal")}
    every = max(1, len(diagonals) // 12)
    found["diagonal_by_epoch"] = [round(value, 4) for value in diagonals[every - 1 :: every]]
    return {name: value if isinstance(value, list) else number(value) for name, value in found.items()}


def number(value: float) -> float | None:
    """Return a number with six digits after the point, and None for what JSON does not have."""
    return round(float(value), 6) if np.isfinite(value) else None


def main() -> None:
    """Train every cell that is not in the file of results yet, one line a cell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=LOSSES | FURTHER_LOSSES)
    parser.add_argument("--noises", nargs="+", default=list(NOISES), choices=NOISES)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "ols_map.jsonl")
    parser.add_argument(
        "--report", type=Path, default=None, help="train nothing; write tables and figures of --losses there"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    lines = args.output.read_text().splitlines() if args.output.is_file() else []
    cells = [json.loads(line) for line in lines]
    if args.report is not None:
        places = [
            Place(
                noise, size, steps, steps / epoch_steps(size * K), 1 - float(confusion_matrix(noise).diagonal().mean())
            )
            for noise, size, steps in product(NOISES, SIZES, LENGTHS)
        ]
        trained = [cell for cell in cells if cell.get("loss") in args.losses]
        if not trained:
            parser.error(f"{args.output} has no cell yet")
        print(write_report(trained, places, args.report))
        return
    key = ("seed", "noise", "size", "steps", "loss")
    done = {tuple(cell.get(name) for name in key) for cell in cells}
    environment = environment_record(torch.device("cpu"), num_processes=1, threads=1)
    with args.output.open("a") as file:
        print(json.dumps({"format": 1, "environment": environment}), file=file, flush=True)
        for seed in args.seeds:
            asked = product([seed], args.noises, args.sizes, LENGTHS, args.losses)
            wanted = [cell for cell in asked if cell not in done]
            if not wanted:
                continue
            sizes = {"test": TEST_IMAGES, "val": VAL_IMAGES, "train": SIZES[-1] * K}
            firsts = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
            splits = {name: Split(sizes[name], int(firsts[name]), seed) for name in sizes}
            start = time.perf_counter()
            for number, (_, noise, size, steps, loss) in enumerate(wanted, 1):
                place = dict(zip(key, (seed, noise, size, steps, loss), strict=True))
                print(json.dumps(place | measure(loss, noise, size, steps, seed, splits)), file=file, flush=True)
                os.fsync(file.fileno())
                left = (time.perf_counter() - start) / number * (len(wanted) - number)
                print(f"\rseed {seed}: {number} of {len(wanted)}, {left / 60:.0f} min left", end="", flush=True)
            print()


if __name__ == "__main__":
    main()
