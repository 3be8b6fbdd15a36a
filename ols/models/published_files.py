"""Which of the files in a folder of published weights is that of a network: by its name."""

import re
from pathlib import Path

SUFFIXES = (".h5", ".pt", ".pth", ".safetensors", ".tar", ".gz", ".tgz")
# What publishers call a network, where it is not what is left of timm's name without signs.
PUBLISHED_NAMES = {
    "inception_resnet_v2": ("irv2", "inceptionresnetv2"),
    "mobilenetv2_100": ("mobilenetv2",),
    "mobilenetv3_large_100": ("mobilenetv3large",),
    "mobilenetv3_small_100": ("mobilenetv3small",),
    "tf_efficientnet_lite0": ("efficientnetlite0",),
    "tf_efficientnet_lite1": ("efficientnetlite1",),
    "tf_efficientnet_lite2": ("efficientnetlite2",),
}


def find_published(folder: Path, name: str) -> Path:
    """Return the file of a network, so that a study can name one folder for all of its networks.

    Its letters and digits contain the network's published name, in upper or lower case: of `inception_resnet_v2`,
    `RadImageNet-IRV2_notop.h5`. A longer number is another network: `resnet18` is not in `resnet180`.

    Args:
        folder: Holds files of weights.
        name: timm's name of the network.

    Raises:
        FileNotFoundError: No file is named so; the message lists what is there.
        ValueError: Several are.
    """
    weights = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES)
    named = PUBLISHED_NAMES.get(name, (re.sub(r"[^a-z0-9]", "", name.lower()),))
    pattern = "|".join(rf"{'[^a-z0-9]*'.join(own)}(?!\d)" for own in named)
    found = [path for path in weights if re.search(pattern, path.name.lower())]
    if not found:
        there = ", ".join(path.name for path in weights) or "no weights"
        raise FileNotFoundError(
            f"{folder} has no file of weights of {name}: none is named {' or '.join(named)}; {there}"
        )
    if len(found) > 1:
        there = ", ".join(path.name for path in found)
        raise ValueError(f"{folder} has several files of weights of {name}: {there}; name one of them")
    return found[0]
