"""Phantoms with targets: ultrasound of patients, each with a lesion whose outline, kind and area are known.

A patient is drawn first: sex, age, and a lesion of a suspicion s, which is normal with mean +d/2 for malignant and -d/2
for benign lesions and variance 1 (d: `separation`). All that is seen of the lesion's kind follows from s: the higher,
the more irregular and blurred its outline, the taller than wide it is, and the more it shadows what lies below. So

    P(malignant | s) = 1 / (1 + exp(-d s - log(m / (1 - m))))        m: share of malignant among lesions

is the truth, and no model can have a larger AUC between patients than Phi(d / sqrt(2)): 0.92 for d = 2. Each image
shows that lesion again, at another place and turned a little, so images of one patient are alike.

The muscle's bright fascia lies deeper in women (`sex`), and the tissue becomes coarser with `age`.
"""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ols.files import written_aside
from ols.phantoms.classes import PhantomConfig
from ols.phantoms.rendering import POLAR, pixel_grid, smooth_field, ultrasound

FORMAT = 1
WAVES = np.arange(2, 12)  # of an outline: how often each goes up and down around the lesion


@dataclass(frozen=True)
class LesionConfig:
    """A set of phantoms with targets.

    Args:
        patients: Number of patients.
        most_images: A patient has 1 to so many images.
        image_size: Height and width in pixels.
        malignant: Share of lesions that are malignant, in (0, 1).
        separation: Distance d between the suspicions of both kinds; larger is easier.
        without_lesion: Share of patients without a lesion, whose masks are empty, in [0, 1).
        men_among_malignant: Share of men among patients with a malignant lesion; among the others it is 1 less that.
            0.5 makes sex independent of the lesion.
        noise: Strength of the speckle.
        seed: Seed of everything.
    """

    patients: int = 240
    most_images: int = 5
    image_size: int = 64
    malignant: float = 0.4
    separation: float = 2.0
    without_lesion: float = 0.0
    men_among_malignant: float = 0.5
    noise: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for name in ("patients", "most_images", "image_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.malignant < 1:
            raise ValueError(f"malignant must lie in (0, 1), got {self.malignant}")
        for name in ("separation", "noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.without_lesion < 1:
            raise ValueError(f"without_lesion must lie in [0, 1), got {self.without_lesion}")
        if not 0 <= self.men_among_malignant <= 1:
            raise ValueError(f"men_among_malignant must lie in [0, 1], got {self.men_among_malignant}")


class Patient(NamedTuple):
    """Who is shown."""

    number: int
    images: int
    has_lesion: bool
    malignant: bool
    suspicion: float
    posterior: float  # P(malignant | suspicion); 0 without a lesion
    man: bool
    age: float  # years
    radius: float  # of the lesion, the image being 2 wide
    outline: NDArray[np.float64]  # [2, W]: size and phase of each wave


class LesionImage(NamedTuple):
    """A picture of a patient."""

    patient: Patient
    number: int  # of the patient's images
    pixels: NDArray[np.uint8]  # [size, size]
    mask: NDArray[np.bool_]  # [size, size]

    @property
    def name(self) -> str:
        """Its file name without a folder."""
        return f"p{self.patient.number:05d}_{self.number}.png"


def draw_patient(config: LesionConfig, number: int) -> Patient:
    """Draw a patient: a function of seed and number alone, but for the config's shares."""
    draws = _generator(config.seed, number, 0)
    images = int(draws.integers(1, config.most_images + 1))
    has_lesion, malignant, man = (
        draws.random(3) < [1 - config.without_lesion, config.malignant, config.men_among_malignant]
    ).tolist()
    malignant = malignant and has_lesion
    man = man if malignant else not man
    suspicion = draws.normal() + config.separation * (0.5 if malignant else -0.5)
    logit = config.separation * suspicion + np.log(config.malignant / (1 - config.malignant))
    return Patient(
        number=number,
        images=images,
        has_lesion=has_lesion,
        malignant=malignant,
        suspicion=suspicion,
        posterior=float(has_lesion / (1 + np.exp(-logit))),
        man=man,
        age=draws.uniform(30, 80),
        radius=draws.uniform(0.16, 0.34),
        outline=np.stack([draws.normal(size=len(WAVES)), draws.uniform(0, 2 * np.pi, len(WAVES))]),
    )


def draw_images(config: LesionConfig) -> Iterator[LesionImage]:
    """Render the set, patient by patient; a picture depends on seed, patient and its number alone."""
    for number in range(config.patients):
        patient = draw_patient(config, number)
        for image in range(patient.images):
            yield _render(config, patient, image)


def write_lesion_phantoms(root: str | os.PathLike[str], config: LesionConfig | None = None) -> None:
    """Write a set of phantoms with targets; where `root` holds exactly this set, nothing is done.

    `root` receives `images/` and `masks/` of 8-bit PNG files of one size, 255 in the lesion; `targets.csv` with
    `filename`, `patient`, `malignant` (0 or 1), `lesion_area` (share of the image), `age`, `sex`, `mask` and the box of
    the lesion in pixels, `x0`, `y0` inclusive to `x1`, `y1` exclusive, empty without one; `phantoms.json` with the
    config; and `truth.npz`: of each image `posterior` and `suspicion`, in the order of the table.

    Args:
        root: Folder to write; absent, empty, or the result of an earlier call.
        config: The set.

    Raises:
        ValueError: `root` holds anything else, which is left as it is.
    """
    config, root = config or LesionConfig(), Path(root)
    manifest = json.dumps({"format": FORMAT, "kind": "lesions", "config": asdict(config)}, indent=2) + "\n"
    if root.exists() and any(root.iterdir()):
        _check_same(root, manifest)
        return
    with written_aside(root, first_wins=True) as unfinished:
        for folder in ("images", "masks"):
            (unfinished / folder).mkdir(parents=True)
        rows, truth = [], []
        for image in draw_images(config):
            Image.fromarray(image.pixels).save(unfinished / "images" / image.name, compress_level=1)
            Image.fromarray(image.mask.astype(np.uint8) * 255).save(unfinished / "masks" / image.name)
            rows.append(_row(image))
            truth.append((image.patient.posterior, image.patient.suspicion))
        with open(unfinished / "targets.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        posterior, suspicion = np.array(truth).T
        np.savez(unfinished / "truth.npz", posterior=posterior, suspicion=suspicion)
        (unfinished / "phantoms.json").write_text(manifest, encoding="utf-8")
    _check_same(root, manifest)  # another process may have been there first


def _check_same(root: Path, manifest: str) -> None:
    path = root / "phantoms.json"
    if not path.is_file() or path.read_text(encoding="utf-8") != manifest:
        raise ValueError(f"{root} does not hold the phantoms asked for: choose another folder")


def _row(image: LesionImage) -> dict[str, str]:
    patient, rows, columns = image.patient, *np.nonzero(image.mask)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [""] * 4
    return {
        "filename": f"images/{image.name}",
        "patient": f"p{patient.number:05d}",
        "malignant": str(int(patient.malignant)),
        "lesion_area": f"{image.mask.mean():.6f}",
        "age": f"{patient.age:.1f}",
        "sex": "M" if patient.man else "F",
        "mask": f"masks/{image.name}",
        **dict(zip(("x0", "y0", "x1", "y1"), map(str, box), strict=True)),
    }


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _render(config: LesionConfig, patient: Patient, number: int) -> LesionImage:
    size, draws = config.image_size, _generator(config.seed, patient.number, 1 + number)
    x, y = pixel_grid(size)
    z = {
        "texture": draws.standard_normal((1, 18, 18), np.float32),
        "bias": draws.standard_normal((1, 3, 3), np.float32),
        "noise": draws.standard_normal((1, 2, *POLAR), np.float32),
    }
    kind = 1 / (1 + np.exp(-patient.suspicion))  # 0: all signs of a benign lesion, 1: of a malignant one
    place = draws.uniform([-0.3, -0.15], [0.3, 0.3])
    turn, grow = draws.normal(0, 0.12), np.exp(draws.normal(0, 0.06))

    # Skin, fat, the fascia and the muscle below it, and tissue that is coarser with age
    depth = y + 0.05 * smooth_field(z["bias"], size)[0]
    fascia = (0.52 if patient.man else 0.64) + draws.normal(0, 0.03)
    tissue = np.where(depth < -0.7, 0.6, 0.42).astype(np.float32)
    tissue = np.where(depth > fascia, np.float32(0.3), tissue)
    tissue += np.float32(0.4) * np.exp(-(((depth - fascia) / 0.035) ** 2))
    tissue *= 1 + np.float32(0.05 + 0.25 * (patient.age - 30) / 50) * smooth_field(z["texture"], size)[0]

    # Lesion
    mask = np.zeros((size, size), bool)
    if patient.has_lesion:
        right, down = x - place[0], y - place[1]
        wide = np.exp(0.35 * (0.5 - kind))  # wider than tall, or taller than wide
        u, v = np.cos(turn) * right + np.sin(turn) * down, np.cos(turn) * down - np.sin(turn) * right
        u, v = u / wide, v * wide
        angle, distance = np.arctan2(v, u), np.hypot(u, v)
        heights, phases = patient.outline
        waves = (heights * np.cos(angle[..., None] * WAVES + phases)).sum(axis=-1) / np.sqrt(len(WAVES))
        radius = grow * patient.radius * np.maximum(1 + (0.03 + 0.22 * kind) * waves, 0.3)
        mask = distance < radius
        edge = max(2 / size, 0.02 + 0.10 * kind)
        inside = np.clip((radius - distance) / edge + 0.5, 0, 1)
        below = np.clip((down - 0.3 * patient.radius) / 0.2, 0, 1) * np.exp(-((right / (0.9 * patient.radius)) ** 4))
        tissue *= 1 + below * (0.35 * (1 - kind) - 0.45 * kind)  # enhancement or shadow
        tissue += (0.12 - tissue) * inside
    picture = ultrasound(
        np.maximum(tissue, 0).astype(np.float32)[None], z, PhantomConfig(image_size=size, noise=config.noise)
    )[0]
    return LesionImage(patient, number, np.clip(picture * 280 + 0.5, 0, 255).astype(np.uint8), mask)
