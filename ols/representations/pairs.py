"""How alike the layers of two networks are, all against all: each pair beside chance and, with a third, its ceiling."""

from collections.abc import Mapping
from dataclasses import dataclass

from numpy.typing import NDArray

from ols.metrics.arguments import whole_number
from ols.representations.layers import Points
from ols.representations.similarity import ROWS_PER_FEATURE, Representation, Similarity


@dataclass(frozen=True)
class LayerPair:
    """A layer of one network and a layer of another, on the same images.

    Args:
        first: Name of the layer of the first network.
        second: Name of that of the second.
        rows: Rows that they were compared in, points of images or images.
        directions: Dimension of each, for mean CCA and PWCCA.
        components: Components of each that SVCCA compares.
        similarities: By name of the measure, a name of `MEASURES`; NaN where there are too few rows.
        ceiling: The same measures of the first network's layer and that of a third one; empty where there is none.
    """

    first: str
    second: str
    rows: int
    directions: tuple[int, int]
    components: tuple[int, int]
    similarities: dict[str, Similarity]
    ceiling: dict[str, float]


def compare_layers(
    first: Mapping[str, NDArray],
    second: Mapping[str, NDArray],
    points: Points,
    *,
    ceiling: Mapping[str, NDArray] | None = None,
    draws: int = 5,
    seed: int = 0,
    variance: float = 0.99,
    rows_per_feature: float = ROWS_PER_FEATURE,
) -> list[LayerPair]:
    """Compare every layer of a network with every one of another.

    Chance is what remains where images are permuted and points of images are not: layers that see the same place of
    other images. The rows of one image are no independent ones, and only permuting whole images says what that does.

    Memory is that of the features twice in float64, and while a layer is decomposed about three times its own.

    Args:
        first: Features of each layer `[rows, d]`, see `read_layers`.
        second: Of the other network, in the same points of the same images.
        points: Where the images were looked at.
        ceiling: Of a third network with the layers of the second, such as one that differs from the first by its seed
            alone: as alike as anything can be expected to be.
        draws: Permutations of the images, at least 1; the same for all pairs.
        seed: Of the permutations.
        variance: Share of the variance that SVCCA keeps.
        rows_per_feature: Rows for each dimension that is compared, without which a canonical correlation is NaN.

    Returns:
        Each layer of the first with each of the second, in their order.

    Raises:
        ValueError: A layer has no features of so many rows, or such as do not vary or are not finite; the message names
            it. Or there is no draw, or the third network has not the layers of the second.
    """
    if whole_number("draws", draws) < 1:
        raise ValueError(f"chance needs at least one draw, got {draws}")
    if ceiling is not None and list(ceiling) != list(second):
        raise ValueError(f"the layers of the ceiling, {', '.join(ceiling)}, are not those of the second network")
    ours, theirs, upper = (_decomposed(side, points.rows, variance) for side in (first, second, ceiling or {}))
    orders = [points.permuted(draw, seed=seed) for draw in range(draws)]
    return [
        LayerPair(
            name,
            other,
            points.rows,
            (x.rank, y.rank),
            (x.components, y.components),
            x.against_chance(y, orders, rows_per_feature=rows_per_feature),
            x.likeness(upper[other], rows_per_feature=rows_per_feature) if upper else {},
        )
        for name, x in ours.items()
        for other, y in theirs.items()
    ]


def _decomposed(features: Mapping[str, NDArray], rows: int, variance: float) -> dict[str, Representation]:
    found = {}
    for name, side in features.items():
        if len(side) != rows:
            raise ValueError(f"layer {name} has {len(side)} rows, the points are {rows}")
        try:
            found[name] = Representation(side, variance=variance)
        except ValueError as error:
            raise ValueError(f"layer {name}: {error}") from error
    return found
