"""What a report is made of: cards, sentences, a table of measures, and sections. How they look is the page's."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

Tone = Literal["", "raw", "scaled", "null"]
"""What a column is of: confidence as it is, after temperature scaling, or under perfect calibration."""


class Predicted(Protocol):
    """A model's outputs on a split; see `ols.evaluation.predictions.Predictions`, which is one."""

    @property
    def logits(self) -> Tensor:
        """Outputs `[N, ...]`."""

    @property
    def targets(self) -> Tensor:
        """As the task has them `[N, ...]`."""

    @property
    def indices(self) -> Tensor:
        """Index of each sample in its data set, int64 `[N]`."""

    @property
    def sample_ids(self) -> list[str]:
        """Name of each sample `[N]`."""

    @property
    def patients(self) -> list[str]:
        """What each sample belongs to, its own name where nothing is known, `[N]`."""

    def required_features(self) -> Tensor:
        """Return the penultimate features `[N, D]`; ValueError where they were not asked for."""


@dataclass(frozen=True)
class Card:
    """A number in large type.

    Args:
        label: What it is.
        value: As text.
        note: What does not belong apart from it, such as its interval.
        tone: Whether it is of raw or of scaled confidence.
    """

    label: str
    value: str
    note: str
    tone: Tone = ""


@dataclass(frozen=True)
class Cell:
    """A value as text.

    Args:
        text: The value.
        beside: What stands beside it in small type, such as its interval.
        below: The same below it, a line each.
        small: What a name belongs to, such as a class to a group.
        note: What a reader may not know of it.
        bar: A fraction to draw as a bar.
        link: Address that the value leads to.
    """

    text: str = ""
    beside: str = ""
    below: Sequence[str] = ()
    small: str = ""
    note: str = ""
    bar: float | None = None
    link: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        cells: One of each column.
        total: Whether it sums up the rows after it.
    """

    cells: Sequence[Cell]
    total: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        title: Its heading.
        number: Whether it holds numbers, which are set to the right.
        tone: What it is of.
    """

    title: str
    number: bool = False
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        columns: Its columns; no heading is shown where none has a title.
        rows: Its rows.
        otherwise: What is said where there is no row.
        fold: What is shown of it until a reader unfolds it; empty for a table that is always shown.
        unfolded: Whether it is unfolded at first.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    otherwise: str = ""
    fold: str = ""
    unfolded: bool = False


@dataclass(frozen=True)
class Text:
    """A heading within a section, its introduction, or a sentence.

    Args:
        text: What is said.
        kind: Which of the three.
    """

    text: str
    kind: Literal["heading", "introduction", "sentence"] = "sentence"


@dataclass(frozen=True)
class Drawing:
    """A figure with its caption.

    Args:
        figure: The figure.
        alt: What it shows, for whoever cannot see it.
        caption: What stands below it.
    """

    figure: "Figure"
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Drawings:
    """Figures, two of which stand side by side."""

    drawings: Sequence[Drawing]


@dataclass(frozen=True)
class Masks:
    """What is outlined on an image.

    Args:
        true: Pixels of the mask, bool `[H, W]`.
        found: Pixels that are predicted, bool `[H, W]`.
    """

    true: "NDArray"
    found: "NDArray"


@dataclass(frozen=True)
class Exhibit:
    """An image of the split that is shown.

    Args:
        index: In the data set.
        name: Of the image.
        alt: What it is shown for.
        lines: What is said below it: pieces of text, each plain, strong or soft.
        masks: What is outlined on it; the image is shown as the model sees it, then.
    """

    index: int
    name: str
    alt: str
    lines: Sequence[Sequence[tuple[str, Literal["", "strong", "soft"]]]]
    masks: Masks | None = None


@dataclass(frozen=True)
class Gallery:
    """Images."""

    exhibits: Sequence[Exhibit]


Part = Table | Text | Drawings | Gallery


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Args:
        key: Its address within a page: a word.
        title: Its heading.
        parts: What it holds, in order.
    """

    key: str
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Report:
    """What a report says of predictions.

    Args:
        subject: What was evaluated, such as a classifier.
        cards: The numbers that a reader looks for first.
        sentences: What the numbers amount to.
        note: What has to be known of intervals.
        images: Number of images of each split; the split that is shown in full first.
        tones: What each split is measured of: raw and scaled confidence; a single empty one where there is no scaling.
        measures: Rows of the table of measures by the headings of its parts: a label, and a cell a split and tone.
        measures_note: What has to be known of that table.
        sections: All else.
        record: The numbers of all of it, as plain values for JSON.
    """

    subject: str
    cards: Sequence[Card]
    sentences: Sequence[str]
    note: str
    images: dict[str, int]
    tones: Sequence[Tone]
    measures: dict[str, list[Row]]
    measures_note: str
    sections: Sequence[Section]
    record: dict[str, Any] = field(default_factory=dict)
