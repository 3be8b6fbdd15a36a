"""Open and decode every file once; what was learned of each lies in a log that a second start continues."""

import base64
import hashlib
import json
import multiprocessing
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ols.audit.near import comparable
from ols.data.sources.files import EIGHT_BIT_MODES, open_image, orientation, upright
from ols.data.workers import end_with_parent

FORMAT = 2
CHUNK = 64  # files that a worker is given at a time
FILES_PER_WORKER = 2000  # a worker takes seconds to start
THUMBNAIL = 16  # pixels
ENDS = {b"\x89PNG": b"IEND\xaeB`\x82", b"\xff\xd8\xff": b"\xff\xd9"}  # first bytes of a format, and its last

# What is known of a file. `fault` is empty where it decodes, else missing, unreadable, truncated or refused.
FILE = np.dtype(
    [
        ("fault", "U10"),
        ("mode", "U5"),
        ("width", np.int32),
        ("height", np.int32),
        ("file_hash", "S32"),
        ("pixel_hash", "S32"),
        ("phash", np.uint64),
        ("mean", np.float64),  # of the gray image in [0, 1], as the three below
        ("std", np.float64),
        ("low", np.float64),
        ("high", np.float64),
        ("thumbnail", np.uint8, THUMBNAIL**2),
        ("turned", bool),  # EXIF says that it is to be turned or mirrored
    ]
)


def scan_files(
    root: Path, filenames: list[str], log: Path, *, workers: int | None = None
) -> tuple[np.ndarray, dict[int, str], int]:
    """Decode every file that has changed since the log was written.

    The log is a JSON line for each file, written as results come: a scan that was killed continues where it was. A
    file is opened again where its size or modification time differ, or where the operating system could not read it.

    Args:
        root: Folder that file names are relative to.
        filenames: Distinct file names, `[F]`.
        log: File to read and continue; that of another `root` is begun anew.
        workers: Processes; by default one for each core, fewer for a small set.

    Returns:
        Array of `FILE`, `[F]`; the message of each file with a fault, by its index; and how many were opened.
    """
    files = np.zeros(len(filenames), FILE)
    messages: dict[int, str] = {}
    index_of = {name: index for index, name in enumerate(filenames)}
    stamps: dict[str, list[int]] = {}

    def keep(record: dict[str, Any]) -> None:
        index = index_of[record["filename"]]
        files[index] = np.zeros((), FILE)
        for field in record.keys() & set(FILE.names or ()) - {"thumbnail"}:
            files[index][field] = record[field]
        if "thumbnail" in record:
            files[index]["thumbnail"] = np.frombuffer(base64.b64decode(record["thumbnail"]), np.uint8)
        messages.pop(index, None)
        if record["fault"]:
            messages[index] = record["message"]

    for record in _read_log(log, root):
        if record["filename"] in index_of:
            stamps[record["filename"]] = record["stamp"]
            keep(record)
    chunks = [
        [(name, stamps.get(name)) for name in filenames[start : start + CHUNK]]
        for start in range(0, len(filenames), CHUNK)
    ]
    opened = 0
    with (
        log.open("a", encoding="utf-8") as lines,
        tqdm(total=len(filenames), desc="audit", unit="image", disable=None) as progress,
    ):
        if lines.tell() == 0:
            lines.write(json.dumps(_header(root)) + "\n")
        for records in parallel(_look_at_all, root, chunks, _worker_count(workers, len(filenames))):
            for record in records:
                if record is not None:
                    keep(record)
                    opened += record["fault"] != "missing"
                    if record["stamp"]:
                        lines.write(json.dumps(record) + "\n")
            lines.flush()
            progress.update(len(records))
    return files, messages, opened


def read_comparable(root: Path, filenames: list[str], *, workers: int | None = None) -> np.ndarray:
    """Read files for the comparison of near-duplicates, uint8 `[F, SIDE, SIDE]`."""
    chunks = [filenames[start : start + CHUNK] for start in range(0, len(filenames), CHUNK)]
    images = []
    with tqdm(total=len(filenames), desc="compare", unit="image", disable=None) as progress:
        for chunk in parallel(_read_comparable, root, chunks, _worker_count(workers, len(filenames))):
            images.extend(chunk)
            progress.update(len(chunk))
    return np.stack(images)


