"""Images a second of whole training steps: this package's trainer beside a hand-tuned loop and timm's components.

    python benchmarks/step_throughput.py                                                            # CPU, 64 px
    python benchmarks/step_throughput.py --device cuda --image_size 224 --batch 256 --precision bf16 --channels_last \
        --models resnet50 mobilenetv2_100 vgg19 --steps 50 [--compile] [--data <pack>]

The variants take turns in random order in one process, `--steps` steps at a time, on batches that lie in memory, each
with a model and an optimizer of its own; medians of the turns, and of the ratios within a round. `trainer, hard` runs
twice, so that the second line shows the noise. With `--data`, the trainer also reads from there, and the table says how
long the device waited for it. Peak memory is what one step allocates beyond weights and optimizer, by the allocator.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import timm.loss
import timm.optim
import timm.scheduler
import timm.utils
import torch
import torch.nn.functional as F
from loss_cost import allocated_peak
from torch import Tensor
from tqdm import tqdm

from ols.config import OptimConfig, TrainConfig
from ols.data.loaders import build_loaders
from ols.data.loading import Place
from ols.data.options import DataOptions
from ols.data.sampling import BatchShare, TrainBatches
from ols.losses import build_loss
from ols.models.build import build_model
from ols.runs.environment import available_cores, environment_record
from ols.runs.folder import RunFolder
from ols.tasks import build_task
from ols.tracking.tracker import Tracker
from ols.training.clock import DATA, FORECAST_STEPS
from ols.training.machine import build_accelerator
from ols.training.optim import build_optimizer, build_schedule
from ols.training.trainer import Trainer

CLASSES = 165
LR = 0.01


class Names:
    """What the trainer asks a data set for beside its images."""

    def __init__(self):
        self.classes = [f"class {k}" for k in range(CLASSES)]
        self.groups = ["all"] * CLASSES


class InMemory:
    """Batches that lie on the device, in the place of `ols.data.loading.TrainLoader`."""

    reading_advice = "nothing"
    steps_per_epoch = property(lambda self: self.batches.steps)

    def __init__(self, images: list[Tensor], targets: list[Tensor], steps: int):
        self.source = Names()
        self.images, self.targets = images, targets
        size = len(images[0])
        self.batches = TrainBatches(np.arange(steps * size), BatchShare(size))

    def epoch(self, number: int, start_step: int = 0) -> Iterator[dict[str, Tensor]]:
        """Yield the same batches in every epoch."""
        yield from self

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for step in range(self.batches.steps):
            image, target = self.images[step % len(self.images)], self.targets[step % len(self.images)]
            yield {"image": image, "target": target, "index": torch.arange(len(target))}


class Bare:
    """A loop as one tunes it by hand: autocast, a fused optimizer, one reading of the loss a turn."""

    def __init__(self, args: argparse.Namespace, name: str, loader: InMemory):
        self.loader, self.autocast = loader, _autocast(args)
        self.model = _model(args, name)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True
        )
        self.criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    def __call__(self) -> None:
        """Train for a turn."""
        total = torch.zeros((), device=self.loader.images[0].device)
        for batch in self.loader:
            with self.autocast():
                logits = self.model(batch["image"])
            loss = self.criterion(logits.float(), batch["target"])
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            total += loss.detach()
        total.item()


class Timm(Bare):
    """The same from timm's components, as its training script puts them together."""

    def __init__(self, args: argparse.Namespace, name: str, loader: InMemory):
        super().__init__(args, name, loader)
        self.optimizer = timm.optim.create_optimizer_v2(self.model, "sgd", lr=LR, weight_decay=1e-4)
        self.criterion = timm.loss.LabelSmoothingCrossEntropy(0.1)
        self.schedule, _ = timm.scheduler.create_scheduler_v2(
            self.optimizer, "cosine", num_epochs=100, step_on_epochs=False, updates_per_epoch=loader.batches.steps
        )
        self.updates = 0

    def __call__(self) -> None:
        """Train for a turn."""
        meter = timm.utils.AverageMeter()
        for batch in self.loader:
            with self.autocast():
                logits = self.model(batch["image"])
                loss = self.criterion(logits, batch["target"])
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.updates += 1
            self.schedule.step_update(self.updates)
        meter.update(loss.item(), len(batch["target"]))


class OurTrainer:
    """`ols.training.trainer.Trainer` with a loss by name; a turn is an epoch."""

    def __init__(self, args: argparse.Namespace, model_name: str, loader, folder: Path, loss: str):
        config = TrainConfig(
            global_batch_size=args.batch,
            precision=args.precision,
            channels_last=args.channels_last,
            compile=args.compile,
            checkpoint_every_minutes=None,
            device="auto" if args.device == "cuda" else "cpu",
        )
        classes = len(loader.source.classes)  # of data these may be others than in memory
        model = _model(args, model_name, classes, compiled=False)  # the trainer compiles
        options = OptimConfig(peak_lr=LR, warmup_epochs=0)
        optimizer = build_optimizer(model, options)
        steps = loader.batches.steps
        schedule = build_schedule(optimizer, options, epochs=100, steps_per_epoch=steps)
        task = build_task("multiclass", loader.source.classes, loader.source.groups)
        tracker = Tracker(RunFolder(folder), config={}, environment={"command": []}, task=task, enabled=True)
        tracker.start(images_seen=0)
        self.trainer = Trainer(
            config,
            seed=0,
            folder=RunFolder(folder),
            accelerator=build_accelerator(config),
            task=task,
            model=model,
            loss=build_loss(loss, num_classes=classes, reduction="sum"),
            optimizer=optimizer,
            schedule=schedule,
            train_loader=loader,
            val_loader=loader,
            data={},
            tracker=tracker,
        )
        self.trainer.clock.steps = FORECAST_STEPS  # a forecast would stand in the table
        self.bar = tqdm(disable=True)

    def __call__(self) -> None:
        """Train for a turn."""
        self.trainer.train_epoch(self.bar)
        self.trainer.progress.epoch += 1

    def data_share(self) -> float:
        """Return the share of the time so far that the device waited for data."""
        seconds = self.trainer.clock.read()
        return seconds[DATA] / sum(seconds.values())


