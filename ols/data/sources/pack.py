"""Packs: a data set as bytes in a few large files, which are mapped into memory once their checksums are known.

A pack is a folder.

- `shard-00000.npy`, ...: pixels, uint8. An ordinary array `[images, C, H, W]` where all images of the shard have one
  size, else `[bytes]` with the images one after the other.
- `manifest.json`: `format`, `checksum` (of the manifest itself), `classes`, `groups`, `splits` (sample ids and class
  indices), `size`, `aspect`, `in_chans`, `resampling`, `shards` (file, shape, CRC-32 of the pixels, sizes of images
  where they differ, numbers of images left out), `skipped` (ids of training images that could not be read), `content`
  (a digest of ids and labels), and how it was asked for.
- `verified.json`: which files, as they lie on this disk, have been found to have their checksums.

CRC-32 finds every flipped byte, and here outruns SHA-256 and BLAKE2b, which would also be good against forgers.
"""

import hashlib
import json
import mmap
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ols.data.options import Aspect
from ols.data.sources.protocol import Split
from ols.data.transforms import to_image
from ols.files import write_file

FORMAT = 1
MANIFEST, STAMP = "manifest.json", "verified.json"
PLAN = "plan.json"  # of an unfinished pack
TABLE, MASKS = "table.csv", "masks"  # of a packed table of targets, see `ols.data.sources.packed_table`
WHOLE = "all"  # its one split
HEADER_BYTES = 128
CHUNK_BYTES = 1 << 24
WILLNEED = getattr(mmap, "MADV_WILLNEED", None)  # Windows has none
UNSUMMED = '"checksum": "00000000"'


