"""Fixtures that several test modules share."""

import csv
import os
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SPLITS = ("train", "val", "test")


def pytest_configure(config):
    """Let processes keep the bytecode that they compile, apart from the sources: half of a start is compilation."""
    if hasattr(config, "cache") and os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        os.environ["PYTHONPYCACHEPREFIX"] = str(config.cache.mkdir("bytecode"))


@cache
def _starts_processes(path: Path) -> bool:
    return any(word in path.read_text() for word in ("subprocess", "launched"))


def pytest_collection_modifyitems(items):
    """Begin with files that start processes: few tests, each long, and one that begins last leaves a core idle."""
    items.sort(key=lambda item: not _starts_processes(item.path))


def build_loaders_of(root, **options):
    """Build the loaders of a data set, with each option where it belongs."""
    from ols.data.loaders import build_loaders
    from ols.data.loading import Place
    from ols.data.options import DataOptions
    from ols.data.sampling import BatchShare

    def take(group):
        return group(**{field.name: options.pop(field.name) for field in fields(group) if field.name in options})

    options["root"] = str(root)
    data, share, place = take(DataOptions), take(BatchShare), take(Place)
    return build_loaders(data, share, place=place, **options)


class Tree:
    """A small data set in the form of RadImageNet, written by hand, of gray PNGs whose mean grows with the class."""

    def __init__(self, root: Path):
        self.root = root
        self.rows: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}

    def add(self, split: str, filename: str, label: str, *, mode: str = "L", size=(20, 16), level: int = 100) -> None:
        rng = np.random.default_rng(len(self.rows[split]))
        pixels = (level + rng.integers(-20, 20, (size[1], size[0]))).clip(0, 255).astype(np.uint8)
        path = self.root / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(mode).save(path)
        self.rows[split].append((filename, label))

    def write_csvs(self, folder: Path | None = None, newline: str = "\n", encoding: str = "utf-8") -> None:
        folder = folder or self.root
        folder.mkdir(parents=True, exist_ok=True)
        for split, rows in self.rows.items():
            with (folder / f"RadiologyAI_{split}.csv").open("w", newline="", encoding=encoding) as file:
                writer = csv.writer(file, lineterminator=newline)
                writer.writerow(["filename", "label"])
                writer.writerows(rows)


CLASSES = {
    "ct-a": "radiology_ai/CT/abd/normal",
    "ct-b": "radiology_ai/CT/abd/ca++_stone_",
    "mr-a": "radiology_ai/MR/brain/normal",
    "us-a": "radiology_ai/US/gb",  # one level shallower
}


def fill(tree: Tree, per_class: dict[str, int]) -> Tree:
    for split, count in per_class.items():
        for level, (label, folder) in enumerate(CLASSES.items()):
            for number in range(count):
                mode = "RGB" if number % 2 else "L"
                tree.add(split, f"{folder}/{split}{number}.png", label, mode=mode, level=40 + 50 * level)
    return tree


@pytest.fixture
def tree(tmp_path) -> Tree:
    """Four classes in three groups, 6 / 3 / 3 images of each; the CSVs are not written yet."""
    return fill(Tree(tmp_path / "set"), {"train": 6, "val": 3, "test": 3})


SMALL = [
    "--data.phantoms=false",
    "--data.image_size=32",
    "--data.resize_size=34",
    "--data.workers=0",
    "--model.name=test_convnext",
    "--train.epochs=3",
    "--train.global_batch_size=8",
    "--train.log_every_steps=1",
    "--train.device=cpu",
    "--train.threads=1",
]


@contextmanager
def figures_as_a_pixel():
    """Record a pixel in the place of each figure: to render them takes half the time of a small run."""
    from torch.utils.tensorboard import SummaryWriter

    def add_figure(writer: SummaryWriter, tag: str, figure, images_seen: int) -> None:
        writer.add_image(tag, np.zeros((1, 1, 1), np.uint8), images_seen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SummaryWriter, "add_figure", add_figure)
        yield


def export_fresh_net(folder: Path, preprocessing, *, classes=("healthy", "ill"), seed: int = 0) -> None:
    """Write an export of a small net that tells two classes apart, with the weights of a seed."""
    import torch

    from ols.models.build import build_model
    from ols.runs.export import export_model

    torch.manual_seed(seed)
    export_model(
        folder,
        build_model("test_resnet", 2, 1),
        architecture="test_resnet",
        classes=list(classes),
        groups=["set", "set"],
        preprocessing=preprocessing,
        metrics={},
        task="binary",
    )


def forget_accelerate() -> None:
    """Forget what was done with Accelerate in this process, whose accelerators have the precision of the first."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


@contextmanager
def accelerate_begins_anew():
    """Forget what was done with Accelerate before, and at the end what was done inside."""
    forget_accelerate()
    try:
        yield
    finally:
        forget_accelerate()


@pytest.fixture
def train(tree, tmp_path):
    """Run the recipe on the small tree in a folder by name, and return the folder."""
    from ols.command_line import parse_config
    from recipes.pretrain import QUICKSTART, main

    tree.write_csvs()

    def run(name: str, *options: str) -> Path:
        run_dir = tmp_path / name
        with accelerate_begins_anew(), figures_as_a_pixel():
            main(parse_config(QUICKSTART, [*SMALL, f"--data.root={tree.root}", f"--run_dir={run_dir}", *options]))
        return run_dir

    run.folder = tmp_path
    return run
