"""Everything that a run reads its images with, built from one set of options."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ols.data.augmentation import Augment, Augmentation
from ols.data.loading import Loader
from ols.data.mixing import Mixing
from ols.data.sampling import EvalBatches, TrainBatches
from ols.data.sources.opening import open_sources
from ols.data.sources.pack import Pack
from ols.data.transforms import EvalTransform, Preprocessing, TrainTransform
from ols.keyed import keyed_order

SUBSET = int.from_bytes(b"subset")  # keys the draw of a subset, apart from every seed


@dataclass(frozen=True)
class Loaders:
    """The three splits of a run, the data sets behind them, and a sentence about where they lie in which form."""

    train: Loader
    val: Loader
    test: Loader
    description: str

    @property
    def classes(self) -> list[str]:
        """Label of each class, `[K]`."""
        return self.train.source.classes

    @property
    def groups(self) -> list[str]:
        """Modality and anatomy of each class, `[K]`."""
        return self.train.source.groups


def build_loaders(
    root: str | Path,
    *,
    splits: str | Path | None = None,
    preprocessing: Preprocessing,
    horizontal_flip: bool = True,
    augment: Augment = "none",
    erase_prob: float = 0.0,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    mix_prob: float = 1.0,
    sampling: Literal["natural", "class_balanced"] = "natural",
    unreadable: Literal["error", "skip"] = "error",
    global_batch_size: int,
    accumulation_steps: int = 1,
    seed: int = 0,
    workers: int | None = 0,
    cores: int = 1,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
    train_images: int | None = None,
    limit_batches: int | None = None,
    overfit_batches: int | None = None,
) -> Loaders:
    """Build the loaders of a run.

    Args:
        root: Whatever `open_sources` knows.
        splits: Folder with RadImageNet's split CSVs, where it is not one of the usual places.
        preprocessing: Sizes, channels and scaling.
        horizontal_flip: Whether training mirrors half of the images.
        augment: What else is done to training images: see `Augmentation`.
        erase_prob: Share of training images of which a rectangle is erased.
        mixup_alpha: See `Mixing`, which is used where this or `cutmix_alpha` is not 0.
        cutmix_alpha: See `Mixing`.
        mix_prob: Share of batches that are mixed.
        sampling: `class_balanced` draws all classes equally often: see `TrainBatches`.
        unreadable: Whether a training image that cannot be read raises or is skipped: see `Loader`.
        global_batch_size: Images per optimizer step over all processes.
        accumulation_steps: Micro-batches per optimizer step.
        seed: Seed of order and augmentation.
        workers: Reading processes of each loader; None takes all of `cores`, at most 8, and 2 for a pack.
        cores: Processor cores of this process.
        rank: This process.
        world_size: Number of processes.
        device: Where batches go.
        dtype: Floating-point type of images.
        memory_format: Memory format of images.
        train_images: Train on so many images, drawn at random but the same ones for every seed.
        limit_batches: Use only so many global batches of each split: a dry run.
        overfit_batches: Train on so many fixed global batches without augmentation, and evaluate on the same.

    Raises:
        ValueError: Images are to be mixed, and their number in a micro-batch is odd.
    """
    sources, description = open_sources(root, splits=splits, in_chans=preprocessing.in_chans)
    packed = isinstance(sources["train"], Pack)
    if packed and sources["train"].size != preprocessing.resize_size:
        description += f", resized to {preprocessing.resize_size} px as it is read: pack at that size for full speed"
    if workers is None:
        workers = min(2 if packed else 8, cores)
    pools = {split: np.arange(len(source)) for split, source in sources.items()}
    if train_images is not None:
        available = len(pools["train"])
        if not 1 <= train_images <= available:
            raise ValueError(f"train_images must lie in [1, {available}], the images of the split, got {train_images}")
        pools["train"] = np.sort(keyed_order(SUBSET, 0, available)[:train_images])
    train_transform = TrainTransform(preprocessing, seed=seed, horizontal_flip=horizontal_flip)
    eval_transform = EvalTransform(preprocessing)
    augmentation = mixing = None
    if augment != "none" or erase_prob:
        augmentation = Augmentation(augment, erase_prob=erase_prob, seed=seed)
    if mixup_alpha or cutmix_alpha:
        num_classes = len(sources["train"].classes)
        mixing = Mixing(num_classes, mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha, prob=mix_prob, seed=seed)
    order_seed: int | None = seed
    if limit_batches is not None:
        size = limit_batches * global_batch_size
        pools = {split: pool[keyed_order(seed, 0, len(pool))[:size]] for split, pool in pools.items()}
    if overfit_batches is not None:
        sources = dict.fromkeys(sources, sources["train"])
        pool = pools["train"][keyed_order(seed, 0, len(pools["train"]))[: overfit_batches * global_batch_size]]
        pools = dict.fromkeys(pools, pool)
        train_transform, order_seed, augmentation, mixing = eval_transform, None, None, None

    balanced = sampling == "class_balanced" and overfit_batches is None
    place = {"workers": workers, "device": device, "dtype": dtype, "memory_format": memory_format}
    share = {"rank": rank, "world_size": world_size}
    train_batches = TrainBatches(
        pools["train"],
        global_batch_size=global_batch_size,
        accumulation_steps=accumulation_steps,
        seed=order_seed,
        balanced=sources["train"].targets[pools["train"]] if balanced else None,
        **share,
    )
    if mixing is not None and train_batches.batch_size % 2:
        raise ValueError(
            f"mixup and cutmix take images in pairs: global_batch_size {global_batch_size} / ({world_size} processes x "
            f"{accumulation_steps} accumulation steps) = {train_batches.batch_size} images, which is odd"
        )
    evals = {
        split: Loader(
            sources[split],
            eval_transform,
            EvalBatches(pools[split], batch_size=train_batches.batch_size, **share),
            **place,
        )
        for split in ("val", "test")
    }
    train = Loader(
        sources["train"],
        train_transform,
        train_batches,
        **place,
        skip_unreadable=unreadable == "skip",
        augmentation=augmentation,
        mixing=mixing,
    )
    return Loaders(train=train, **evals, description=description)


def class_counts(loader: Loader) -> np.ndarray:
    """Return how many samples of each class a loader's pool holds, int64 `[K]`."""
    return np.bincount(loader.source.targets[loader.batches.pool], minlength=len(loader.source.classes))
