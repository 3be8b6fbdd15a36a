"""Test images made worse: the corruptions of Hendrycks and Dietterich (2019), by the package imagecorruptions-imaug.

Images are corrupted once they have the size to which the preprocessing resizes them, before the crop. What is random is
seeded by the name of the image, the corruption and the severity. Of a gray image the package's first channel is taken,
so that noise is as strong as in one channel of a colour image.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from ols.data.confounding import sample_key
from ols.data.sources.protocol import ImageSource, target_kind
from ols.data.transforms import Preprocessing, fit, to_array, to_image

# Noise, blur and what devices and files do; weather and colours say nothing of radiographs, and can be named.
CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
SEVERITIES = (1, 2, 3, 4, 5)
SEEDED = ("impulse_noise", "glass_blur")  # which take a seed of their own
SMALLEST = 32  # pixels


class Corrupted:
    """A data set of which every image is corrupted: a view, no image is copied.

    Args:
        source: Data set.
        corruption: A name of the package, see `CORRUPTIONS`.
        severity: 1 to 5.
        preprocessing: Size and aspect to which images are brought first.

    Raises:
        ModuleNotFoundError: The package is not installed.
        ValueError: There is no such corruption or severity, or images are smaller than 32 pixels.
    """

    def __init__(self, source: ImageSource, corruption: str, severity: int, *, preprocessing: Preprocessing):
        self._corrupt, known = _package()
        if corruption not in known:
            raise ValueError(f"no corruption is named {corruption!r}; there are {', '.join(known)}")
        if severity not in SEVERITIES:
            raise ValueError(f"severity must be one of 1 to 5, got {severity}")
        if preprocessing.resize_size < SMALLEST:
            raise ValueError(f"corruptions need images of at least {SMALLEST} px, got {preprocessing.resize_size}")
        self.source, self.corruption, self.severity = source, corruption, severity
        self.size, self.aspect = preprocessing.resize_size, preprocessing.aspect
        self.classes, self.groups, self.targets = source.classes, source.groups, source.targets
        self.kind, self.side = target_kind(source), getattr(source, "side", None)

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Image.Image:
        """Return an image of the preprocessing's size, corrupted.

        Raises:
            ValueError: It cannot be read.
        """
        image = to_array(fit(self.source.read(index), self.size, self.aspect))
        seed = sample_key(f"{self.corruption} {self.severity} {self.sample_id(index)}") % 2**32
        seeded = {"seed": seed} if self.corruption in SEEDED else {}
        state = np.random.get_state()  # the package draws from numpy's global generator
        np.random.seed(seed)
        try:
            found = self._corrupt(
                np.ascontiguousarray(np.moveaxis(image, 0, -1)), self.severity, self.corruption, **seeded
            )
        finally:
            np.random.set_state(state)
        return to_image(np.ascontiguousarray(np.moveaxis(found[..., : len(image)], -1, 0)))

    def sample_id(self, index: int) -> str:
        """Return the name of a sample in the data set."""
        return self.source.sample_id(index)

    def sample_group(self, index: int) -> str:
        """Return what a sample belongs to in the data set."""
        return self.source.sample_group(index)

    def content(self) -> str:
        """Return the content of the data set, and the corruption."""
        return f"{self.source.content()}, {self.corruption} {self.severity} at {self.size} px"


def _package() -> tuple[Callable[..., np.ndarray], list[str]]:
    try:
        from imagecorruptions import corrupt, get_corruption_names
    except ModuleNotFoundError as error:
        if error.name != "imagecorruptions":
            raise
        raise ModuleNotFoundError(
            "corruptions need imagecorruptions-imaug: pip install 'online-label-smoothing[corruptions]'"
        ) from error
    return corrupt, get_corruption_names("all")
