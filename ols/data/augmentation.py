"""RandAugment and random erasing, which are timm's, and the augmentation of Mei et al. 2022, with randomness by key."""

import numpy as np
import torch
from PIL import Image

from ols.data.affine import draw_maps, move
from ols.data.options import AugmentationOptions
from ols.data.transforms import to_array, to_image
from ols.keyed import AUGMENT, kept_generators, keyed_bits, seed_generators

# timm's notation: magnitude m of 10, n operations an image, each with probability p.
POLICIES = {"radiology": "rand-m3-n2-p0.5-mstd0.5-inc1", "randaugment": "rand-m9-n2-p0.5-mstd0.5-inc1"}
# What turns dark into bright, or depends on the rest of the image, would make an intensity mean something else.
RADIOLOGY = (
    "Rotate",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
    "ContrastIncreasing",
    "BrightnessIncreasing",
    "SharpnessIncreasing",
)
TIMM_OPTIONS = {
    "img_mean": 0,  # what moves in from outside is black, in images of any mode
    "interpolation": Image.Resampling.BILINEAR,  # as images are resized; timm's default draws bicubic for half
    "translate_pct": 0.2,  # at magnitude 10
    "magnitude_max": 9.9,  # at 10, `PosterizeIncreasing` would keep 0 bits, which Pillow refuses
}


# What moves pixels, which moves those of a mask as well; all else leaves a mask as it is.
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "TranslateXRel", "TranslateYRel")


class Augmentation:
    """Operations on bytes, drawn from (seed, epoch, index); none of them mirrors.

    `radiology` applies up to two of: rotation by about 9 degrees, shear by 0.09, shift by 6 % of the side, contrast,
    brightness or sharpness changed by about 27 %. `randaugment` is RandAugment (Cubuk et al., 2020) as for
    photographs: all of timm's operations at magnitude 9, inversion, solarisation and posterisation among them.
    `mei2022` turns by up to 10 degrees, shifts by up to 10 % of the side, shears by up to 0.1 degrees and zooms either
    direction by up to 10 %, all of every image, and repeats the border outside, as Keras does what Mei et al. 2022 ask.
    Random erasing (Zhong et al., AAAI 2020) blackens a rectangle of 2 to 33 % of an image.

    A mask is moved as its image is; what is erased of an image stays in its mask.

    Args:
        options: Which operations, and how many rectangles.
        seed: Seed of the run.
    """

    def __init__(self, options: AugmentationOptions, *, seed: int = 0):
        from timm.data.auto_augment import rand_augment_transform  # which takes seconds, and most runs need none
        from timm.data.random_erasing import RandomErasing

        augment, erase_prob = options.augment, options.erase_prob
        operations = list(RADIOLOGY) if augment == "radiology" else None  # None: all that timm has
        self.seed = seed
        self._augment = self._move = None
        self._affine = augment == "mei2022"
        if augment in POLICIES:
            self._augment = rand_augment_transform(POLICIES[augment], dict(TIMM_OPTIONS), operations)
            nearest = TIMM_OPTIONS | {"interpolation": Image.Resampling.NEAREST}
            self._move = rand_augment_transform(POLICIES[augment], nearest, operations)
            for operation in self._move.ops:
                if operation.name not in GEOMETRIC:
                    operation.aug_fn = _unchanged  # its draws are made all the same
        self._erase = RandomErasing(erase_prob, device="cpu") if erase_prob else None

    def __call__(
        self, images: np.ndarray, epochs: np.ndarray, indices: np.ndarray, masks: np.ndarray | None = None
    ) -> np.ndarray:
        """Augment a batch, and move masks as their images are moved.

        Args:
            images: uint8 `[B, C, H, W]` with 1 or 3 channels, overwritten.
            epochs: Epoch of each sample, int64 `[B]`.
            indices: Index of each sample, int64 `[B]`.
            masks: uint8 `[B, 1, H, W]`, overwritten; what moves in from outside is 0, of `mei2022` the border.

        Returns:
            uint8 `[B, C, H, W]`.
        """
        if self._affine:
            for number, where_from in enumerate(draw_maps(self.seed, epochs, indices)):
                images[number] = move(images[number], where_from)
                if masks is not None:
                    masks[number] = move(masks[number], where_from, nearest=True)
        with kept_generators():
            every = keyed_bits(self.seed, epochs, indices, AUGMENT).tolist()
            if masks is not None and self._move is not None:
                for mask, bits in zip(masks, every, strict=True):
                    seed_generators(bits)
                    mask[...] = to_array(self._move(to_image(mask)))
            for image, bits in zip(images, every, strict=True):
                seed_generators(bits)
                if self._augment is not None:
                    image[...] = to_array(self._augment(to_image(image)))
                if self._erase is not None:
                    self._erase(torch.from_numpy(image))
        return images


def _unchanged(image: Image.Image, *_: object, **__: object) -> Image.Image:
    return image