def parallel(function: Callable[[Path, list], Any], root: Path, chunks: list[list], workers: int) -> Iterator[Any]:
    """Apply a function to every chunk, in order, in this process or in several that end when this one is killed."""
    if workers == 1:
        for chunk in chunks:
            yield function(root, chunk)
        return
    # Forking would copy a running torch.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        yield from pool.map(function, [root] * len(chunks), chunks)


def _worker_count(workers: int | None, files: int) -> int:
    if workers is not None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, files // FILES_PER_WORKER))


def _header(root: Path) -> dict[str, Any]:
    return {"format": FORMAT, "root": str(root.resolve())}


def _read_log(log: Path, root: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of an earlier scan of this root, and cut off what a kill has torn, or all of another root's."""
    if not log.exists():
        return
    with log.open("r+b") as file:
        end = 0
        for number, line in enumerate(file):
            try:
                record = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                record = None
            if record is None or (number == 0 and record != _header(root)):
                break
            end += len(line)
            if number:
                yield record
        file.truncate(end)


def _look_at_all(root: Path, chunk: list[tuple[str, list[int] | None]]) -> list[dict[str, Any] | None]:
    return [_look_at(root, filename, stamp) for filename, stamp in chunk]


def _look_at(root: Path, filename: str, stamp: list[int] | None) -> dict[str, Any] | None:
    """Return a file's record, or None if it is unchanged since the one that bears this stamp: size, time of change."""
    path = root / filename
    record: dict[str, Any] = {"filename": filename, "stamp": None, "fault": ""}
    try:
        status = os.stat(path)
        now = [status.st_size, status.st_mtime_ns]
        if stamp == now:
            return None
        if not stat.S_ISREG(status.st_mode):  # a pipe, or a device that never ends
            return record | {"fault": "unreadable", "message": "not a regular file"}
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return record | {"fault": "missing", "message": "no such file"}
    except (OSError, ValueError) as error:
        return record | {"fault": "unreadable", "message": str(error)}
    record |= {"stamp": now, "file_hash": _digest(content)}
    if not content:
        return record | {"fault": "unreadable", "message": "the file is empty"}
    end = next((end for start, end in ENDS.items() if content.startswith(start)), b"")
    try:
        described = _describe(path)
    except ImportError:
        raise
    except Exception as error:  # whatever a decoder makes of broken bytes is a finding, and the scan goes on
        message = " ".join(str(error).split()).replace(str(path), path.name) or type(error).__name__
        return record | {"fault": "unreadable" if end in content[-64:] else "truncated", "message": message}
    if end not in content and not described.get("fault"):
        return record | {
            "fault": "truncated",
            "message": "the end of the file is missing, although what is left decodes",
        }
    return record | described


def _describe(path: Path) -> dict[str, Any]:
    with open_image(path) as image:
        image.load()
        found: dict[str, Any] = {"turned": orientation(image) != 1}
        image = upright(image)  # as training sees it
        found |= {"mode": image.mode, "width": image.width, "height": image.height}
        if image.mode not in EIGHT_BIT_MODES:
            return found | {"fault": "refused", "message": f"mode {image.mode!r} is not 8-bit grayscale or RGB"}
        gray = image.convert("L")
        pixels = np.asarray(gray)
        if image.mode != "L":
            colour = np.asarray(image.convert("RGB"))
            if (colour != pixels[..., None]).any():  # else the same picture as in one channel
                pixels = colour
    counts = np.array(gray.histogram())
    levels = np.arange(256) / 255
    mean = counts @ levels / counts.sum()
    present = levels[counts > 0]
    return found | {
        "pixel_hash": _digest(repr(pixels.shape).encode() + pixels.tobytes()),
        "phash": _perceptual_hash(gray),
        "mean": mean,
        "std": float(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum())),
        "low": present[0],
        "high": present[-1],
        "thumbnail": base64.b64encode(gray.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX).tobytes()).decode(),
    }


def _perceptual_hash(gray: Image.Image) -> int:
    try:
        from imagehash import phash
    except ImportError as error:
        raise ImportError("the audit needs imagehash: pip install 'online-label-smoothing[audit]'") from error
    return int.from_bytes(np.packbits(phash(gray).hash).tobytes(), "big")


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _read_comparable(root: Path, filenames: list[str]) -> list[np.ndarray]:
    images = []
    for filename in filenames:
        with open_image(root / filename) as image:
            images.append(comparable(upright(image)))
    return images
