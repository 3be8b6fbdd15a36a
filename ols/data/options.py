"""What can be chosen about images: declared, described and checked here, and nowhere else.

Each group is what one constructor takes; `DataOptions` is all of them at one level, as a configuration has them.
Nothing heavy is imported, so that a wrong value is named before torch is loaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

Aspect = Literal["shorter", "longest", "squash"]
Augment = Literal["none", "radiology", "mei2022", "randaugment"]
Sampling = Literal["natural", "class_balanced"]
Unreadable = Literal["error", "skip"]
Confounder = Literal["none", "tag", "low_pass", "noise", "jpeg", "gamma", "attribute"]
ConfoundedTest = Literal["matched", "clean", "inverted"]
# Strengths of each confounder from faint to strong, see `ConfoundingOptions`; the middle one is the default.
CONFOUNDER_STRENGTHS: dict[str, tuple[float, float, float]] = {
    "tag": (0.05, 0.1, 0.2),
    "low_pass": (0.7, 0.4, 0.2),
    "noise": (0.02, 0.05, 0.1),
    "jpeg": (50, 20, 5),
    "gamma": (0.8, 0.65, 0.5),
}
STRENGTH_LIMITS: dict[str, tuple[float, float]] = {
    "tag": (0, 0.7),
    "low_pass": (0, 1.5),
    "noise": (0, 0.5),
    "jpeg": (1, 95),
    "gamma": (0.1, 10),
}


@dataclass(frozen=True)
class SourceOptions:
    """Where the images lie, and of a table which columns: see `open_data`.

    Args:
        root: A folder that contains `radiology_ai`, a pack, a folder that contains `train`, `val` and `test` with class
            folders, a MedMNIST `.npz`, or a `.csv`: a table of targets.
        splits: Folder with the split CSVs of `radiology_ai`, where it is not one of the usual places.
        targets: Target columns of a table; of masks names of the foreground classes.
        patient: Column of a table that says which images belong together; by default `patient`, where there is one.
        mask: Column of a table with the file of each mask; by default `mask`.
        side: Columns of a table with what a head takes beside the image, such as sex: numbers, or one of two words.
    """

    root: str = "data/phantoms"
    splits: str | None = None
    targets: list[str] | None = None
    patient: str | None = None
    mask: str | None = None
    side: list[str] | None = None


@dataclass(frozen=True)
class SplitOptions:
    """Which fold of a split file is trained on, and how much of it: see `ols.data.splits`.

    Args:
        file: The split file, made by `recipes/split.py`; a table of targets needs one.
        fold: Number of the fold, from 0; `all` is one run for each.
        share: Part of the fold's training images, by whole patients.
    """

    file: str | None = None
    fold: int | Literal["all"] = 0
    share: float = 1.0

    def __post_init__(self):
        if self.fold != "all" and (isinstance(self.fold, str) or self.fold < 0):
            raise ValueError(f"split.fold must be a number from 0, or all, got {self.fold!r}")
        if not 0 < self.share <= 1:
            raise ValueError(f"split.share must lie in (0, 1], got {self.share}")


@dataclass(frozen=True)
class SelectionOptions:
    """Which samples of a split are used: see `select`.

    Args:
        train_images: Train on so many images, drawn at random but the same ones for every seed; by default all.
    """

    train_images: int | None = None

    def __post_init__(self):
        if self.train_images is not None and self.train_images < 1:
            raise ValueError(f"train_images must be at least 1, got {self.train_images}")


@dataclass(frozen=True)
class SizeOptions:
    """Sizes, channels and scaling of every image, in training and in use: see `Preprocessing`.

    Args:
        image_size: Side of the square that the model sees, in pixels.
        resize_size: Images are resized to this before the square is cut out, in pixels; by default 8/7 of
            `image_size`, which is 256 for 224.
        aspect: `resize_size` is that of the `shorter` side, of the `longest` with black beside the image, or of both
            sides (`squash`); a pack has one of its own, which must be named.
        in_chans: 1 for grayscale, 3 for RGB.
        mean: Of each channel, subtracted from intensities in [0, 1]; one number, or three for RGB. By default what the
            weights expect that the model starts from, and 0.5 for fresh ones.
        std: Divides intensities then, like `mean`.
    """

    image_size: int = 224
    resize_size: int | None = None
    aspect: Aspect = "shorter"
    in_chans: Literal[1, 3] = 1
    mean: list[float] | None = None
    std: list[float] | None = None

    def __post_init__(self):
        resize_size = self.image_size if self.resize_size is None else self.resize_size
        check_sizes(self.image_size, resize_size, self.in_chans)
        channel_scaling(self.mean or [0.5], self.std or [0.5], self.in_chans)
        if self.aspect not in get_args(Aspect):
            raise ValueError(f"aspect must be one of {', '.join(get_args(Aspect))}, got {self.aspect!r}")

    def with_resize_size(self) -> Self:
        """Return the options with `resize_size` filled in where it is not given."""
        return replace(self, resize_size=self.resize_size or round(self.image_size * 8 / 7))

    def with_normalization(self, mean: Sequence[float], std: Sequence[float]) -> Self:
        """Return the options with `mean` and `std` filled in where they are not given."""
        return replace(self, mean=self.mean or list(mean), std=self.std or list(std))


def check_sizes(image_size: int, resize_size: int, in_chans: int) -> None:
    """Make sure that squares can be cut out of what images are resized to, and that they are gray or RGB.

    Raises:
        ValueError: They cannot, or are not.
    """
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel, got {image_size}")
    if resize_size < image_size:
        raise ValueError(f"resize_size must be at least image_size ({image_size}), got {resize_size}")
    if in_chans not in (1, 3):
        raise ValueError(f"in_chans must be 1 (grayscale) or 3 (RGB), got {in_chans}")


def channel_scaling(
    mean: float | Sequence[float], std: float | Sequence[float], in_chans: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel: one value is that of all, those of RGB are averaged for gray.

    Raises:
        ValueError: There are neither one nor three values, or a standard deviation is not positive.
    """
    means, stds = _for_channels("mean", mean, in_chans), _for_channels("std", std, in_chans)
    if min(stds) <= 0:
        raise ValueError(f"std must be positive, got {list(stds)}")
    return means, stds


