"""From an 8-bit image of any size to the bytes that a model sees; the randomness of a sample is keyed, not streamed."""

from dataclasses import dataclass, fields

import numpy as np
from PIL import Image

from ols.data.options import Aspect, SizeOptions, channel_scaling, check_sizes
from ols.keyed import CROP_X, CROP_Y, FLIP, keyed_uniform

BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST


def fit(image: Image.Image, size: int, aspect: Aspect, *, resample: Image.Resampling = BILINEAR) -> Image.Image:
    """Resize an image, unless it has its size already.

    Args:
        image: Of mode L or RGB.
        size: In pixels.
        aspect: `shorter` brings the shorter side to `size` and keeps the ratio of the sides; `longest` brings the
            longer side to `size`, keeps the ratio, and pads with black on both sides to a square; `squash` brings
            both sides to `size`.
        resample: Bilinear for images; nearest for masks, whose values are names of classes.
    """
    if aspect == "squash":
        width = height = size
    elif aspect == "shorter":
        scale = size / min(image.size)
        width, height = max(size, round(image.width * scale)), max(size, round(image.height * scale))
    else:
        scale = size / max(image.size)
        width, height = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if (width, height) != image.size:
        image = image.resize((width, height), resample)
    if aspect == "longest" and width != height:
        square = Image.new(image.mode, (size, size))
        square.paste(image, ((size - width) // 2, (size - height) // 2))
        return square
    return image


def to_array(image: Image.Image) -> np.ndarray:
    """Return the pixels of an image of mode L or RGB, uint8 `[C, H, W]`."""
    pixels = np.asarray(image)  # [H, W] or [H, W, 3]
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def to_image(pixels: np.ndarray) -> Image.Image:
    """Return pixels, uint8 `[C, H, W]`, as an image of mode L or RGB."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every image, in training and in use: it travels inside checkpoints and exports.

    The default maps bytes to [-1, 1], as the RadImageNet authors' PyTorch example does.

    Args:
        image_size: Side of the square that the model sees, in pixels.
        resize_size: Images are resized to this (see `aspect`) before a square of `image_size` is cut out: at random
            in training, from the centre in evaluation. In pixels, >= image_size.
        in_chans: 1 for grayscale, 3 for RGB.
        mean: Of each channel, subtracted from intensities in [0, 1]; a single number is that of all channels.
        std: Standard deviation of each channel, which divides them then; a single number is that of all channels.
        aspect: `resize_size` is that of the `shorter` side, of the `longest` with black beside the image, or of both
            (`squash`): see `fit`.
    """

    image_size: int = 224
    resize_size: int = 256
    in_chans: int = 1
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    aspect: Aspect = "shorter"

    @classmethod
    def from_options(cls, options: SizeOptions) -> "Preprocessing":
        """Return the preprocessing that options ask for, with what they leave open filled in."""
        options = options.with_resize_size().with_normalization(cls.mean, cls.std)
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    def __post_init__(self):
        check_sizes(self.image_size, self.resize_size, self.in_chans)
        mean, std = channel_scaling(self.mean, self.std, self.in_chans)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)


@dataclass(frozen=True)
class EvalTransform:
    """Resize, then the central square."""

    preprocessing: Preprocessing

    def draw(self, epochs: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return the draws of each sample, float64 `[B, 3]`: here the centre, never flipped."""
        return np.tile([0.5, 0.5, 1.0], (len(indices), 1))

    def corners(self, draws: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Return where the crops of resized images begin, from the top and from the left.

        Args:
            draws: float64 `[B, 3]`.
            sizes: Height and width of the resized images, int64 `[B, 2]`.

        Returns:
            int64 `[B, 2]`.
        """
        return (draws[:, :2] * (sizes - self.preprocessing.image_size + 1)).astype(np.int64)

    def __call__(self, image: Image.Image, draw: np.ndarray, *, resample: Image.Resampling = BILINEAR) -> np.ndarray:
        """Apply a sample's draws (crop position down and across in [0, 1), flip if below 0.5).

        The mask of an image goes through the same draws, with nearest resampling.

        Returns:
            uint8 `[in_chans, image_size, image_size]`.
        """
        crop = self.preprocessing.image_size
        image = fit(image, self.preprocessing.resize_size, self.preprocessing.aspect, resample=resample)
        ((top, left),) = self.corners(draw[None], np.array([[image.height, image.width]])).tolist()
        image = image.crop((left, top, left + crop, top + crop))
        if draw[2] < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return to_array(image)


@dataclass(frozen=True)
class TrainTransform(EvalTransform):
    """Resize, random crop and horizontal flip, each drawn from (seed, epoch, index).

    Args:
        preprocessing: Sizes and channels.
        seed: Seed of the run.
        horizontal_flip: Whether half of the samples are mirrored; turn it off where laterality matters.
    """

    seed: int = 0
    horizontal_flip: bool = True

    def draw(self, epochs: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return the draws of each sample for its epoch, float64 `[B, 3]`."""
        down, across, flip = (keyed_uniform(self.seed, epochs, indices, stream) for stream in (CROP_Y, CROP_X, FLIP))
        return np.stack([down, across, flip if self.horizontal_flip else np.ones_like(flip)], axis=1)
