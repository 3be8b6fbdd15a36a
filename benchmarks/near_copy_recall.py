"""How many altered copies the audit's search for near-duplicates finds, and how many other images it takes for some.

    python benchmarks/near_copy_recall.py <folder of images> --images 300

Each image is altered in one way, and compared with itself by the three steps of the search. Beside recall stands how
often two different images of the folder are taken for near-copies: neighbouring slices of one patient among them.
"""

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from ols.audit import near

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def saved_as_jpeg(quality: int) -> Change:
    """Return the image after JPEG of this quality."""

    def change(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("L")

    return change


def resized(factor: float) -> Change:
    """Return the image at so many times its size."""
    return lambda image, rng: image.resize([round(side * factor) for side in image.size], Image.Resampling.BICUBIC)


def noisy(deviation: float) -> Change:
    """Return the image with normal noise of this deviation, in gray levels."""

    def change(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        pixels = np.asarray(image) + rng.normal(0, deviation, (image.height, image.width))
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))

    return change


def brighter(factor: float) -> Change:
    """Return the image times a factor."""
    return lambda image, rng: image.point(lambda value: min(255, int(value * factor)))


def cropped(share: float) -> Change:
    """Return the image without this share of its side, at each side."""

    def change(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        x, y = round(image.width * share), round(image.height * share)
        return image.crop((x, y, image.width - x, image.height - y))

    return change


def with_text(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the image with a line of text burnt in."""
    drawn = image.copy()
    ImageDraw.Draw(drawn).text(
        (image.width * 0.05, image.height * 0.05), "PATIENT 0042  R", fill=255, font_size=image.height / 14
    )
    return drawn


CHANGES: dict[str, Change] = {
    "JPEG, quality 90": saved_as_jpeg(90),
    "JPEG, quality 50": saved_as_jpeg(50),
    "resized to 0.5": resized(0.5),
    "noise of 5 gray levels": noisy(5),
    "noise of 15 gray levels": noisy(15),
    "brighter x 1.25": brighter(1.25),
    "brighter x 1.6": brighter(1.6),
    "cropped 1 % a side": cropped(0.01),
    "cropped 2 % a side": cropped(0.02),
    "cropped 4 % a side": cropped(0.04),
    "text burnt in": with_text,
    "mirrored": lambda image, rng: ImageOps.mirror(image),
    "inverted": lambda image, rng: ImageOps.invert(image),
}


def hashed(image: Image.Image) -> int:
    """Return the perceptual hash, 64 bits."""
    return int(str(imagehash.phash(image)), 16)


def found(first: list[Image.Image], second: list[Image.Image]) -> np.ndarray:
    """Return which pairs the search finds, bool `[N]`."""
    small = [
        [np.asarray(i.resize((16, 16), Image.Resampling.BOX)).ravel() for i in images] for images in (first, second)
    ]
    order = np.arange(len(first))
    both = np.concatenate([np.stack(side) for side in small])
    coarse = near.alike(both, order, order + len(first))
    bits = np.array([(hashed(a) ^ hashed(b)).bit_count() for a, b in zip(first, second, strict=True)])
    sizes = [np.stack([near.comparable(image) for image in images]) for images in (first, second)]
    return (bits <= near.RADIUS) & coarse & (near.best_correlation(*sizes) >= near.CORRELATION)


def main() -> None:
    """Alter, search, print a table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    paths = sorted(p for p in arguments.folder.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    chosen = rng.choice(len(paths), min(arguments.images, len(paths)), replace=False)
    images = [Image.open(paths[i]).convert("L") for i in chosen]
    results = {
        name: float(found(images, [change(image, rng) for image in images]).mean()) for name, change in CHANGES.items()
    }
    shift = images[1:] + images[:1]
    results["two different images"] = float(found(images, shift).mean())
    print("| change | found |\n|---|---:|")
    for name, share in results.items():
        print(f"| {name} | {share:.0%} |")
    if arguments.output:
        record = {"format": 1, "images": len(images), "seed": arguments.seed, "found": results}
        arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
