"""Which loss is as sure as readers are, by the number of training images: phantoms whose truth is known.

    OMP_NUM_THREADS=1 python benchmarks/reader_disagreement.py

Images of three anatomies are labelled by readers who disagree by a known matrix Q, and a small network is trained on
them from random weights: the same images in the same order for every loss, and the same number of steps at every
sample size, so that fewer images are seen more often. Test images are compared with Q: KL from the true distribution of
labels, and confidence against the true probability of the predicted class. The last epoch is tested, none is selected;
the temperature is fitted on validation labels by NLL. What OLS learns is compared with Q and with its fixed point;
beside the other losses runs an OLS that only collects, for what their networks would have taught.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from ols.keyed import keyed_order
from ols.losses import OnlineLabelSmoothing, build_loss
from ols.losses.ols_fixed_point import ols_fixed_point
from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.posterior import posterior_calibration, soft_label_recovery
from ols.phantoms import PHANTOM_CLASSES, PhantomConfig, read_labels, reader_confusion, render_phantoms
from ols.runs.environment import environment_record
from ols.training.machine import seed_everything

ANATOMIES = ("brain", "lung", "us")  # 31 classes
HARD_WEIGHT = 0.5
LOSSES = {
    "hard": {"name": "hard"},
    "label smoothing 0.1": {"name": "label_smoothing", "smoothing": 0.1},
    "ols": {"name": "ols", "hard_weight": HARD_WEIGHT},
}
IMAGE_SIZE = 32
CONTRAST = 0.7
VAL_IMAGES, TEST_IMAGES = 1000, 4000
BATCH = 64
PEAK_LR = 0.1
WEIGHT_DECAY = 5e-4
SHIFT = 2  # pixels by which a training batch is moved at most


def draw_split(num_images: int, first: int, confusion: np.ndarray, classes: np.ndarray, config: PhantomConfig):
    """Return images `[N, 1, H, W]`, read labels `[N]` and latent classes `[N]`, all classes equally often."""
    indices = np.arange(first, first + num_images)
    latent = indices % len(classes)
    read = read_labels(latent, indices, confusion, seed=config.seed)
    images = torch.from_numpy(render_phantoms(classes[latent], indices, config)).unsqueeze(1)
    return images.float().div_(127.5).sub_(1), torch.from_numpy(read), torch.from_numpy(latent)


def build_network(num_classes: int) -> nn.Module:
    """Build three convolutions and a linear layer: 3,500 images a second for a training step on one core."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    layers = [*block(1, 16, 2), *block(16, 32, 1), nn.MaxPool2d(2), *block(32, 64, 1), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (IMAGE_SIZE // 8) ** 2, num_classes))


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Return logits `[N, K]`."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in images.split(500)])