class Pack:
    """One split of a pack; `open_pack` makes it.

    Args:
        root: The pack's folder.
        split: Which split.
        manifest: What `load_manifest` returned.

    Attributes:
        classes: Label of each class, `[K]`.
        groups: Group of each class, `[K]`.
        targets: Class index of each sample, int64 `[N]`.
        sizes: Height and width of each stored image in pixels, int64 `[N, 2]`.
        size: Side to which images were brought, in pixels; `aspect` says which.
        aspect: See `ols.data.transforms.fit`.
        in_chans: 1 for grayscale, 3 for RGB.
    """

    def __init__(self, root: Path, split: str, manifest: dict[str, Any]):
        self.root = root
        self.classes: list[str] = manifest["classes"]
        self.groups: list[str] = manifest["groups"]
        self.size: int = manifest["size"]
        self.aspect: Aspect = manifest["aspect"]
        self.in_chans: int = manifest["in_chans"]
        self.targets = np.array(manifest["splits"][split]["targets"], np.int64)
        # A byte array: a million Python strings would be copied into every worker as their counters are touched.
        self._ids = np.array([sample_id.encode() for sample_id in manifest["splits"][split]["ids"]])

        made = {name: manifest[name] for name in ("size", "aspect", "in_chans", "shards")}
        checksum = hashlib.blake2b(json.dumps(made, sort_keys=True).encode(), digest_size=8).hexdigest()
        self._content = f"a pack of {self.size} px ({self.aspect}) with shards {checksum}"
        names = list(manifest["splits"])
        lengths = [len(manifest["splits"][name]["targets"]) for name in names]
        start = sum(lengths[: names.index(split)])
        here = slice(start, start + len(self.targets))
        sizes = [_image_sizes(shard) for shard in manifest["shards"]]
        self.sizes = np.concatenate(sizes)[here]
        starts = [np.cumsum(self.in_chans * size.prod(axis=1)) - self.in_chans * size.prod(axis=1) for size in sizes]
        self._starts = np.concatenate(starts)[here]
        self._shards = np.repeat(np.arange(len(sizes)), [len(size) for size in sizes])[here]
        self._files = [shard["file"] for shard in manifest["shards"]]
        self._maps: dict[int, tuple[mmap.mmap, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.targets)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # a map does not travel to another process; its file does

    def sample_id(self, index: int) -> str:
        """Return the name that the sample had where the pack was made from."""
        return self._ids[index].decode()

    def sample_group(self, index: int) -> str:
        """Return the name of a sample: nothing is known of its patient."""
        return self.sample_id(index)

    def content(self) -> str:
        """Return how images were resized, and a checksum of the checksums of the whole pack: splits share files."""
        return self._content

    def require_aspect(self, aspect: Aspect) -> None:
        """Make sure that images were brought to their size as a preprocessing asks for.

        Raises:
            ValueError: They were not.
        """
        if self.aspect != aspect:
            raise ValueError(f"the pack has aspect {self.aspect!r}, data.aspect asks for {aspect!r}")

    def read(self, index: int) -> Image.Image:
        """Return a stored image, of mode L or RGB."""
        (image,) = self._views(np.array([index]))
        return to_image(image)

    def read_crops(self, indices: np.ndarray, corners: np.ndarray, mirrored: np.ndarray, size: int) -> np.ndarray:
        """Cut a square out of each of a batch of images.

        Args:
            indices: int64 `[B]`.
            corners: Top and left of each square, int64 `[B, 2]`.
            mirrored: Which squares to mirror left to right, bool `[B]`.
            size: Side of the squares, in pixels.

        Returns:
            uint8 `[B, C, size, size]`.
        """
        crops = np.empty((len(indices), self.in_chans, size, size), np.uint8)
        each = zip(crops, self._views(indices), corners.tolist(), mirrored.tolist(), strict=True)
        for crop, image, (top, left), mirror in each:
            square = image[:, top : top + size, left : left + size]
            crop[...] = square[..., ::-1] if mirror else square
        return crops

    def _views(self, indices: np.ndarray) -> list[np.ndarray]:
        """Return images as they lie in the mapped files, uint8 `[C, H, W]` each; all are asked of the disk at once."""
        sizes = self.sizes[indices]
        lengths = self.in_chans * sizes.prod(axis=1)
        places = (self._shards[indices], self._starts[indices], lengths, sizes)
        views = []
        for shard, start, length, (height, width) in zip(*(place.tolist() for place in places), strict=True):
            mapped, pixels = self._shard(shard)
            if WILLNEED is not None:  # else what is not in memory comes image by image, several times slower
                page = (HEADER_BYTES + start) // mmap.PAGESIZE * mmap.PAGESIZE
                mapped.madvise(WILLNEED, page, HEADER_BYTES + start + length - page)
            views.append(pixels[start : start + length].reshape(self.in_chans, height, width))
        return views

    def _shard(self, number: int) -> tuple[mmap.mmap, np.ndarray]:
        """Return the map of a shard, made on its first use in this process, and its pixels, uint8 `[bytes]`."""
        if number not in self._maps:
            with open(self.root / self._files[number], "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._maps[number] = mapped, np.frombuffer(mapped, np.uint8, offset=HEADER_BYTES)
        return self._maps[number]


def open_pack(root: str | Path) -> dict[Split, Pack]:
    """Open the splits of a pack, and refuse one that is damaged.

    Presence and size of every file and the manifest's checksum are checked each time. The checksums of the shards are
    checked, on all cores, when a file is not the one that was checked last (by size, inode, and the times of
    modification and change): the first time on a machine, and after anything has written to it. Where the folder
    cannot be written, that is each time. What a disk corrupts by itself, only `verify_pack` finds.

    Raises:
        FileNotFoundError: The pack or one of its shards is not there.
        ValueError: The pack has another version, or a file is damaged; the message names it.
    """
    root = Path(root)
    manifest = load_manifest(root)
    if "table" in manifest:
        raise FileNotFoundError(f"{root} is a packed table of targets whose {TABLE} is missing: pack again")
    verify_pack(root, manifest, trust_stamp=True)
    return {split: Pack(root, split, manifest) for split in manifest["splits"]}


def load_manifest(root: Path) -> dict[str, Any]:
    """Read a pack's manifest.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, or of another version.
    """
    path = root / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{root} has no {MANIFEST}: it is no pack, or an unfinished one")
    try:
        text = path.read_text(encoding="utf-8")
        manifest = json.loads(text)
        found, checksum = manifest["format"], manifest["checksum"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    if found != FORMAT:
        raise ValueError(f"{path}: pack format {found!r}; this version reads format {FORMAT}: pack again")
    if checksum != _checksum(text.replace(f'"checksum": "{checksum}"', UNSUMMED, 1)):
        raise ValueError(f"{path} is damaged: its checksum does not fit")
    return manifest


def dump_manifest(content: dict[str, Any]) -> str:
    """Return the text of a manifest, with its checksum."""
    text = json.dumps({"checksum": "00000000", **content})
    return text.replace(UNSUMMED, f'"checksum": "{_checksum(text)}"', 1)


def verify_pack(root: Path, manifest: dict[str, Any], *, trust_stamp: bool = False) -> None:
    """Check the files of a pack, on all cores and with a progress bar, and remember which are sound.

    Args:
        root: The pack's folder.
        manifest: What `load_manifest` returned.
        trust_stamp: Read only the files that have been touched since they were found sound.

    Raises:
        FileNotFoundError: A shard is missing.
        ValueError: A shard is damaged.
    """
    signatures = {shard["file"]: _signature(root, shard) for shard in manifest["shards"]}
    sound = _read_stamp(root) if trust_stamp else {}
    unknown = [shard for shard in manifest["shards"] if sound.get(shard["file"]) != signatures[shard["file"]]]
    if not unknown:
        return
    total = sum(signatures[shard["file"]][0] for shard in unknown)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with (
        tqdm(total=total, desc=f"verifying {root.name}", unit="B", unit_scale=True, disable=None) as progress,
        ThreadPoolExecutor(cores) as threads,
    ):
        for size in threads.map(lambda shard: _verify_shard(root / shard["file"], shard), unknown):
            progress.update(size)
    try:
        write_file(root / STAMP, json.dumps({"format": FORMAT, "files": signatures}))
    except OSError as error:
        print(f"{root} is verified, but cannot remember it and will be verified again: {error}")


def npy_header(shape: tuple[int, ...]) -> bytes:
    """Return the first 128 bytes of an `.npy` file (version 1.0) of uint8 in C order."""
    fields = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape!r}, }}"
    return b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little") + f"{fields:<117}\n".encode()


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _image_sizes(shard: dict[str, Any]) -> np.ndarray:
    """Return height and width of each image of a shard, int64 `[N, 2]`."""
    if shard["sizes"] is None:
        return np.tile(np.array(shard["shape"][2:], np.int64), (shard["shape"][0], 1))
    return np.array(shard["sizes"], np.int64).reshape(-1, 2)


def _signature(root: Path, shard: dict[str, Any]) -> list[int]:
    """Return what tells a file that has been touched from one that has not, and check its size."""
    path = root / shard["file"]
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing from the pack: pack again, and only it is written")
    found, expected = path.stat(), HEADER_BYTES + int(np.prod(shard["shape"]))
    if found.st_size != expected:
        raise ValueError(f"{path} is damaged: {found.st_size:,} bytes instead of {expected:,}")
    # The time of change cannot be set back as that of modification can.
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _verify_shard(path: Path, shard: dict[str, Any]) -> int:
    """Read a shard, compare its checksum, and return its size in bytes."""
    checksum = 0
    with open(path, "rb") as file:
        header = file.read(HEADER_BYTES)
        while chunk := file.read(CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
        size = file.tell()
    if header != npy_header(tuple(shard["shape"])) or f"{checksum:08x}" != shard["crc32"]:
        raise ValueError(f"{path} is damaged: its checksum is not that of the manifest; delete it and pack again")
    return size


def _read_stamp(root: Path) -> dict[str, list[int]]:
    try:
        stamp = json.loads((root / STAMP).read_text(encoding="utf-8"))
        return dict(stamp["files"]) if stamp["format"] == FORMAT else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}
