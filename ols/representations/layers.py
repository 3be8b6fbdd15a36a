"""Features of named layers of a model, streamed over images: rows at the same points of the same images in all layers.

A layer gives a vector of each image, or one at each position of a map or of a grid of tokens. To compare layers, and
networks, whose maps differ in size, images are looked at in points: a layer's row is what it gives at the position that
the point falls into. There are at most as many points in an image as the coarsest of the layers has positions.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ols.data.loading import EvalLoader, beside
from ols.keyed import keyed_order, keyed_uniform
from ols.models.decoder import trunk

POINTS = int.from_bytes(b"points")  # keys where images are looked at, apart from every seed
PERMUTED = int.from_bytes(b"permuted")  # keys the permutations of images
STEMS = ("stem", "bn1", "patch_embed", "conv_stem")  # what timm calls what comes before the stages
STAGES = ("stages", "blocks", "layers")
LEAST_IN_A_BLOCK = 32  # images that are looked at in the same points, so that a permutation of them is one


class LayerShape(NamedTuple):
    """What a layer gives of an image.

    Args:
        height: Rows of positions; 1 for a vector.
        width: Columns of positions.
        features: Numbers at each position d.
    """

    height: int
    width: int
    features: int


@dataclass(frozen=True)
class Points:
    """Where images are looked at: in the same points, whichever the layer and the network.

    Args:
        places: Row and column of each point as parts of the image's height and width, in [0, 1), `[N, P, 2]`; None
            for the mean over all positions of a map, one row an image.
        blocks: Images of one number are looked at in the same points, int64 `[N]`.
    """

    places: NDArray | None
    blocks: NDArray

    @property
    def per_image(self) -> int:
        """Rows that an image gives."""
        return 1 if self.places is None else self.places.shape[1]

    @property
    def rows(self) -> int:
        """Rows of all images."""
        return len(self.blocks) * self.per_image

    def permuted(self, draw: int, *, seed: int = 0) -> NDArray:
        """Return an order of the rows in which images are permuted, and points are not, int64 `[rows]`.

        A row stands for one of another image at the same point: what images have in common at a place, such as the
        border of all chest radiographs, belongs to chance.
        """
        images = np.empty(len(self.blocks), np.int64)
        shuffled = keyed_order(seed, draw, len(self.blocks), PERMUTED)
        for block in np.unique(self.blocks):
            members = np.flatnonzero(self.blocks == block)
            images[members] = shuffled[self.blocks[shuffled] == block]
        return (images[:, None] * self.per_image + np.arange(self.per_image)).ravel()


def draw_points(num_images: int, shapes: Iterable[LayerShape], *, rows: int, seed: int = 0) -> Points:
    """Choose where to look at images, so that there are about so many rows, and every place has its part.

    A point lies in each position of the coarsest of the layers: in all of them if they fit into the rows, else in some,
    and in others for other images. Where the coarsest is a vector or has one position, maps are averaged.

    Args:
        num_images: Images N.
        shapes: Of all layers that are to be compared.
        rows: Most rows, at least `num_images`.
        seed: Of the draw.

    Raises:
        ValueError: There are no layers, or fewer rows than images.
    """
    shapes = list(shapes)
    if not shapes or not 1 <= num_images <= rows:
        raise ValueError(
            f"expected layers, and a row for each image: {len(shapes)} layers, {num_images} images, {rows} rows"
        )
    height, width = min(shape.height for shape in shapes), min(shape.width for shape in shapes)
    cells = height * width
    if cells == 1:
        return Points(None, np.zeros(num_images, np.int64))
    per_image = min(cells, rows // num_images)
    num_blocks = min(math.ceil(cells / per_image), max(1, num_images // LEAST_IN_A_BLOCK))
    blocks = np.empty(num_images, np.int64)
    blocks[keyed_order(seed, 0, num_images, POINTS)] = np.arange(num_images) % num_blocks
    order = keyed_order(seed, 1, cells, POINTS)
    chosen = np.sort(order[(np.arange(num_blocks)[:, None] * per_image + np.arange(per_image)) % cells], axis=1)
    inside = 0.05 + 0.9 * keyed_uniform(seed, 2, chosen[..., None], np.arange(2), POINTS)  # not on a border
    places = (np.stack([chosen // width, chosen % width], axis=-1) + inside) / [height, width]
    return Points(places[blocks], blocks)


def layer_names(model: nn.Module) -> list[str]:
    """Return the layers that timm names as features of a model, from the stem to the last stage or block.

    Any other name of `model.named_modules()` will do, too, where features are read.

    Raises:
        ValueError: timm names none.
    """
    network = trunk(model)
    names = [entry["module"] for entry in getattr(network, "feature_info", None) or []]
    if not names:
        raise ValueError(f"timm names no features of a {type(network).__name__}: name its layers")
    if names[0].split(".")[0] in STAGES:
        children = dict(network.named_children())
        names = [*[stem for stem in STEMS if stem in children][:1], *names]
    return names


@torch.no_grad()
def layer_shapes(model: nn.Module, layers: Sequence[str], batch: dict[str, Tensor]) -> dict[str, LayerShape]:
    """Return what each layer gives of an image, by a pass of a batch; the model is left in the mode it was in.

    Raises:
        ValueError: The model has no such layer, or it gives no vectors of positions; the message names it.
    """
    found: dict[str, LayerShape] = {}

    def look(name: str, features: Tensor) -> None:
        _, channels, height, width = features.shape
        found[name] = LayerShape(height, width, channels)

    with _watched(model, layers, look):
        model(batch["image"], **beside(batch))
    return {name: found[name] for name in layers}


@torch.no_grad()
def read_layers(model: nn.Module, loader: EvalLoader, layers: Sequence[str], points: Points) -> dict[str, NDArray]:
    """Return the features of layers in points of all images, in one pass over them.

    Memory is that of what is returned, `rows x d` numbers for each layer, and of the maps of a batch.

    Args:
        model: timm's, or one with a decoder over it, on the loader's device; left in the mode it was in.
        loader: Images, in their order.
        layers: Names of modules of the network.
        points: Where to look, of as many images.

    Returns:
        Float32 or float64 `[rows, d]` of each layer, the points of the first image first.

    Raises:
        ValueError: There are not as many images as points are of; the model has no such layer, or it gives no vectors
            of positions.
    """
    if loader.num_samples != len(points.blocks):
        raise ValueError(f"expected {len(points.blocks)} images, which points are of, got {loader.num_samples}")
    found: dict[str, NDArray] = {}
    first = 0

    def take(name: str, features: Tensor) -> None:
        rows = _at(features, None if points.places is None else points.places[first : first + len(features)])
        if name not in found:
            found[name] = np.empty((points.rows, rows.shape[1]), rows.numpy().dtype)
        start = first * points.per_image
        found[name][start : start + len(rows)] = rows.numpy()

    with _watched(model, layers, take):
        for batch in loader:
            model(batch["image"], **beside(batch))
            first += len(batch["image"])
    return {name: found[name] for name in layers}


def _at(features: Tensor, places: NDArray | None) -> Tensor:
    """Return rows `[B P, d]` on the CPU of what a layer gives `[B, d, H, W]` at places `[B, P, 2]`."""
    features = features if features.dtype == torch.float64 else features.float()
    if places is None:
        return features.mean(dim=(2, 3)).cpu()
    height, width = features.shape[2:]
    row, column = np.moveaxis((places * [height, width]).astype(np.int64), -1, 0)  # [B, P]
    where = torch.from_numpy(row * width + column).to(features.device)[:, None].expand(-1, features.shape[1], -1)
    return features.flatten(2).gather(2, where).transpose(1, 2).flatten(0, 1).cpu()


@contextmanager
def _watched(model: nn.Module, layers: Sequence[str], look: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `look` with the name and the output `[B, d, H, W]` of each layer in every forward pass, in eval mode.

    At once, as what comes after may work in place.
    """
    network = trunk(model)
    modules = dict(network.named_modules(remove_duplicate=False))
    for name in layers:
        if not name or name not in modules:
            near = ", ".join(difflib.get_close_matches(name, modules, n=5, cutoff=0.3)) or "one of named_modules()"
            raise ValueError(f"{type(network).__name__} has no layer {name!r}; did you mean {near}?")
    seen: set[str] = set()

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def watch(module: nn.Module, args: Any, output: Any) -> None:
            if name in seen:
                raise ValueError(f"layer {name} is used several times in a pass: it has no one output")
            seen.add(name)
            look(name, _as_map(network, name, module, output))

        return watch

    def end(module: nn.Module, args: Any, output: Any) -> None:
        if missing := [name for name in layers if name not in seen]:
            raise ValueError(f"layer {missing[0]} has no part in a pass of {type(network).__name__}")
        seen.clear()

    handles = [modules[name].register_forward_hook(hook(name)) for name in dict.fromkeys(layers)]
    handles.append(model.register_forward_hook(end))
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)


def _as_map(network: Any, name: str, module: Any, output: Any) -> Tensor:
    """Return the output of a layer as `[B, d, H, W]`: a vector as of one position, tokens but those of no place."""
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        given = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"layer {name} gives {given}: neither vectors, nor tokens, nor maps")
    if output.ndim == 2:
        return output[:, :, None, None]
    if output.ndim == 4:
        order = getattr(module, "output_fmt", getattr(network, "output_fmt", "NCHW"))
        return output.permute(0, 3, 1, 2) if order == "NHWC" else output
    height, width, first = _grid(network, name, output.shape[1])
    return output[:, first:].transpose(1, 2).unflatten(2, (height, width))


def _grid(network: Any, name: str, tokens: int) -> tuple[int, int, int]:
    """Return rows and columns of tokens, and how many tokens of no place come before."""
    embed, prefix = getattr(network, "patch_embed", None), getattr(network, "num_prefix_tokens", 0)
    for first in (prefix, 0):
        side = math.isqrt(tokens - first)
        height, width = getattr(embed, "grid_size", None) or (side, side)
        if height * width == tokens - first:
            return height, width, first
    raise ValueError(f"layer {name} gives {tokens} tokens, which are no grid")
