"""Random against sequential reading of a pack that is not in the page cache, one process.

    python benchmarks/pack_reading.py --folder data/reading --images 98304

Writes a pack of noise (64 KiB an image), and reads batches of crops from it in both orders. Before each turn the pack
is dropped from the page cache (`posix_fadvise`) and no image is read twice within one: so a turn reads as from a pack
that is larger than the memory. A disk's own cache, or its host's, is not dropped. `unannounced` leaves out what a pack
does by default, to ask the disk for all images of a batch before it waits for the first.
"""

import argparse
import gc
import json
import os
import random
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ols.data.loading import TransformedImages
from ols.data.packing import write_pack
from ols.data.sources import pack as packed
from ols.data.sources.pack import open_pack
from ols.data.transforms import Preprocessing, TrainTransform
from ols.runs.environment import environment_record

BATCH = 256


class Noise:
    """So many images of noise."""

    classes, groups = ["noise"], ["noise"]

    def __init__(self, images: int):
        self.targets = np.zeros(images, np.int64)
        self.pixels = np.random.default_rng(0).integers(0, 256, 1 << 22, dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.targets)

    def sample_id(self, index: int) -> str:
        """Return the number of an image."""
        return str(index)

    def read(self, index: int) -> Image.Image:
        """Return 256 x 256 pixels of noise."""
        start = index * 7919 % (len(self.pixels) - 65536)
        return Image.fromarray(self.pixels[start : start + 65536].reshape(256, 256))


def drop_from_cache(folder: Path) -> None:
    """Ask the system to forget the pages of a pack, which nobody must have mapped."""
    gc.collect()
    for path in folder.glob("*.npy"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rate(folder: Path, order: np.ndarray) -> float:
    """Return the images per second of reading crops in an order."""
    dataset = TransformedImages(open_pack(folder)["train"], TrainTransform(Preprocessing(224, 256)))
    start = time.perf_counter()
    for batch in order.reshape(-1, BATCH):
        dataset.__getitems__([(0, index) for index in batch.tolist()])
    return len(order) / (time.perf_counter() - start)


def main() -> None:
    """Measure, print, and write the results with their conditions."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("data/reading"))
    parser.add_argument("--images", type=int, default=98304)
    parser.add_argument("--batches", type=int, default=64, help="read in a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "pack_reading_cpu.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    small = Noise(1)
    write_pack({"train": Noise(args.images), "val": small, "test": small}, args.folder, workers=2)
    rng = np.random.default_rng(0)
    count = args.batches * BATCH
    turns = ["sequential", "random", "random, unannounced"]
    rates: dict[str, list[float]] = {name: [] for name in (*turns, "random, cached")}
    announcing = packed.WILLNEED
    for _ in range(args.rounds):
        for name in random.sample(turns, len(turns)):
            order = rng.permutation(args.images)[:count]
            if name == "sequential":
                order = rng.integers(args.images - count) + np.arange(count)
            drop_from_cache(args.folder)
            packed.WILLNEED = None if name == "random, unannounced" else announcing
            rates[name].append(rate(args.folder, order))
            if name == "random":
                rates["random, cached"].append(rate(args.folder, order))
    results = {"format": 1, **environment_record(torch.device("cpu"), num_processes=1, threads=1)}
    results |= {"images": args.images, "bytes": args.images * 65536, "batches": args.batches, "rates": rates}
    for name, values in rates.items():
        print(f"{name:20} {statistics.median(values):8,.0f} images/s ({min(values):,.0f} to {max(values):,.0f})")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
