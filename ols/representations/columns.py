"""What fine-tuning has changed inside a network, as numbers by name: one line of a study's table."""

import math

from torch import nn

from ols.data.loading import EvalLoader
from ols.representations.layers import draw_points, layer_names, layer_shapes, read_layers
from ols.representations.pairs import compare_layers

SHOWN = ("mean_cca", "cka")


def similarity_columns(
    before: nn.Module, after: nn.Module, loader: EvalLoader, *, rows: int = 10_000, draws: int = 5, seed: int = 0
) -> dict[str, float]:
    """Compare each layer of a network before and after it was trained, on the same images.

    Args:
        before: With the weights that training started from, on the loader's device.
        after: The trained network, of the same architecture.
        loader: The images.
        rows: Most points of images.
        draws: Permutations of the images for what chance gives.
        seed: Of points and permutations.

    Returns:
        `similarity/<layer>/mean_cca` and `cka` (unbiased), each beside its `_null`; a measure that too few rows leave
        out has no column.
    """
    layers = layer_names(after)
    points = draw_points(
        loader.num_samples, layer_shapes(after, layers, loader.zeros(1)).values(), rows=rows, seed=seed
    )
    first, second = (read_layers(model, loader, layers, points) for model in (before, after))
    found: dict[str, float] = {}
    for layer in layers:
        (pair,) = compare_layers({layer: first[layer]}, {layer: second[layer]}, points, draws=draws, seed=seed)
        for measure in SHOWN:
            similarity = pair.similarities[measure]
            found[f"similarity/{layer}/{measure}"] = float(similarity.value)
            found[f"similarity/{layer}/{measure}_null"] = float(similarity.null)
    return {name: value for name, value in found.items() if not math.isnan(value)}
