"""From a data set to batches on the device."""

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from ols.data.sampling import EvalBatches, Key, TrainBatches
from ols.data.transforms import EvalTransform


class ImageSource(Protocol):
    """What a data set offers: `RadImageNet`, and whatever else can do this."""

    classes: list[str]
    groups: list[str]
    targets: np.ndarray

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image.Image:
        """Return an 8-bit image, of mode L or RGB throughout the data set."""

    def sample_id(self, index: int) -> str:
        """Return a name that is unique, and the same on every machine."""


class TransformedImages:
    """A data set seen through a transform, read by whole batches of keys so that draws are vectorised."""

    def __init__(self, source: ImageSource, transform: EvalTransform):
        self.source, self.transform = source, transform

    def __getitems__(self, keys: list[Key]) -> dict[str, Tensor]:
        """Return `image` uint8 `[B, C, H, W]`, `target` and `index` int64 `[B]`."""
        epochs, indices = np.array(keys, np.int64).T
        draws = self.transform.draw(epochs, indices)
        images = [self.transform(self.source.read(i), draw) for i, draw in zip(indices, draws, strict=True)]
        return {
            "image": torch.from_numpy(np.stack(images)),
            "target": torch.from_numpy(self.source.targets[indices]),
            "index": torch.from_numpy(indices),
        }


def _already_a_batch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch


def _heed_only_the_parent(worker: int) -> None:
    """Let a signal to all processes of a run not end its workers, whose end would end the run before it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return  # macOS

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=wait, daemon=True).start()


class Loader:
    """Batches on the device: `image` as the model expects it, `target`, `index`.

    Bytes travel to the device and are scaled there: a quarter of the traffic of float32.

    Args:
        source: Data set.
        transform: What a sample goes through; holds the preprocessing.
        batches: Which samples at which step; its `pool` says what counts as all.
        workers: Processes that read; 0 reads in this one.
        device: Where batches go.
        dtype: Floating-point type of `image`.
        memory_format: Memory format of `image`.
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
    ):
        self.source, self.preprocessing, self.batches = source, transform.preprocessing, batches
        self.device, self.dtype, self.memory_format = torch.device(device), dtype, memory_format
        self._loader = DataLoader(
            TransformedImages(source, transform),
            batch_sampler=batches,
            collate_fn=_already_a_batch,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_heed_only_the_parent,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own, so that starting an iterator leaves the global generator alone
        )

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

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        scale, offset = 1 / (255 * self.preprocessing.std), -self.preprocessing.mean / self.preprocessing.std
        for batch in self._loader:
            batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
            image = batch["image"].to(self.dtype, memory_format=self.memory_format)
            batch["image"] = image.mul_(scale).add_(offset)
            yield batch