def _model(args: argparse.Namespace, name: str, classes: int = CLASSES, *, compiled: bool = True) -> torch.nn.Module:
    torch.manual_seed(0)
    model = build_model(name, classes).to(args.device, memory_format=_memory_format(args)).train()
    if compiled and args.compile:
        model.compile()
    return model


def _memory_format(args: argparse.Namespace) -> torch.memory_format:
    return torch.channels_last if args.channels_last else torch.contiguous_format


def _autocast(args: argparse.Namespace) -> Callable:
    if args.precision == "float32":
        return nullcontext
    return lambda: torch.autocast(args.device, torch.bfloat16)


def build_variants(args: argparse.Namespace, name: str, folder: Path) -> dict[str, Callable[[], None]]:
    """Return what takes turns."""
    shape = (args.batch, 1, args.image_size, args.image_size)
    images = [torch.randn(shape, device=args.device).to(memory_format=_memory_format(args)) for _ in range(4)]
    targets = [torch.randint(CLASSES, (args.batch,), device=args.device) for _ in range(4)]
    memory = InMemory(images, targets, args.steps)
    variants: dict[str, Callable[[], None]] = {
        "bare loop": Bare(args, name, memory),
        "timm's components": Timm(args, name, memory),
        "trainer, hard": OurTrainer(args, name, memory, folder / "hard", "hard"),
        "trainer, hard, again": OurTrainer(args, name, memory, folder / "again", "hard"),
        "trainer, OLS": OurTrainer(args, name, memory, folder / "ols", "ols"),
    }
    if args.data is not None:
        loaders = build_loaders(
            DataOptions(root=args.data, image_size=args.image_size, train_images=args.batch * args.steps),
            BatchShare(args.batch),
            cores=available_cores(),
            place=Place(args.device, memory_format=_memory_format(args)),
        )
        variants["trainer, OLS, from data"] = OurTrainer(args, name, loaders.train, folder / "data", "ols")
    return variants


def measure(args: argparse.Namespace, name: str, folder: Path) -> dict[str, dict[str, float]]:
    """Return images a second and peak memory of each variant of a model."""
    variants = build_variants(args, name, folder)
    speeds: dict[str, list[float]] = {variant: [] for variant in variants}
    for number in range(args.rounds + 1):
        for variant in random.sample(list(variants), len(variants)):
            start = time.perf_counter()
            variants[variant]()
            if args.device == "cuda":
                torch.cuda.synchronize()
            if number:  # the first round compiles, tunes and fills caches
                speeds[variant].append(args.batch * args.steps / (time.perf_counter() - start))
    rows = {}
    for variant, values in speeds.items():
        lower, median, upper = statistics.quantiles(values, n=4)
        rows[variant] = {"images_per_second": round(median, 1), "quartiles": [round(lower, 1), round(upper, 1)]}
        for other in ("bare loop", "trainer, hard"):
            ratios = [mine / its for mine, its in zip(values, speeds[other], strict=True)]
            rows[variant][f"over {other}"] = round(statistics.median(ratios), 4)
        rows[variant]["peak_gb"] = round(peak_bytes(args, variants[variant]) / 1e9, 3)
        if isinstance(variants[variant], OurTrainer):
            rows[variant]["data_wait"] = round(variants[variant].data_share(), 4)
    return rows


def peak_bytes(args: argparse.Namespace, variant: Callable[[], None]) -> int:
    """Return the most that a turn has allocated at once beyond what it found."""
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        variant()
        return torch.cuda.max_memory_allocated() - before
    return allocated_peak(variant)[1]


def main() -> None:
    """Measure, print a table, and write the results with their conditions."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--models", nargs="+", default=["mobilenetv2_100", "resnet50"])
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--channels_last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--data", default=None, help="read from there, too: whatever --data.root takes")
    parser.add_argument("--steps", type=int, default=6, help="steps a turn")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each variant")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--output", type=Path, default=None, help="JSON file; by default beside this script")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    random.seed(0)
    environment = environment_record(torch.device(args.device), num_processes=1, threads=args.threads)
    results = {"format": 1, **environment, "arguments": {**vars(args), "output": None}, "models": {}}
    print("| model | loop | images/s | / bare loop | / trainer, hard | peak GB | data wait |")
    print("|---|---|---|---|---|---|---|")
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            rows = results["models"][name] = measure(args, name, Path(folder))
        for variant, row in rows.items():
            print(
                f"| {name} | {variant} | {row['images_per_second']:.0f} | {row['over bare loop']:.3f} | "
                f"{row['over trainer, hard']:.3f} | {row['peak_gb']:.3f} | {row.get('data_wait', 0):.1%} |",
                flush=True,
            )
    kind = "_compiled" if args.compile else ""
    output = args.output or Path(__file__).parent / "results" / f"step_throughput_{args.device}{kind}.json"
    output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