def _for_channels(name: str, values: float | Sequence[float], in_chans: int) -> tuple[float, ...]:
    values = tuple(map(float, values)) if isinstance(values, Sequence) else (float(values),)
    if len(values) not in (1, 3):
        raise ValueError(f"{name} must have one value, or one for each of three channels, got {list(values)}")
    if len(values) == in_chans:
        return values
    return values * 3 if in_chans == 3 else (sum(values) / 3,)


@dataclass(frozen=True)
class FlipOptions:
    """Mirroring of training images: see `TrainTransform`.

    Args:
        horizontal_flip: Mirror half of the training images; turn it off where laterality matters.
    """

    horizontal_flip: bool = True


@dataclass(frozen=True)
class AugmentationOptions:
    """What is done to the bytes of training images beside crop and flip: see `Augmentation`.

    Args:
        augment: `radiology` turns, shears and shifts training images a little, and changes contrast, brightness and
            sharpness a little; `mei2022` turns, shifts, shears and zooms every one; `randaugment` is RandAugment as for
            photographs. None of them mirrors.
        erase_prob: Share of training images of which a rectangle is blackened (random erasing).
    """

    augment: Augment = "none"
    erase_prob: float = 0.0

    def __post_init__(self):
        if self.augment not in get_args(Augment):
            raise ValueError(f"augment must be one of {', '.join(get_args(Augment))}, got {self.augment!r}")
        if not 0 <= self.erase_prob <= 1:
            raise ValueError(f"erase_prob must lie in [0, 1], got {self.erase_prob}")

    @property
    def augments(self) -> bool:
        """Whether there is anything to do."""
        return self.augment != "none" or self.erase_prob > 0


@dataclass(frozen=True)
class MixingOptions:
    """Mixup and cutmix of training batches: see `Mixing`.

    Args:
        mixup_alpha: Parameter of the beta distribution of mixup, 0.2 or 0.8 in papers; 0 for no mixup.
        cutmix_alpha: The same of cutmix, usually 1; with both, each batch draws one of them.
        mix_prob: Share of training batches that are mixed, where one of the two is on.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mix_prob: float = 1.0

    def __post_init__(self):
        for name in ("mixup_alpha", "cutmix_alpha"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.mix_prob <= 1:
            raise ValueError(f"mix_prob must lie in [0, 1], got {self.mix_prob}")

    @property
    def mixes(self) -> bool:
        """Whether one of the two is on."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0


@dataclass(frozen=True)
class SamplingOptions:
    """How often each class is trained on: see `TrainBatches`.

    Args:
        sampling: `class_balanced` trains on all classes equally often, with as many images an epoch.
    """

    sampling: Sampling = "natural"

    def __post_init__(self):
        if self.sampling not in get_args(Sampling):
            raise ValueError(f"sampling must be one of {', '.join(get_args(Sampling))}, got {self.sampling!r}")


