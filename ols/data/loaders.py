"""Everything that a run reads its images with, built from one set of options."""

from dataclasses import dataclass, replace

import numpy as np

from ols.data.augmentation import Augmentation
from ols.data.confounding import confound
from ols.data.loading import EvalLoader, Loader, Place, TrainLoader
from ols.data.mixing import Mixing
from ols.data.options import DataOptions, SplitOptions
from ols.data.sampled_confounder import draw_pools
from ols.data.sampling import BatchShare, EvalBatches, TrainBatches
from ols.data.selection import select
from ols.data.sources.opening import open_data
from ols.data.sources.pack import Pack
from ols.data.sources.protocol import SPLITS, Split, target_kind
from ols.data.transforms import EvalTransform, Preprocessing, TrainTransform


@dataclass(frozen=True)
class Loaders:
    """The three splits of a run, the data sets behind them, and a sentence about where they lie in which form."""

    train: TrainLoader
    val: EvalLoader
    test: EvalLoader
    description: str

    @property
    def classes(self) -> list[str]:
        """Label of each class, `[K]`."""
        return self.train.source.classes

    def fingerprints(self) -> dict[Split, dict[str, str]]:
        """Return what tells another data set from this one, by split: see `Loader.fingerprint`."""
        return {"train": self.train.fingerprint(), "val": self.val.fingerprint(), "test": self.test.fingerprint()}

    @property
    def groups(self) -> list[str]:
        """Modality and anatomy of each class, `[K]`."""
        return self.train.source.groups


def build_loaders(
    options: DataOptions,
    share: BatchShare,
    *,
    split: SplitOptions | None = None,
    kind: str = "class",
    seed: int = 0,
    cores: int = 1,
    place: Place | None = None,
    limit_batches: int | None = None,
    overfit_batches: int | None = None,
) -> Loaders:
    """Build the loaders of a run.

    Args:
        options: Which images, and what is done to them.
        share: Images of an optimizer step, and which of them this process reads.
        split: Split file, fold and share, where the data set is a table of targets.
        kind: What the targets of a table are, see `Table`.
        seed: Seed of order and augmentation.
        cores: Processor cores of this process.
        place: Where batches go; by default float32 on the CPU.
        limit_batches: Use only so many global batches of each split: a dry run.
        overfit_batches: Train on so many fixed global batches without augmentation, and evaluate on the same.

    Raises:
        FileNotFoundError: There is no such data set, or something of it is missing.
        ValueError: Something of it is wrong or does not fit the options; or images are to be mixed, and their number in
            a micro-batch is odd.
    """
    place = place or Place()
    data = open_data(options, split or SplitOptions(), kind=kind, in_chans=options.in_chans)
    sources, description = data.sources, data.description
    preprocessing = Preprocessing.from_options(options)
    pack = sources["train"] if isinstance(sources["train"], Pack) else None
    if pack is not None and pack.size != preprocessing.resize_size:
        description += f", resized to {preprocessing.resize_size} px as it is read: pack at that size for full speed"
    workers = options.workers
    if workers is None:
        workers = min(8 if pack is None else 2, cores)

    if options.confounder == "attribute" and options.train_images is not None:
        raise ValueError("train_images and the confounder attribute both choose the images of training")
    drawn, said = draw_pools(sources, data.pools, options)
    pools = select(
        drawn,
        train_images=options.train_images,
        limit=None if limit_batches is None else limit_batches * share.global_batch_size,
        overfit=None if overfit_batches is None else overfit_batches * share.global_batch_size,
        seed=seed,
    )
    eval_transform = EvalTransform(preprocessing)
    train_transform: EvalTransform = TrainTransform(preprocessing, seed=seed, horizontal_flip=options.horizontal_flip)
    order_seed: int | None = seed
    if overfit_batches is not None:
        sources = dict.fromkeys(sources, sources["train"])
        options = replace(
            options, augment="none", erase_prob=0.0, mixup_alpha=0.0, cutmix_alpha=0.0, sampling="natural"
        )
        train_transform, order_seed = eval_transform, None

    if options.confounder != "none":
        sources = {split: confound(sources[split], split, pools[split], options, preprocessing) for split in SPLITS}
        description += f"; {options.describe_confounder()}{said and f': {said}'}"

    kind = target_kind(sources["train"])
    if kind != "class" and (options.mixes or options.sampling == "class_balanced"):
        raise ValueError(f"mixing and class-balanced sampling need images of one class each, the targets are {kind!r}")
    classes = sources["train"].targets[pools["train"]]
    if options.mixes and share.batch_size % 2:
        raise ValueError(f"mixup and cutmix take images in pairs: {share} images, which is odd")
    train = TrainLoader(
        sources["train"],
        train_transform,
        TrainBatches(
            pools["train"], share, seed=order_seed, balanced=classes if options.sampling == "class_balanced" else None
        ),
        augmentation=Augmentation(options, seed=seed) if options.augments else None,
        mixing=Mixing(len(sources["train"].classes), options, seed=seed) if options.mixes else None,
        unreadable=options.unreadable,
        workers=workers,
        place=place,
    )
    val, test = (
        EvalLoader(
            sources[split],
            eval_transform,
            EvalBatches(pools[split], batch_size=share.batch_size, rank=share.rank, world_size=share.world_size),
            workers=workers,
            place=place,
        )
        for split in SPLITS[1:]
    )
    return Loaders(train=train, val=val, test=test, description=description)


def class_counts(loader: Loader) -> np.ndarray:
    """Return how many samples of each class a loader's pool holds, int64 `[K]`.

    Raises:
        ValueError: The targets are no classes.
    """
    if (kind := target_kind(loader.source)) != "class":
        raise ValueError(f"classes can be counted of images of one class each, the targets are {kind!r}")
    return np.bincount(loader.source.targets[loader.batches.pool], minlength=len(loader.source.classes))
