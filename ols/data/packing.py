"""Writing a pack: on all cores, shard by shard, so that a killed run continues, and complete or absent."""

import hashlib
import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ols.data.options import Aspect
from ols.data.sources.pack import (
    FORMAT,
    HEADER_BYTES,
    MANIFEST,
    MASKS,
    PLAN,
    TABLE,
    dump_manifest,
    load_manifest,
    npy_header,
    verify_pack,
)
from ols.data.sources.protocol import ImageSource
from ols.data.transforms import BILINEAR, NEAREST, fit, to_array
from ols.data.workers import end_with_parent
from ols.files import DamagedFileError, read_record, write_file, write_record, written_aside

UNFINISHED = ".*.partial"  # see `ols.files.partial_path`
SAMPLED = 256  # images that the size of a pack is estimated from
Name = TypeVar("Name", bound=str)


def write_pack(
    sources: Mapping[Name, ImageSource],
    output: str | Path,
    *,
    size: int = 256,
    aspect: Aspect = "shorter",
    unreadable: Literal["error", "skip"] = "error",
    shard_images: int = 4096,
    workers: int = 1,
    resampling: Literal["bilinear", "nearest"] = "bilinear",
    table: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a pack of a data set, and verify it.

    A shard appears under its name when it is complete and on the disk, and the manifest when all shards are verified:
    until then nothing opens the pack, and the same call continues with the shards that are missing. So it also does
    where a shard of a complete pack has been deleted.

    Args:
        sources: The splits, all of one mode; they decide the number of channels.
        output: Folder of the pack.
        size: What images are resized to, in pixels.
        aspect: Which side that is: see `ols.data.transforms.fit`.
        unreadable: Whether a training image that cannot be read stops the packing or is left out and listed in the
            manifest; an image of another split always stops it.
        shard_images: Images of a shard, at least 1: what is written anew after a kill.
        workers: Processes that read and write.
        resampling: `nearest` for masks, whose values are names of classes.
        table: Of a table of targets, whose CSV lies in `output`: what the manifest says of it.

    Returns:
        The manifest.

    Raises:
        ValueError: An image cannot be read, an argument lies outside its range, or `output` holds something else.
        OSError: The disk lacks the room, which is estimated before anything is written.
    """
    for name, value in {"size": size, "shard_images": shard_images, "workers": workers}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    output = Path(output)
    writer = ShardWriter(
        sources,
        output,
        size=size,
        aspect=aspect,
        skip=unreadable == "skip",
        images=shard_images,
        resample=NEAREST if resampling == "nearest" else BILINEAR,
    )
    in_chans, image_bytes = _sample(writer)
    columns: dict[str, dict[str, list]] = {
        split: {"ids": [source.sample_id(i) for i in range(len(source))], "targets": source.targets.tolist()}
        for split, source in sources.items()
    }
    first = next(iter(sources.values()))
    labels = {"classes": list(first.classes), "groups": list(first.groups)}
    plan = {
        "format": FORMAT,
        "size": size,
        "aspect": aspect,
        "in_chans": in_chans,
        "resampling": resampling,
        "unreadable": unreadable,
        "shard_images": shard_images,
        "content": hashlib.blake2b(json.dumps([labels, columns]).encode(), digest_size=16).hexdigest(),
        **({"table": dict(table)} if table else {}),
    }
    if (output / MANIFEST).exists():
        manifest = load_manifest(output)
        _check_plan(output, plan, manifest)
        if all((output / shard["file"]).is_file() for shard in manifest["shards"]):
            verify_pack(output, manifest, trust_stamp=True)
            return manifest
        for number, record in enumerate(manifest["shards"]):  # unfinished again
            write_record(writer.record_path(number), record)
        write_record(output / PLAN, plan)
        (output / MANIFEST).unlink()
    beside = {output / TABLE, output / MASKS} if table else set()
    if (output / PLAN).exists():
        _check_plan(output, plan, _read_plan(output))
    elif output.exists() and not set(output.iterdir()) <= {*output.glob(UNFINISHED), *beside}:
        raise ValueError(f"{output} is not empty, and holds no pack: choose another folder")
    missing = sum(len(writer.numbers(shard)) for shard in writer.missing())
    _check_room(output, round(missing * image_bytes) + 2 * len(json.dumps(columns)))

    output.mkdir(parents=True, exist_ok=True)
    for leftover in output.glob(UNFINISHED):
        leftover.unlink()
    write_record(output / PLAN, plan)
    _write_missing(writer, workers)
    records = [writer.record(shard) for shard in range(len(writer))]
    left_out = {writer.place(number) for record in records for number in record["skipped"]}
    splits = {
        split: {
            name: [value for index, value in enumerate(column) if (split, index) not in left_out]
            for name, column in columns[split].items()
        }
        for split in sources
    }
    skipped = [columns[split]["ids"][index] for split, index in sorted(left_out)]
    text = dump_manifest({**plan, **labels, "shards": records, "skipped": skipped, "splits": splits})
    verify_pack(output, json.loads(text))
    write_file(output / MANIFEST, text)
    for leftover in (output / PLAN, *map(writer.record_path, range(len(writer)))):
        leftover.unlink()
    return load_manifest(output)


class ShardWriter(Dataset[int | Exception]):
    """The shards of a pack: an item is written when it is asked for, by whichever process asks.

    Images are numbered over the splits, one after the other; a shard holds `images` of them.
    """

    def __init__(
        self,
        sources: Mapping[Name, ImageSource],
        output: Path,
        *,
        size: int,
        aspect: Aspect,
        skip: bool,
        images: int,
        resample: Image.Resampling = BILINEAR,
    ):
        self.sources: dict[str, ImageSource] = dict(sources.items())
        self.output, self.size, self.aspect, self.skip = output, size, aspect, skip
        self.images, self.resample = images, resample
        self.total = sum(len(source) for source in sources.values())

    def __len__(self) -> int:
        return -(-self.total // self.images)

    def numbers(self, shard: int) -> range:
        """Return the numbers of a shard's images."""
        return range(shard * self.images, min(self.total, (shard + 1) * self.images))

    def place(self, number: int) -> tuple[str, int]:
        """Return split and index of an image."""
        for split, source in self.sources.items():
            if number < len(source):
                return split, number
            number -= len(source)
        raise IndexError(number)

    def path(self, shard: int) -> Path:
        """Return the file of a shard."""
        return self.output / f"shard-{shard:05d}.npy"

    def record_path(self, shard: int) -> Path:
        """Return the file of a shard's entry in the manifest, which says that the shard is complete."""
        return self.output / f"shard-{shard:05d}.json"

    def record(self, shard: int) -> dict[str, Any]:
        """Return a complete shard's entry in the manifest; DamagedFileError if it is missing or altered."""
        return read_record(self.record_path(shard))

    def missing(self) -> list[int]:
        """Return the shards that are not complete: those without a sound entry, too."""
        return [shard for shard in range(len(self)) if not self._is_complete(shard)]

    def _is_complete(self, shard: int) -> bool:
        try:
            self.record(shard)
        except DamagedFileError:
            return False
        return self.path(shard).is_file()

    def read(self, number: int) -> np.ndarray | None:
        """Return the pixels of an image, uint8 `[C, H, W]`; None if it cannot be read and may be left out."""
        split, index = self.place(number)
        try:
            image = self.sources[split].read(index)
        except ValueError:
            if self.skip and split == "train":
                return None
            raise
        return to_array(fit(image, self.size, self.aspect, resample=self.resample))

    def __getitem__(self, shard: int) -> int | Exception:
        """Write a shard; return its number, or the error, which is thus raised where it is read, and as it is."""
        try:
            self._write(shard)
        except (ValueError, OSError) as error:
            return error
        return shard

    def _write(self, shard: int) -> None:
        path = self.path(shard)
        checksum, shapes, skipped = 0, [], []
        with written_aside(path) as unfinished, open(unfinished, "wb") as file:
            file.write(bytes(HEADER_BYTES))  # until the shape is known
            for number in self.numbers(shard):
                pixels = self.read(number)
                if pixels is None:
                    skipped.append(number)
                    continue
                content = pixels.tobytes()
                checksum = zlib.crc32(content, checksum)
                shapes.append(pixels.shape)
                file.write(content)
            one_size = len(set(shapes)) == 1
            shape = (len(shapes), *shapes[0]) if one_size else (int(np.prod(shapes, axis=1).sum()),)
            file.seek(0)
            file.write(npy_header(shape))
        record = {
            "file": path.name,
            "shape": shape,
            "crc32": f"{checksum:08x}",
            "sizes": None if one_size else [shape[1:] for shape in shapes],
            "skipped": skipped,
        }
        write_record(self.record_path(shard), record)


def _write_missing(writer: ShardWriter, workers: int) -> None:
    missing = writer.missing()
    done = writer.total - sum(len(writer.numbers(shard)) for shard in missing)
    workers = min(workers, len(missing))
    with tqdm(total=writer.total, initial=done, desc="packing", unit="image", disable=None) as progress:
        shards: DataLoader[int | Exception] = DataLoader(
            writer,
            batch_size=None,
            sampler=missing,
            num_workers=workers if workers > 1 else 0,
            worker_init_fn=end_with_parent,
        )
        for shard in shards:
            if isinstance(shard, Exception):
                raise shard
            progress.update(len(writer.numbers(shard)))


def _sample(writer: ShardWriter) -> tuple[int, float]:
    """Return the channels and the mean bytes of a pack's images, from a sample that is spread over them."""
    numbers = np.unique(np.linspace(0, writer.total - 1, SAMPLED).round().astype(int))
    shapes = [image.shape for number in numbers.tolist() if (image := writer.read(number)) is not None]
    if not shapes:
        raise ValueError(f"none of {len(numbers)} images could be read")
    return shapes[0][0], float(np.prod(shapes, axis=1).mean())


def _read_plan(output: Path) -> dict[str, Any]:
    try:
        return read_record(output / PLAN)
    except DamagedFileError as error:
        raise ValueError(f"{error}, so that nobody knows what its shards are of: delete {output}, pack again") from None


def _check_plan(output: Path, plan: dict[str, Any], found: dict[str, Any]) -> None:
    """Refuse a folder that holds another pack."""
    differences = [f"{key} {found.get(key)!r}, not {plan[key]!r}" for key in plan if found.get(key) != plan[key]]
    if differences:
        raise ValueError(f"{output} holds another pack ({'; '.join(differences)}): choose another folder")


def _check_room(output: Path, needed: int) -> None:
    """Refuse a pack that the disk has no room for."""
    there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OSError(f"packing to {output} needs about {needed / 1e9:,.2f} GB; its disk has {free / 1e9:,.2f} GB free")