@dataclass(frozen=True)
class ConfoundingOptions:
    """A shortcut put into images of one class, to see whether a network takes it: see `ols.data.confounding`.

    Args:
        confounder: `tag`, a white R; `low_pass`, no detail; `noise` of few photons; `jpeg`, traces of compression;
            `gamma`, other tones; or `attribute`, a column of a table, by the choice of images.
        confounder_strength: Height of the tag as a fraction of the shorter side, 0 to 0.7; cut-off as a fraction of the
            Nyquist frequency, 0 to 1.5, where 1.5 keeps all; standard deviation of the noise of mid-gray as a fraction
            of white, 0 to 0.5; quality, 1 to 95; exponent, 0.1 to 10. By default 0.1, 0.4, 0.05, 20 and 0.65.
        confounder_share: Share of the positive images of training and validation that carry it; how far the attribute
            goes with the label, where it is one, from 0 to always.
        confounder_class: Name of the positive class, or of one of several labels, that carries it.
        confounder_test: Test images that carry it: `matched`, as many positives as in training; `clean`, none;
            `inverted`, all negatives. Of an attribute: as in training, independent of the label, or always opposite.
        confounder_attribute: Column of the table and the value that goes with the positive class, such as `sex=M`.
    """

    confounder: Confounder = "none"
    confounder_strength: float | None = None
    confounder_share: float = 0.0
    confounder_class: str | None = None
    confounder_test: ConfoundedTest = "matched"
    confounder_attribute: str | None = None

    def __post_init__(self):
        if self.confounder not in get_args(Confounder):
            raise ValueError(f"confounder must be one of {', '.join(get_args(Confounder))}, got {self.confounder!r}")
        if self.confounder_test not in get_args(ConfoundedTest):
            known = ", ".join(get_args(ConfoundedTest))
            raise ValueError(f"confounder_test must be one of {known}, got {self.confounder_test!r}")
        if not 0 <= self.confounder_share <= 1:
            raise ValueError(f"confounder_share must lie in [0, 1], got {self.confounder_share}")
        if self.confounder == "attribute":
            if self.confounder_strength is not None:
                raise ValueError("an attribute has no confounder_strength")
            if "=" not in (self.confounder_attribute or ""):
                raise ValueError(
                    f"confounder_attribute must name a column and a value like sex=M, got {self.confounder_attribute!r}"
                )
        elif self.confounder_attribute is not None:
            raise ValueError(f"confounder_attribute needs the confounder attribute, not {self.confounder}")
        if self.changes_images:
            check_strength(self.confounder, self.strength)
        if self.confounder != "none":
            if self.confounder_class is None:
                raise ValueError("confounder_class must name the positive class, which carries the confounder")
        elif self.confounder_strength is not None or self.confounder_share > 0 or self.confounder_class is not None:
            raise ValueError("confounder is none: confounder_strength, confounder_share and confounder_class need one")

    @property
    def changes_images(self) -> bool:
        """Whether there is a confounder that is put into images; an attribute only chooses among them."""
        return self.confounder not in ("none", "attribute")

    @property
    def strength(self) -> float:
        """The strength, by default the middle one of its kind; 0 where nothing is put into images."""
        if self.confounder_strength is not None or not self.changes_images:
            return self.confounder_strength or 0.0
        return CONFOUNDER_STRENGTHS[self.confounder][1]

    def describe_confounder(self) -> str:
        """Return which images carry what, in a sentence."""
        if self.confounder == "attribute":
            share = f"goes with {self.confounder_class} to {self.confounder_share:.0%} in training and validation"
            return f"{self.confounder_attribute} {share}, test {self.confounder_test}"
        carriers = f"{self.confounder_share:.0%} of {self.confounder_class} in training and validation"
        return f"{self.confounder} {self.strength:g} in {carriers}, test {self.confounder_test}"


def check_strength(confounder: str, strength: float) -> None:
    """Make sure that a confounder has a strength of its range.

    Raises:
        ValueError: It has not, or there is no such confounder.
    """
    if confounder not in STRENGTH_LIMITS:
        raise ValueError(f"confounder must be one of {', '.join(STRENGTH_LIMITS)}, got {confounder!r}")
    low, high = STRENGTH_LIMITS[confounder]
    if not low <= strength <= high:
        raise ValueError(f"confounder_strength of {confounder} must lie in [{low}, {high}], got {strength}")
    if confounder == "jpeg" and strength != int(strength):
        raise ValueError(f"confounder_strength of jpeg must be a whole number, got {strength}")


@dataclass(frozen=True)
class ReadingOptions:
    """How files are read: see `TrainLoader`.

    Args:
        unreadable: `error` stops at a training image that cannot be read, `skip` trains without it and counts it;
            evaluation always stops.
        workers: Reading processes of each loader and process; by default its share of the cores, at most 8, and 2 for
            a pack.
    """

    unreadable: Unreadable = "error"
    workers: int | None = None

    def __post_init__(self):
        if self.unreadable not in get_args(Unreadable):
            raise ValueError(f"unreadable must be one of {', '.join(get_args(Unreadable))}, got {self.unreadable!r}")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers must not be negative, got {self.workers}")


@dataclass(frozen=True)
class DataOptions(
    ReadingOptions,
    ConfoundingOptions,
    SamplingOptions,
    MixingOptions,
    AugmentationOptions,
    FlipOptions,
    SizeOptions,
    SelectionOptions,
    SourceOptions,  # a dataclass has the fields of its last base first
):
    """All that can be chosen about images, as `build_loaders` takes it."""

    def __post_init__(self):
        for group in DataOptions.__bases__:
            if check := vars(group).get("__post_init__"):
                check(self)
