"""What can be chosen about networks: declared, described and checked here, without torch."""

from dataclasses import dataclass
from typing import Literal, get_args

FRESH, RUN, IMAGENET = "none", "run", "imagenet"
PUBLISHED = ("radimagenet-keras", "radimagenet-torch", "radimagenet-hub", "radiologynet")
HeadKind = Literal["linear", "mlp", "conv1d", "conv1d_skip"]
BatchNormPolicy = Literal["frozen", "adapt", "train"]
LAST = "last:"
SCHEMES = ("none", "head", "last:<groups>", "keras_last_10")


def parse_start(start: str) -> tuple[str, str | None]:
    """Return kind and place of a start such as `radimagenet-keras:weights.h5`.

    Raises:
        ValueError: There is no such kind, or it needs a place, or takes none.
    """
    kind, _, place = start.partition(":")
    kinds = (FRESH, IMAGENET, RUN, *PUBLISHED)
    if kind not in kinds:
        raise ValueError(f"unknown start {kind!r}; known: {', '.join(kinds)}")
    if kind == FRESH and place:
        raise ValueError(f"the start {FRESH!r} takes no file, got {place!r}")
    if kind not in (FRESH, IMAGENET) and not place:
        raise ValueError(f"the start {kind!r} needs a {'folder' if kind == RUN else 'file'}: {kind}:<path>")
    return kind, place or None


@dataclass(frozen=True)
class HeadOptions:
    """The layers between the pooled features `[B, d]` and the outputs: see `replace_head`.

    Args:
        kind: `linear`; `mlp`: hidden layers with ReLU; `conv1d`: a convolution along the features, batch norm and a
            hidden layer; `conv1d_skip`: a linear map of the features is added to what the convolution gives (Frees et
            al. 2025).
        dropout: Probability that a number is dropped before each linear layer, in [0, 1).
        width: Units of a hidden layer, and at most so many numbers from the convolution, which are averaged over
            neighbours down to that; `null` keeps all of them and as many units (a billion weights for d = 2048), and
            takes d for an `mlp`.
        layers: Hidden layers of an `mlp`.
        filters: Filters of the convolution.
        kernel_size: Features that a filter sees at once.
        side_inputs: Numbers beside the image, such as sex, that an `mlp` takes: `model(images, side=...)`.
        side_units: Units of a layer with ReLU that these go through before they join the features.
    """

    kind: HeadKind = "linear"
    dropout: float = 0.0
    width: int | None = 512
    layers: int = 1
    filters: int = 16
    kernel_size: int = 2
    side_inputs: int = 0
    side_units: int = 32

    def __post_init__(self):
        if self.kind not in get_args(HeadKind):
            raise ValueError(f"head.kind must be one of {', '.join(get_args(HeadKind))}, got {self.kind!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"head.dropout must lie in [0, 1), got {self.dropout}")
        for name in ("layers", "filters", "kernel_size", "side_units"):
            if getattr(self, name) < 1:
                raise ValueError(f"head.{name} must be at least 1, got {getattr(self, name)}")
        if self.width is not None and self.width < 1:
            raise ValueError(f"head.width must be at least 1 or null, got {self.width}")
        if self.side_inputs < 0:
            raise ValueError(f"head.side_inputs must be at least 0, got {self.side_inputs}")
        self._refuse_what_does_not_reach_the_head()

    def _refuse_what_does_not_reach_the_head(self) -> None:
        """Two cells of a grid that differ only in an option without effect would be one cell, reported as two."""
        convolves = self.kind.startswith("conv1d")
        used = {
            "width": self.kind != "linear",
            "layers": self.kind == "mlp",
            "filters": convolves,
            "kernel_size": convolves,
            "side_inputs": self.kind == "mlp",
            "side_units": self.side_inputs > 0,
        }
        defaults = HeadOptions.__dataclass_fields__
        for name, reaches in used.items():
            if not reaches and getattr(self, name) != defaults[name].default:
                without = "without head.side_inputs" if name == "side_units" else f"of kind {self.kind}"
                raise ValueError(f"head.{name} {getattr(self, name)} has no effect on a head {without}: leave it out")


@dataclass(frozen=True)
class FreezeOptions:
    """Which parameters are trained, and when: see `Freezing`.

    Args:
        scheme: `none` trains everything, `head` only the head, `last:<n>` the head and the last n of timm's layer
            groups, `keras_last_10` the head and the last ten Keras layers of the four published nets.
        first_epochs: Epochs at the beginning in which only the head is trained, whatever the scheme.
        first_lr_factor: Learning rates of these epochs over those of the schedule.
        batch_norm: Of layers that are not trained: `frozen` uses and keeps the statistics it has, `adapt` uses each
            batch's and lets the running ones move, `train` also trains scale and offset.
    """

    scheme: str = "none"
    first_epochs: int = 0
    first_lr_factor: float = 1.0
    batch_norm: BatchNormPolicy = "frozen"

    def __post_init__(self):
        groups = self.scheme.removeprefix(LAST)
        named = self.scheme in ("none", "head", "keras_last_10")
        if not named and not (self.scheme.startswith(LAST) and groups.isascii() and groups.isdecimal()):
            raise ValueError(f"freeze.scheme must be one of {', '.join(SCHEMES)}, got {self.scheme!r}")
        if self.batch_norm not in get_args(BatchNormPolicy):
            expected = ", ".join(get_args(BatchNormPolicy))
            raise ValueError(f"freeze.batch_norm must be one of {expected}, got {self.batch_norm!r}")
        if self.first_epochs < 0:
            raise ValueError(f"freeze.first_epochs must be at least 0, got {self.first_epochs}")
        if not 0 < self.first_lr_factor < float("inf"):
            raise ValueError(f"freeze.first_lr_factor must be positive, got {self.first_lr_factor}")
        if self.first_lr_factor != 1 and not self.first_epochs:
            raise ValueError("freeze.first_lr_factor has no effect without freeze.first_epochs: leave it out")
        if self.first_epochs and self.scheme == "head":
            raise ValueError("freeze.first_epochs has no effect with freeze.scheme head: leave it out")

    @property
    def last_groups(self) -> int | None:
        """Layer groups that are trained beside the head; None for schemes that do not count them."""
        return int(self.scheme.removeprefix(LAST)) if self.scheme.startswith(LAST) else None