def train(loss_options: dict, images: Tensor, targets: Tensor, num_classes: int, seed: int, total_steps: int):
    """Return the trained network and what an OLS beside it collected in the last epoch, `[K, K]`."""
    seed_everything(seed)
    model = build_network(num_classes)
    loss = build_loss(num_classes=num_classes, **loss_options)
    collector = loss if isinstance(loss, OnlineLabelSmoothing) else OnlineLabelSmoothing(num_classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=PEAK_LR, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    steps = len(images) // BATCH
    epochs = round(total_steps / steps)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LR, total_steps=epochs * steps, pct_start=0.1, cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        model.train()
        order = torch.from_numpy(keyed_order(seed, epoch, len(images)))
        for batch in order[: steps * BATCH].split(BATCH):
            shift = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
            logits = model(images[batch].roll(shift, (2, 3)))
            if collector is not loss:
                collector(logits, targets[batch])
            optimizer.zero_grad()
            loss(logits, targets[batch]).backward()
            optimizer.step()
            schedule.step()
        collector.end_epoch()
    return model, collector.soft_labels


def describe(logits: Tensor, read: Tensor, latent: Tensor, confusion: Tensor) -> dict[str, float]:
    """Return calibration by the labels and by the truth."""
    histogram = CalibrationHistogram()
    histogram.update(logits, read)
    measured = {name: float(value) for name, value in histogram.compute().items() if name in ("ece", "nll")}
    truth = posterior_calibration(logits, confusion, latent=latent)
    return measured | {name: truth[name] for name in ("posterior_kl", "confidence_error", "confidence_bias")}


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """Return the temperature of least NLL (Guo et al. 2017)."""
    found = minimize_scalar(lambda log_t: F.cross_entropy(logits.double() / np.exp(log_t), targets).item(), (-1, 1))
    return float(np.exp(found.x))


def measure(name: str, size: int, seed: int, steps: int, splits: dict, truth: Tensor, groups: list[str]) -> dict:
    """Train with one loss on the first images of the training split, and return all that is measured."""
    images, read, _ = (part[:size] for part in splits["train"])
    model, soft_labels = train(LOSSES[name], images, read, len(truth), seed, steps)
    temperature = fit_temperature(predict(model, splits["val"][0]), splits["val"][1])
    test_images, test_read, test_latent = splits["test"]
    logits = predict(model, test_images)
    predicted = logits.argmax(1)
    fixed_point = ols_fixed_point(truth, HARD_WEIGHT)
    return {
        "seed": seed,
        "train_images": size,
        "loss": name,
        "top1_latent": (predicted == test_latent).double().mean().item(),
        "top1_read": (predicted == test_read).double().mean().item(),
        "top1_train": (predict(model, images).argmax(1) == read).double().mean().item(),
        "raw": describe(logits, test_read, test_latent, truth),
        "temperature": temperature,
        "scaled": describe(logits / temperature, test_read, test_latent, truth),
        "recovery_of_confusion": soft_label_recovery(soft_labels, truth, groups),
        "recovery_of_fixed_point": soft_label_recovery(soft_labels, fixed_point, groups),
    }


def print_table(runs: list[dict]) -> None:
    """Print mean and standard deviation over seeds."""
    columns = {
        "top-1 latent": lambda run: run["top1_latent"],
        "top-1 read": lambda run: run["top1_read"],
        "top-1 train": lambda run: run["top1_train"],
        "ECE": lambda run: run["raw"]["ece"],
        "KL": lambda run: run["raw"]["posterior_kl"],
        "confidence error": lambda run: run["raw"]["confidence_error"],
        "bias": lambda run: run["raw"]["confidence_bias"],
        "T": lambda run: run["temperature"],
        "scaled ECE": lambda run: run["scaled"]["ece"],
        "scaled KL": lambda run: run["scaled"]["posterior_kl"],
        "scaled confidence error": lambda run: run["scaled"]["confidence_error"],
        "rank r with Q": lambda run: run["recovery_of_confusion"]["rank_correlation_within"],
        "with fixed point": lambda run: run["recovery_of_fixed_point"]["rank_correlation_within"],
        "off diagonal": lambda run: run["recovery_of_confusion"]["off_diagonal"],
        "in group": lambda run: run["recovery_of_confusion"]["within_group_share"],
        "|S - Q|": lambda run: run["recovery_of_confusion"]["mean_absolute_difference"],
        "|S - fixed point|": lambda run: run["recovery_of_fixed_point"]["mean_absolute_difference"],
    }
    print("| images | loss | " + " | ".join(columns) + " |")
    print("|---|---|" + "---|" * len(columns))
    for size, name in dict.fromkeys((run["train_images"], run["loss"]) for run in runs):
        chosen = [run for run in runs if (run["train_images"], run["loss"]) == (size, name)]
        cells = []
        for read_off in columns.values():
            values = [read_off(run) for run in chosen]
            cells.append(f"{np.mean(values):.4f} ± {np.std(values, ddof=1) if len(values) > 1 else np.nan:.4f}")
        print(f"| {size} | {name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Train all, print a table, and write the results with their conditions."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 3000, 10_000], help="training images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2200, help="of each training: 14 epochs of 10,000 images")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "reader_disagreement.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()

    classes = np.array([k for k, c in enumerate(PHANTOM_CLASSES) if c.anatomy in ANATOMIES])
    groups = [PHANTOM_CLASSES[k].anatomy for k in classes]
    confusion = reader_confusion(1.0, classes)
    truth = torch.from_numpy(confusion)
    fixed_point = ols_fixed_point(truth, HARD_WEIGHT)
    results = {
        "format": 1,
        **environment_record(torch.device("cpu"), num_processes=1, threads=1),
        "anatomies": ANATOMIES,
        "classes": len(classes),
        "image_size": IMAGE_SIZE,
        "contrast": CONTRAST,
        "steps": args.steps,
        "batch": BATCH,
        "peak_lr": PEAK_LR,
        "weight_decay": WEIGHT_DECAY,
        "losses": LOSSES,
        "val_images": VAL_IMAGES,
        "test_images": TEST_IMAGES,
        "mean_diagonal_of_confusion": truth.diagonal().mean().item(),
        "fixed_point": posterior_calibration(fixed_point.log().clamp_min(-700), truth)
        | soft_label_recovery(fixed_point, truth, groups),
        "runs": [],
    }
    for seed in args.seeds:
        config = PhantomConfig(image_size=IMAGE_SIZE, contrast=CONTRAST, seed=seed)
        sizes = {"test": TEST_IMAGES, "val": VAL_IMAGES, "train": max(args.sizes)}
        firsts = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
        splits = {name: draw_split(sizes[name], firsts[name], confusion, classes, config) for name in sizes}
        for size in args.sizes:
            for name in LOSSES:
                results["runs"].append(measure(name, size, seed, args.steps, splits, truth, groups))
                print(json.dumps(results["runs"][-1]), flush=True)
    results["seconds"] = round(time.perf_counter() - start)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(results, indent=2) + "\n")
    print_table(results["runs"])


if __name__ == "__main__":
    main()
