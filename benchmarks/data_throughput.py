"""Images per second that one reading process delivers at 224 px from images of 256 px, side by side in one process.

    python benchmarks/data_throughput.py --images png --workers 0
    python benchmarks/data_throughput.py --images jpeg --workers 1

The images are phantoms, rendered once into `--folder` as files and packed. The variants take turns in random order, a
batch of 256 at a time (with workers, a loader at a time), from files that lie in the page cache; the table gives
medians. `folder` runs twice, so that the second line shows the noise.
"""

import argparse
import csv
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms

from ols.data.loading import EvalLoader, TransformedImages
from ols.data.packing import write_pack
from ols.data.sampling import EvalBatches
from ols.data.sources.pack import open_pack
from ols.data.sources.radimagenet import RadImageNet
from ols.data.transforms import Preprocessing, TrainTransform
from ols.phantoms import PhantomConfig, write_phantoms
from ols.runs.environment import environment_record

SPLITS = ("train", "val", "test")
BATCH = 256
SCALED = "pack, scaled to float32 on this CPU"


def prepare(folder: Path, images: str) -> tuple[RadImageNet, Path]:
    """Return the training split of phantoms as files of one kind, and the folder of its pack; made where absent."""
    tree = folder / "png"
    if not tree.exists():
        write_phantoms(tree, PhantomConfig(num_train=2048, num_val=165, num_test=165, image_size=256))
    if images == "jpeg" and not (folder / "jpeg").exists():
        for split in SPLITS:
            with (tree / f"RadiologyAI_{split}.csv").open() as file:
                rows = [(row["filename"], row["label"]) for row in csv.DictReader(file)]
            for name, _ in rows:
                path = folder / "jpeg" / Path(name).with_suffix(".jpg")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.open(tree / name).save(path, quality=90)
            with (folder / "jpeg" / f"RadiologyAI_{split}.csv").open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(("filename", "label"))
                table.writerows((Path(name).with_suffix(".jpg"), label) for name, label in rows)
    sources = {split: RadImageNet(folder / images, split) for split in SPLITS}
    write_pack(sources, folder / f"{images}-pack")
    return sources["train"], folder / f"{images}-pack"


class Torchvision:
    """PIL, converted to RGB, and the transforms that training scripts give it, to float32."""

    def __init__(self, files: list[str], crop: Callable):
        normalize = transforms.Normalize([0.5] * 3, [0.5] * 3)
        self.files = files
        self.transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize])

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        return self.transform(Image.open(self.files[key[1]]).convert("RGB"))


class OpenCVGray:
    """OpenCV's grayscale decoder and a random crop and flip, as bytes."""

    def __init__(self, files: list[str]):
        self.files = files

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        image = cv2.imread(self.files[key[1]], cv2.IMREAD_GRAYSCALE)
        top, left = random.randint(0, image.shape[0] - 224), random.randint(0, image.shape[1] - 224)
        image = image[top : top + 224, left : left + 224]
        return torch.from_numpy(np.ascontiguousarray(image[:, ::-1] if random.random() < 0.5 else image))[None]


def build_variants(folder: Path, images: str) -> dict:
    """Return each variant as a data set that is read by keys (epoch, index)."""
    source, pack = prepare(folder, images)
    files = [str(source.root / source.sample_id(index)) for index in range(len(source))]
    transform = TrainTransform(Preprocessing(224, 256))
    return {
        "PIL RGB, RandomResizedCrop": Torchvision(files, transforms.RandomResizedCrop(224)),
        "PIL RGB, RandomCrop": Torchvision(files, transforms.RandomCrop(224)),
        "OpenCV gray, RandomCrop": OpenCVGray(files),
        "folder": TransformedImages(source, transform),
        "folder, again": TransformedImages(source, transform),
        "pack": TransformedImages(open_pack(pack)["train"], transform),
    }


def _keys(dataset: object, batches: int) -> EvalBatches:
    """Return batches of shuffled indices; a pack gets 20 times as many, to be measurable."""
    packed = getattr(dataset, "cut_from", None) is not None
    count = BATCH * batches * (20 if packed else 1)
    return EvalBatches(np.random.default_rng(0).permutation(count) % 2048, batch_size=BATCH)


def in_process_rate(dataset: object) -> float:
    """Return the images per second of this process, for one batch."""
    (keys,) = EvalBatches(np.random.permutation(2048)[:BATCH], batch_size=BATCH)
    start = time.perf_counter()
    if hasattr(dataset, "__getitems__"):
        dataset.__getitems__(keys)
    else:
        torch.stack([dataset[key] for key in keys])
    return BATCH / (time.perf_counter() - start)


def loader_rate(dataset: object, workers: int, *, scaled: bool = False) -> float:
    """Return the images per second of a loader after its first batches."""
    keys = _keys(dataset, workers + 2)
    if scaled:
        loader = EvalLoader(dataset.source, dataset.transform, keys, workers=workers)
    else:
        whole = {"collate_fn": _already_a_batch} if hasattr(dataset, "__getitems__") else {}
        loader = DataLoader(dataset, batch_sampler=keys, num_workers=workers, prefetch_factor=4, **whole)
    batches = iter(loader)
    for _ in range(workers):
        next(batches)
    start = time.perf_counter()
    images = BATCH * sum(1 for _ in batches)
    return images / (time.perf_counter() - start)


def _already_a_batch(batch: dict) -> dict:
    return batch


def measure(variants: dict, workers: int, rounds: int) -> dict[str, list[float]]:
    """Return the rates of each variant."""
    rates: dict[str, list[float]] = {name: [] for name in variants}
    if workers:
        rates[SCALED] = []
    for number in range(rounds + 1):
        for name in random.sample(list(rates), len(rates)):
            dataset = variants["pack" if name == SCALED else name]
            rate = loader_rate(dataset, workers, scaled=name == SCALED) if workers else in_process_rate(dataset)
            if number:  # the first round warms up
                rates[name].append(rate)
    return rates


def main() -> None:
    """Measure, print a table, and add the results with their conditions to the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", choices=["png", "jpeg"], default="png")
    parser.add_argument("--workers", type=int, default=0, help="reading processes; 0 reads in this one")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=Path("data/throughput"), help="where the phantoms are")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "data_throughput_cpu.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    random.seed(0)
    rates = measure(build_variants(args.folder, args.images), args.workers, args.rounds)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    rows = {}
    print(
        f"| {args.images}, {args.workers} workers | images/s | / PIL RGB, RandomResizedCrop | / PIL RGB, RandomCrop |"
    )
    print("|---|---|---|---|")
    for name, values in rates.items():
        lower, _, upper = statistics.quantiles(values, n=4)
        over = [medians[name] / medians[f"PIL RGB, {crop}"] for crop in ("RandomResizedCrop", "RandomCrop")]
        rows[name] = {
            "median_images_per_second": round(medians[name]),
            "quartiles": [round(lower), round(upper)],
            "over_pil_rgb_random_resized_crop": round(over[0], 2),
            "over_pil_rgb_random_crop": round(over[1], 2),
        }
        print(f"| {name} | {medians[name]:,.0f} | {over[0]:.2f} | {over[1]:.2f} |")
    environment = environment_record(torch.device("cpu"), num_processes=1, threads=1)
    results = json.loads(args.output.read_text()) if args.output.exists() else {"format": 1}
    results[f"{args.images}, {args.workers} workers"] = {**environment, "rounds": args.rounds, "rates": rows}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
