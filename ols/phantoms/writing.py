"""A set of phantoms on disk, written on all cores, complete or absent."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ols.files import written_aside
from ols.phantoms.classes import PHANTOM_CLASSES, PhantomClass, PhantomConfig, draw_classes
from ols.phantoms.readers import draw_readings, save_reader_confusion
from ols.phantoms.rendering import render_phantoms

FORMAT = 1


def _difference(root: Path, config: PhantomConfig) -> str | None:
    """What keeps `root` from being the phantoms of this config; None if nothing does."""
    manifest = root / "phantoms.json"
    if not manifest.is_file():
        return "it has no phantoms.json"
    try:
        found = dict(json.loads(manifest.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        return "its phantoms.json is not a JSON object"
    if found.get("format") != FORMAT:
        return f"its format is {found.get('format')}, this version writes {FORMAT}"
    there = {"reader_noise": 0.0, **found.get("config", {})}  # sets from before readers could disagree
    asked = asdict(config)
    differing = [name for name in {**asked, **there} if there.get(name) != asked.get(name)]
    return "; ".join(f"its {name} is {there.get(name)}, not {asked.get(name)}" for name in differing) or None


def _check_same(root: Path, config: PhantomConfig) -> None:
    if difference := _difference(root, config):
        raise ValueError(f"{root} does not hold the phantoms asked for: {difference}; choose another folder")


def write_phantoms(root: str | os.PathLike[str], config: PhantomConfig, *, workers: int | None = None) -> None:
    """Write a set of phantoms to disk in the official form of RadImageNet.

    `root` receives `RadiologyAI_{train,val,test}.csv`, the tree `radiology_ai/` of 8-bit grayscale PNG files, and
    `phantoms.json` with the config; where readers disagree also `reader_confusion.npz`, and a column `latent` beside
    `label` in the CSVs. Files lie in the folder of the class drawn: their names and bytes do not depend on how they are
    read. The set appears at once when it is complete: it is written under a temporary name beside `root` and renamed; a
    killed run leaves that hidden folder behind and nothing else. Where `root` already holds exactly these phantoms,
    nothing is done.

    Args:
        root: Folder to write; absent, empty, or the result of an earlier call.
        config: The set.
        workers: Processes that render and compress, at least 1; by default one per core, fewer for a small set. They
            run this file and nothing of the calling program. The images do not depend on it.

    Raises:
        ValueError: If `root` holds anything else; names the folder and the difference, and leaves it as it is. If
            `workers` is less than 1.
        RuntimeError: If a worker fails; nothing is left behind.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    root = Path(root)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        _check_same(root, config)
        return
    with written_aside(root, first_wins=True) as unfinished:
        unfinished.mkdir()
        _write_tables(unfinished, config)
        _write_all_images(unfinished, config, workers)
    _check_same(root, config)  # another process may have been there first


def _file_name(index: int, c: PhantomClass) -> str:
    return f"radiology_ai/{c.folder}/{c.anatomy}{index:07d}.png"


def _write_tables(folder: Path, config: PhantomConfig) -> None:
    """Everything but the images: CSVs, empty class folders, what readers confuse, manifest."""
    columns = ("filename", "label") if config.reader_noise == 0 else ("filename", "label", "latent")
    readings = draw_readings(config)
    start = 0
    for split, classes in draw_classes(config).items():
        with open(folder / f"RadiologyAI_{split}.csv", "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(columns)
            for index, (k, read) in enumerate(zip(classes, readings[split], strict=True), start):
                c = PHANTOM_CLASSES[k]
                rows.writerow((_file_name(index, c), PHANTOM_CLASSES[read].label, c.label)[: len(columns)])
        for k in np.unique(classes):
            (folder / "radiology_ai" / PHANTOM_CLASSES[k].folder).mkdir(parents=True, exist_ok=True)
        start += len(classes)
    if config.reader_noise > 0:
        save_reader_confusion(folder, config)
    manifest = json.dumps({"format": FORMAT, "config": asdict(config)}, indent=2)
    (folder / "phantoms.json").write_text(manifest + "\n", encoding="utf-8")


def _write_images(folder: Path, config: PhantomConfig, worker: int, workers: int) -> Iterator[int]:
    """Write every `workers`-th part of the images; yields how many are new."""
    classes = np.concatenate(list(draw_classes(config).values()))
    anatomies = np.array([c.anatomy for c in PHANTOM_CLASSES])[classes]
    order = np.argsort(anatomies, kind="stable")  # a chunk of one anatomy renders fastest
    for indices in np.array_split(order, -(-len(order) // 64))[worker::workers]:
        for index, image in zip(indices, render_phantoms(classes[indices], indices, config), strict=True):
            name = _file_name(index, PHANTOM_CLASSES[classes[index]])
            Image.fromarray(image).save(folder / name, compress_level=1)
        yield len(indices)


def _write_all_images(folder: Path, config: PhantomConfig, workers: int | None) -> None:
    total = config.num_train + config.num_val + config.num_test
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = max(1, min(cores, total * config.image_size**2 // 2**22))  # a worker takes half a second to start
    with tqdm(total=total, desc="phantoms", unit="image", disable=None) as progress:
        if workers == 1:
            for written in _write_images(folder, config, 0, 1):
                progress.update(written)
            return
        # Threads wait for each other's Python, fork would copy a running torch, spawn would import the caller's script.
        command = [sys.executable, "-m", "ols.phantoms", os.fspath(folder.absolute())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # workers find what this process found
        processes = []
        reports, to_reports = os.pipe()
        try:
            with open(reports) as lines:
                with open(to_reports, "wb") as report:
                    for worker in range(workers):
                        processes.append(
                            subprocess.Popen([*command, str(worker), str(workers)], stdout=report, env=environment)
                        )
                for line in lines:
                    progress.update(int(line))
            if any([process.wait() for process in processes]):
                raise RuntimeError(f"a phantom worker failed, its error is above: {' '.join(command)}")
        finally:
            for process in processes:
                process.kill()
                process.wait()


def run_worker(folder: str, worker: str, workers: str) -> None:
    """Write a worker's part of a set whose tables are written, and report to standard output: `__main__` calls it."""
    config = PhantomConfig(**json.loads((Path(folder) / "phantoms.json").read_text(encoding="utf-8"))["config"])
    for written in _write_images(Path(folder), config, int(worker), int(workers)):
        os.write(1, b"%d\n" % written)  # in one piece: the workers share the pipe
