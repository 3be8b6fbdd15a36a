"""From a data set to batches on the device."""

import hashlib
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ols.data.augmentation import Augmentation
from ols.data.mixing import Mixing
from ols.data.sampling import EvalBatches, Key, TrainBatches
from ols.data.sources.pack import Pack
from ols.data.sources.protocol import ImageSource
from ols.data.transforms import EvalTransform
from ols.data.workers import heed_only_the_parent


class TransformedImages:
    """A data set seen through a transform, read by whole batches of keys so that draws are vectorised.

    Crops are cut right out of a pack whose images have the size that they would be resized to.
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
        self.augmentation = augmentation
        preprocessing = transform.preprocessing
        self.cut = isinstance(source, Pack) and source.size == preprocessing.resize_size
        if isinstance(source, Pack) and source.aspect != preprocessing.aspect:
            raise ValueError(f"the pack has aspect {source.aspect!r}, data.aspect asks for {preprocessing.aspect!r}")

    def __getitems__(self, keys: list[Key]) -> dict[str, Tensor]:
        """Return `image` uint8 `[B, C, H, W]`, `target` and `index` int64 `[B]`; and `skipped`, the unreadable."""
        epochs, indices = np.array(keys, np.int64).T
        draws = self.transform.draw(epochs, indices)
        skipped = np.zeros(len(keys), bool)
        if self.cut:
            images = self._cut(indices, draws)
        else:
            read = [self._read(index, draw) for index, draw in zip(indices.tolist(), draws, strict=True)]
            skipped = np.array([image is None for image in read])
            if skipped.all():
                first = self.source.sample_id(indices[0])
                raise ValueError(f"none of the {len(keys)} images of a batch can be read: the first is {first}")
            images = np.stack([image for image in read if image is not None])
        if self.augmentation is not None:
            images = self.augmentation(images, epochs[~skipped], indices[~skipped])
        return {
            "image": torch.from_numpy(images),
            "target": torch.from_numpy(self.source.targets[indices[~skipped]]),
            "index": torch.from_numpy(indices[~skipped]),
            "skipped": torch.from_numpy(indices[skipped]),
        }

    def _cut(self, indices: np.ndarray, draws: np.ndarray) -> np.ndarray:
        corners = self.transform.corners(draws, self.source.sizes[indices])
        return self.source.read_crops(indices, corners, draws[:, 2] < 0.5, self.transform.preprocessing.image_size)

    def _read(self, index: int, draw: np.ndarray) -> np.ndarray | None:
        """Return a transformed image; None if it cannot be read and may be skipped."""
        try:
            image = self.source.read(index)
        except ValueError:
            if self.skip_unreadable:
                return None
            raise
        return self.transform(image, draw)


def _already_a_batch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch


class Loader:
    """Batches: `image` as the model expects it and `target`, on the device, and `index`, on the CPU.

    Bytes travel to the device and are scaled there: a quarter of the traffic of float32.

    Args:
        source: Data set.
        transform: What a sample goes through; holds the preprocessing.
        batches: Which samples at which step; its `pool` says what counts as all.
        workers: Processes that read; 0 reads in this one.
        device: Where batches go.
        dtype: Floating-point type of `image`.
        memory_format: Memory format of `image`.
        skip_unreadable: Leave images that cannot be read out of their batch, which is then smaller; `skipped` has
            their indices, as far as this process has met them. By default they raise.
        augmentation: What else is done to the bytes of a training image.
        mixing: Mixes the images of a training batch; `target` is then probabilities.
    """

    def __init__(
        self,
        source: ImageSource,
        transform: EvalTransform,
        batches: TrainBatches | EvalBatches,
        *,
        workers: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        skip_unreadable: bool = False,
        augmentation: Augmentation | None = None,
        mixing: Mixing | None = None,
    ):
        self.mixing = mixing
        self.skipped: set[int] = set()
        self.source, self.preprocessing, self.batches = source, transform.preprocessing, batches
        self.device, self.dtype, self.memory_format = torch.device(device), dtype, memory_format
        pairs = list(zip(self.preprocessing.mean, self.preprocessing.std, strict=True))
        # [C, 1, 1] each: from a byte to (byte / 255 - mean) / std
        self._scale = self._for_channels([1 / (255 * std) for _, std in pairs])
        self._offset = self._for_channels([-mean / std for mean, std in pairs])
        self._loader = DataLoader(
            TransformedImages(source, transform, augmentation=augmentation, skip_unreadable=skip_unreadable),
            batch_sampler=batches,
            collate_fn=_already_a_batch,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,  # a few batches of bytes are small, and readers do not keep pace
            worker_init_fn=heed_only_the_parent,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own, so that starting an iterator leaves the global generator alone
        )

    def _for_channels(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def num_samples(self) -> int:
        """Distinct samples over all processes."""
        return len(self.batches.pool)

    def fingerprint(self) -> str:
        """Return a checksum of the classes, and of the names and classes of the pool's samples in their order."""
        digest = hashlib.blake2b("\n".join(self.source.classes).encode(), digest_size=16)
        for index in self.batches.pool.tolist():
            digest.update(f"\n{self.source.sample_id(index)}\t{self.source.targets[index]}".encode())
        return digest.hexdigest()

    def epoch(self, number: int, start_step: int = 0) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of an epoch of training.

        Args:
            number: The epoch, from 0.
            start_step: Optimizer steps of the epoch that are left out: a run continues after them.
        """
        self.batches.epoch, self.batches.start_step = number, start_step
        yield from self

    def zeros(self, count: int) -> Tensor:
        """Return `count` black images as the model sees them, `[count, C, H, W]`, on the device."""
        shape = (count, self.preprocessing.in_chans, self.preprocessing.image_size, self.preprocessing.image_size)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        # A stream of its own: the next batch travels and is scaled while the step before it still runs.
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        for batch in self._loader:
            self.skipped.update(batch.pop("skipped").tolist())
            with nullcontext() if stream is None else torch.cuda.stream(stream):
                self._to_device(batch)
            if stream is not None:
                current = torch.cuda.current_stream(self.device)
                current.wait_stream(stream)
                for name in ("image", "target"):
                    batch[name].record_stream(current)
            yield batch

    def _to_device(self, batch: dict[str, Tensor]) -> None:
        """Bring images and targets to the device, scale the images, and mix them where they are to be mixed."""
        for name in ("image", "target"):
            batch[name] = batch[name].to(self.device, non_blocking=True)
        image = batch["image"].to(self.dtype, memory_format=self.memory_format)
        batch["image"] = image.mul_(self._scale).add_(self._offset)
        if self.mixing is not None:
            batch["image"], batch["target"] = self.mixing(
                batch["image"], batch["target"], epoch=self.batches.epoch, indices=batch["index"].numpy()
            )
