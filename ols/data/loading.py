"""From a data set to batches on the device."""

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ols.data.augmentation import Augmentation
from ols.data.mixing import Mixing
from ols.data.options import Unreadable
from ols.data.sampling import Batches, EvalBatches, Key, TrainBatches
from ols.data.sources.files import ImageFiles
from ols.data.sources.pack import Pack
from ols.data.sources.protocol import ImageSource, target_kind
from ols.data.transforms import EvalTransform
from ols.data.workers import heed_only_the_parent


class MaskSource(Protocol):
    """A data set of masks: its `kind` is "mask"."""

    def mask(self, index: int) -> Image.Image:
        """Return the classes of an image's pixels, of mode L and of its size; of one foreground all but 0 is it."""

    def has_foreground(self, index: int) -> bool:
        """Return whether the mask of an image is not empty."""


@dataclass(frozen=True)
class Place:
    """Where batches go, and in which form.

    Args:
        device: Device of images and targets.
        dtype: Floating-point type of images.
        memory_format: Memory format of images.
    """

    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format


class TransformedImages(Dataset[dict[str, Tensor]]):
    """A data set seen through a transform, read by whole batches of keys so that draws are vectorised.

    Crops are cut right out of a pack whose images have the size that they would be resized to.

    Args:
        source: Data set.
        transform: What a sample goes through; holds the preprocessing.
        augmentation: What else is done to the bytes of an image.
        skip_unreadable: Leave images that cannot be read out of their batch, which is then smaller.

    Raises:
        ValueError: The data set is a pack of another aspect than the preprocessing asks for.
    """

    def __init__(
        self,
        source: ImageSource,
        transform: EvalTransform,
        *,
        augmentation: Augmentation | None = None,
        skip_unreadable: bool = False,
    ):
        self.source, self.transform, self.skip_unreadable = source, transform, skip_unreadable
        self.augmentation, self.has_masks = augmentation, target_kind(source) == "mask"
        preprocessing = transform.preprocessing
        self.cut_from: Pack | None = None
        if isinstance(source, Pack):
            source.require_aspect(preprocessing.aspect)
            if source.size == preprocessing.resize_size:
                self.cut_from = source

    def __getitems__(self, keys: list[Key]) -> dict[str, Tensor]:
        """Return `image` uint8 `[B, C, H, W]`, `target` `[B, ...]` and `index` int64 `[B]`; `skipped`, if they may be.

        A source with numbers beside its images gives `side` float32 `[B, S]`, too.
        The target is the source's, or the classes of the pixels int64 `[B, H, W]` where it has masks.
        """
        epochs, indices = np.array(keys, np.int64).T
        draws = self.transform.draw(epochs, indices)
        skipped = np.zeros(len(keys), bool)
        if self.cut_from is not None:
            corners = self.transform.corners(draws, self.cut_from.sizes[indices])
            size = self.transform.preprocessing.image_size
            images = self.cut_from.read_crops(indices, corners, draws[:, 2] < 0.5, size)
        else:
            read = [self._read(index, draw) for index, draw in zip(indices.tolist(), draws, strict=True)]
            skipped = np.array([image is None for image in read])
            if skipped.all():
                first = self.source.sample_id(indices[0])
                raise ValueError(f"none of the {len(keys)} images of a batch can be read: the first is {first}")
            images = np.stack([image for image in read if image is not None])
        targets, masks = self.source.targets[indices[~skipped]], None
        if self.has_masks:
            masks = np.stack([self._read_mask(index, draws[i]) for i, index in enumerate(indices) if not skipped[i]])
        if self.augmentation is not None:
            images = self.augmentation(images, epochs[~skipped], indices[~skipped], masks)
        if masks is not None:
            targets = masks[:, 0].astype(np.int64)
        batch = {
            "image": torch.from_numpy(images),
            "target": torch.from_numpy(targets),
            "index": torch.from_numpy(indices[~skipped]),
        }
        if (side := getattr(self.source, "side", None)) is not None:
            batch["side"] = torch.from_numpy(side[indices[~skipped]])
        if self.skip_unreadable:
            batch["skipped"] = torch.from_numpy(indices[skipped])
        return batch

    def _read_mask(self, index: int, draw: np.ndarray) -> np.ndarray:
        """Return the classes of the pixels of a transformed image, uint8 `[1, H, W]`; every foreground of one is 1."""
        mask = self.transform(cast("MaskSource", self.source).mask(index), draw, resample=Image.Resampling.NEAREST)
        foreground = len(self.source.classes)
        if foreground == 1:
            return (mask > 0).astype(np.uint8)
        if mask.max() > foreground:
            name = self.source.sample_id(index)
            raise ValueError(f"the mask of {name} has class {mask.max()}, the largest is {foreground}")
        return mask

    def _read(self, index: int, draw: np.ndarray) -> np.ndarray | None:
        """Return a transformed image; None if it cannot be read and may be skipped."""
        try:
            image = self.source.read(index)
        except ValueError:
            if self.skip_unreadable:
                return None
            raise
        return self.transform(image, draw)


