"""An attribute that a data set has, such as sex, made a confounder by choosing which images are used.

Of the images of a split as many are drawn as the smallest of four cells allows: positive or negative, with the
attribute or without. Each is drawn from its own split, so that no patient changes sides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from ols.data.confounding import in_keyed_order, labels_of
from ols.data.options import ConfoundingOptions
from ols.data.sources.protocol import ImageSource, Split

ATTRIBUTE = int.from_bytes(b"attribut")
FEW = 50  # images of a class, below which a description says that they are few
# How far the attribute goes with the label in a form of the test; None for as far as in training.
FORMS: dict[str, float | None] = {"matched": None, "clean": 0.0, "inverted": -1.0}


@dataclass(frozen=True)
class SampledConfounder:
    """An attribute of a data set, such as sex, that is made to go with the label by choosing images.

    Per class as many images are drawn at every share as the smallest of the four cells (positive or negative, with the
    attribute or without) has, so that shares differ in nothing but the confounding, and every share can be drawn.

    Args:
        source: Data set, whose names key the choice.
        pool: Indices that may be drawn, int64 `[P]`; leave out those whose attribute is unknown.
        positive: Whether each image of the data set is positive, bool `[N]`.
        attribute: Whether each has the attribute, bool `[N]`.

    Raises:
        ValueError: Shapes are wrong, or a cell is empty, which the message names.
    """

    source: ImageSource
    pool: np.ndarray
    positive: np.ndarray
    attribute: np.ndarray

    def __post_init__(self):
        for name in ("positive", "attribute"):
            values = getattr(self, name)
            if values.dtype != bool or values.shape != (len(self.source),):
                raise ValueError(f"{name} must be bool [{len(self.source)}], got {values.dtype} {list(values.shape)}")
        for (positive, attribute), count in self.cells.items():
            if not count:
                raise ValueError(
                    f"no {'positive' if positive else 'negative'} image {'with' if attribute else 'without'} the "
                    "attribute: label and attribute cannot be taken apart"
                )

    @property
    def per_class(self) -> int:
        """How many positives, and as many negatives, are drawn at every share."""
        return min(self.cells.values())

    @property
    def cells(self) -> dict[tuple[bool, bool], int]:
        """How many images there are to draw from, by whether they are positive and have the attribute."""
        return {cell: len(self._cell(*cell)) for cell in product((True, False), (True, False))}

    def draw(self, share: float) -> np.ndarray:
        """Draw images of whose labels a share goes with the attribute, and the rest is independent of it.

        The attribute says the label of (1 + share) / 2 of the images: at 0 it says nothing, at 1 everything, and at
        -1, the inverted test, always the opposite.

        Args:
            share: In [-1, 1].

        Returns:
            Indices in ascending order, int64 `[2 per_class]`.

        Raises:
            ValueError: The share does not lie in [-1, 1].
        """
        if not -1 <= share <= 1:
            raise ValueError(f"share must lie in [-1, 1], got {share}")
        together = round((1 + share) / 2 * self.per_class)
        parts = [
            in_keyed_order(self.source, self._cell(positive, attribute), ATTRIBUTE)[:count]
            for positive in (True, False)
            for attribute, count in ((positive, together), (not positive, self.per_class - together))
        ]
        return np.sort(np.concatenate(parts))

    def _cell(self, positive: bool, attribute: bool) -> np.ndarray:
        inside = (self.positive[self.pool] == positive) & (self.attribute[self.pool] == attribute)
        return self.pool[inside]


def draw_pools(
    sources: Mapping[Split, ImageSource], pools: Mapping[Split, np.ndarray], options: ConfoundingOptions
) -> tuple[dict[Split, np.ndarray], str]:
    """Choose which images of each split are used, where the confounder is an attribute.

    Args:
        sources: Each split; a table of targets with the attribute's column.
        pools: Indices of the images that each split may use, int64.
        options: What goes with the label how far; another confounder leaves the pools as they are.

    Returns:
        Indices of each split in ascending order, and how many images there were of each kind and are used, in words; ""
        for another confounder.

    Raises:
        ValueError: The data set has no such column, class or value, or a split lacks one of the four kinds of image.
    """
    if options.confounder != "attribute":
        return dict(pools), ""
    column, _, value = (options.confounder_attribute or "").partition("=")
    chosen, said = {}, []
    for split, pool in pools.items():
        source = sources[split]
        known = getattr(source, "attributes", {})
        if column not in known:
            has = f"it has {', '.join(known)}" if known else "only a table of targets has columns"
            raise ValueError(f"no column {column!r} for confounder_attribute; {has}")
        values = known[column]
        if value not in values:
            found = ", ".join(np.unique(values[values != ""]).tolist()[:9])
            raise ValueError(f"no image has {value!r} in column {column}; there are {found}")
        labels = labels_of(source, options.confounder_class or "")
        usable = pool[(values[pool] != "") & ~np.isnan(labels[pool])]
        try:
            sampled = SampledConfounder(source, usable, labels == 1, values == value)
        except ValueError as error:
            raise ValueError(f"{split}, {options.confounder_attribute}: {error}") from error
        share = FORMS[options.confounder_test] if split == "test" else None
        chosen[split] = sampled.draw(options.confounder_share if share is None else share)
        said.append(f"{split} {_describe(sampled, options)}")
    return chosen, "; ".join(said)


def _describe(sampled: SampledConfounder, options: ConfoundingOptions) -> str:
    counts = [
        f"{count:,} {'' if positive else 'not '}{options.confounder_class} with{'' if attribute else 'out'}"
        for (positive, attribute), count in sampled.cells.items()
    ]
    few = ", which is few" if sampled.per_class < FEW else ""
    return f"uses {sampled.per_class:,} images a class{few} ({', '.join(counts)} {options.confounder_attribute})"
