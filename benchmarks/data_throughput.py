"""Images per second that one reading process delivers at 224 px from images of 256 px: gray beside gray, as float32.

    python benchmarks/data_throughput.py --images png --workers 0
    python benchmarks/data_throughput.py --images jpeg --workers 1

The images are phantoms, rendered once into `--folder` as files and packed. Every variant gives batches of 256 crops,
some of them flipped, scaled to float32 on this CPU; all but the one that says RGB give one channel. The variants take
turns in random order, a loader at a time, from files that lie in the page cache. The table gives medians, and the
median of the ratios to torchvision's gray folder within a round. `folder` runs twice, so that the second line shows the
noise. Without workers the seconds are those of the CPU, with workers those of the clock.
"""

import argparse
import csv
import json
import random
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

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
NUM_IMAGES = 2048
BASELINE = "torchvision folder, gray"


def prepare(folder: Path, images: str) -> tuple[RadImageNet, Path]:
    """Return the training split of phantoms as files of one kind, and the folder of its pack; made where absent."""
    tree = folder / "png"
    if not tree.exists():
        write_phantoms(tree, PhantomConfig(num_train=NUM_IMAGES, num_val=165, num_test=165, image_size=256))
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


def torchvision_folder(root: Path, mode: str) -> ImageFolder:
    """Return torchvision's folder of images, read by PIL as "L" (gray) or "RGB", with training's transforms."""
    channels = len(mode)
    transform = transforms.Compose(
        [
            transforms.RandomCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * channels, [0.5] * channels),
        ]
    )
    return ImageFolder(str(root), transform, loader=lambda path: Image.open(path).convert(mode))


class ByIndex:
    """The images of a folder of torchvision, read by keys (epoch, index)."""

    def __init__(self, images: ImageFolder):
        self.images = images

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        return self.images[key[1]][0]


class OpenCVGray:
    """OpenCV's grayscale decoder, a random crop and flip, and the same scale."""

    def __init__(self, files: list[str]):
        self.files = files

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        image = cv2.imread(self.files[key[1]], cv2.IMREAD_GRAYSCALE)
        top, left = random.randint(0, image.shape[0] - 224), random.randint(0, image.shape[1] - 224)
        image = image[top : top + 224, left : left + 224]
        image = np.ascontiguousarray(image[:, ::-1] if random.random() < 0.5 else image)
        return torch.from_numpy(image)[None].float().mul_(2 / 255).sub_(1)


def build_variants(folder: Path, images: str) -> dict:
    """Return each variant as a data set that is read by keys (epoch, index)."""
    source, pack = prepare(folder, images)
    files = [str(source.root / source.sample_id(index)) for index in range(len(source))]
    transform = TrainTransform(Preprocessing(224, 256))
    return {
        BASELINE: ByIndex(torchvision_folder(source.root, "L")),
        "torchvision folder, RGB": ByIndex(torchvision_folder(source.root, "RGB")),
        "OpenCV gray": OpenCVGray(files),
        "folder": TransformedImages(source, transform),
        "folder, again": TransformedImages(source, transform),
        "pack": TransformedImages(open_pack(pack)["train"], transform),
    }


def loader_rate(dataset: object, workers: int) -> float:
    """Return the images per second, as float32, of a loader after its first batches."""
    packed = getattr(dataset, "cut_from", None) is not None
    count = BATCH * (workers + 2) * (20 if packed else 1)  # more of a pack, to be measurable
    keys = EvalBatches(np.random.default_rng(0).permutation(count) % NUM_IMAGES, batch_size=BATCH)
    if isinstance(dataset, TransformedImages):
        batches = iter(EvalLoader(dataset.source, dataset.transform, keys, workers=workers))
    else:
        prefetch = {"prefetch_factor": 4} if workers else {}
        batches = iter(DataLoader(dataset, batch_sampler=keys, num_workers=workers, **prefetch))
    for _ in range(workers):
        next(batches)
    # In this process its own time is the whole cost, and other processes of the machine do not disturb it
    clock = time.perf_counter if workers else time.process_time
    start = clock()
    images = BATCH * sum(1 for _ in batches)
    return images / (clock() - start)


def measure(variants: dict, workers: int, rounds: int) -> dict[str, list[float]]:
    """Return the rates of each variant, a round after the other."""
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name in random.sample(list(rates), len(rates)):
            rate = loader_rate(variants[name], workers)
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
    rows = {}
    print(f"| {args.images}, {args.workers} workers | images/s | / {BASELINE} |\n|---|---|---|")
    for name, values in rates.items():
        lower, _, upper = statistics.quantiles(values, n=4)
        median = statistics.median(values)
        ratio = statistics.median(mine / other for mine, other in zip(values, rates[BASELINE], strict=True))
        rows[name] = {
            "median_images_per_second": round(median),
            "quartiles": [round(lower), round(upper)],
            "median_ratio_to_torchvision_gray": round(ratio, 2),
        }
        print(f"| {name} | {median:,.0f} | {ratio:.2f} |")
    environment = environment_record(torch.device("cpu"), num_processes=1, threads=1)
    results = json.loads(args.output.read_text()) if args.output.exists() else {"format": 1}
    results[f"{args.images}, {args.workers} workers"] = {**environment, "rounds": args.rounds, "rates": rows}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