def beside(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what a model takes of a batch beside the images, as keyword arguments: `side`, where there is any."""
    return {"side": batch["side"]} if "side" in batch else {}


def _already_a_batch(batch: Any) -> dict[str, Tensor]:
    return batch


class Loader:
    """Batches: `image` as the model expects it and `target`, on the device, and `index`, on the CPU.

    Bytes travel to the device and are scaled there: a quarter of the traffic of float32. `TrainLoader` and `EvalLoader`
    are the two kinds.

    Args:
        images: The data set, seen through its transform.
        batches: Which samples at which step; its `pool` says what counts as all.
        workers: Processes that read; 0 reads in this one.
        place: Where batches go; by default float32 on the CPU.
    """

    batches: Batches

    def __init__(self, images: TransformedImages, batches: Batches, *, workers: int = 0, place: Place | None = None):
        place = place or Place()
        self._images = images
        self.source, self.preprocessing, self.batches = images.source, images.transform.preprocessing, batches
        self.device, self.dtype, self.memory_format = torch.device(place.device), place.dtype, place.memory_format
        pairs = list(zip(self.preprocessing.mean, self.preprocessing.std, strict=True))
        # [C, 1, 1] each: from a byte to (byte / 255 - mean) / std
        self._scale = self._for_channels([1 / (255 * std) for _, std in pairs])
        self._offset = self._for_channels([-mean / std for mean, std in pairs])
        self._loader: DataLoader[dict[str, Tensor]] = DataLoader(
            images,
            batch_sampler=batches,
            collate_fn=_already_a_batch,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,  # a few batches of bytes are small, and readers do not keep pace
            worker_init_fn=heed_only_the_parent,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own, so that starting an iterator leaves the global generator alone
        )

    def first_images(self, count: int) -> Tensor:
        """Return the intensities of the first images of the pool, in [0, 1] before their scaling, `[N, C, H, W]`."""
        images = self._images.__getitems__([(0, index) for index in self.batches.pool[:count].tolist()])["image"]
        return images.float() / 255

    @property
    def reading_advice(self) -> str:
        """What would make reading faster, for data of this form."""
        more = "more data.workers"
        return f"a pack of the data set or {more}" if isinstance(self.source, ImageFiles) else more

    def _for_channels(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def num_samples(self) -> int:
        """Distinct samples over all processes."""
        return len(self.batches.pool)

    def fingerprint(self) -> dict[str, str]:
        """Return checksums that tell another data set from this one.

        Returns:
            `samples`: of the classes, and of the names and targets of the pool's samples in their order. `images`: of
            the images of the whole split, as far as the source looks at them, see `ImageSource.content`.
        """
        digest = hashlib.blake2b("\n".join(self.source.classes).encode(), digest_size=16)
        for index in self.batches.pool.tolist():
            digest.update(f"\n{self.source.sample_id(index)}\t{self.source.targets[index].tolist()}".encode())
        return {"samples": digest.hexdigest(), "images": self.source.content()}

    def zeros(self, count: int) -> dict[str, Tensor]:
        """Return a batch of `count` black images as the model sees them, without targets, on the device."""
        shape = (count, self.preprocessing.in_chans, self.preprocessing.image_size, self.preprocessing.image_size)
        batch = {"image": torch.zeros(shape, dtype=self.dtype, device=self.device)}
        if (side := getattr(self.source, "side", None)) is not None:
            batch["side"] = torch.zeros((count, side.shape[1]), device=self.device)
        return batch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # A stream of its own: the next batch travels and is scaled while the step before it still runs.
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        for batch in self._loader:
            with nullcontext() if stream is None else torch.cuda.stream(stream):
                self._to_device(batch)
            if stream is not None:
                current = torch.cuda.current_stream(self.device)
                current.wait_stream(stream)
                for name in batch.keys() & {"image", "target", "side"}:
                    batch[name].record_stream(current)
            yield batch

    def _to_device(self, batch: dict[str, Tensor]) -> None:
        """Bring images and targets to the device, and scale the images."""
        for name in batch.keys() & {"image", "target", "side"}:
            batch[name] = batch[name].to(self.device, non_blocking=True)
        image = batch["image"].to(self.dtype, memory_format=self.memory_format)
        batch["image"] = image.mul_(self._scale).add_(self._offset)


class EvalLoader(Loader):
    """Every sample of a pool once over all processes, in its order; an image that cannot be read raises.

    Args:
        source: Data set.
        transform: What a sample goes through; holds the preprocessing.
        batches: Which samples this process reads.
        workers: Processes that read; 0 reads in this one.
        place: Where batches go; by default float32 on the CPU.
    """

    batches: EvalBatches

    def __init__(
        self,
        source: ImageSource,
        transform: EvalTransform,
        batches: EvalBatches,
        *,
        workers: int = 0,
        place: Place | None = None,
    ):
        super().__init__(TransformedImages(source, transform), batches, workers=workers, place=place)


class TrainLoader(Loader):
    """Epochs of training: each has an order and an augmentation of its own.

    Args:
        source: Data set.
        transform: What a sample goes through; holds the preprocessing.
        batches: Which samples this process reads at which step.
        augmentation: What else is done to the bytes of an image.
        mixing: Mixes the images of a batch; `target` is then probabilities.
        unreadable: `skip` leaves images that cannot be read out of their batch, which is then smaller; `error` raises.
        workers: Processes that read; 0 reads in this one.
        place: Where batches go; by default float32 on the CPU.

    Attributes:
        skipped: Indices of the images that could not be read, as far as this process has met them.
    """

    batches: TrainBatches

    def __init__(
        self,
        source: ImageSource,
        transform: EvalTransform,
        batches: TrainBatches,
        *,
        augmentation: Augmentation | None = None,
        mixing: Mixing | None = None,
        unreadable: Unreadable = "error",
        workers: int = 0,
        place: Place | None = None,
    ):
        images = TransformedImages(source, transform, augmentation=augmentation, skip_unreadable=unreadable == "skip")
        super().__init__(images, batches, workers=workers, place=place)
        self.mixing = mixing
        self.skipped: set[int] = set()

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return self.batches.steps

    def epoch(self, number: int, start_step: int = 0) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of an epoch.

        Args:
            number: The epoch, from 0.
            start_step: Optimizer steps of the epoch that are left out: a run continues after them.
        """
        self.batches.epoch, self.batches.start_step = number, start_step
        yield from self

    def _to_device(self, batch: dict[str, Tensor]) -> None:
        """Bring images and targets to the device, scale the images, and mix them where they are to be mixed."""
        if "skipped" in batch:
            self.skipped.update(batch.pop("skipped").tolist())
        super()._to_device(batch)
        if self.mixing is not None:
            batch["image"], batch["target"] = self.mixing(
                batch["image"], batch["target"], epoch=self.batches.epoch, indices=batch["index"].numpy()
            )
