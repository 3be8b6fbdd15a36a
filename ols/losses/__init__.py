"""Losses: drop-in replacements of `nn.CrossEntropyLoss` around online label smoothing, and those of other targets."""

import difflib
import inspect
from typing import Any

from ols.losses.base import LabelLoss
from ols.losses.confidence_penalty import ConfidencePenalty
from ols.losses.focal import FLSD53, FocalLoss
from ols.losses.label_relaxation import LabelRelaxation
from ols.losses.label_smoothing import HardLabels, LabelSmoothing
from ols.losses.label_smoothing_pp import LabelSmoothingPlusPlus
from ols.losses.logit_norm import LogitNorm
from ols.losses.margin_label_smoothing import MarginLabelSmoothing
from ols.losses.max_sup import MaxSup
from ols.losses.multilabel import BinaryCrossEntropy
from ols.losses.online_label_smoothing import OnlineLabelSmoothing
from ols.losses.plain import PlainLoss
from ols.losses.progressive_self_kd import ProgressiveSelfKD
from ols.losses.regression import AbsoluteError, HuberLoss, SquaredError
from ols.losses.segmentation import DiceBCE, DiceWeightedFalseNegatives
from ols.losses.teacher_free import SelfTeacherKD, VirtualTeacherKD
from ols.losses.zipf_label_smoothing import ZipfLabelSmoothing

LOSSES: dict[str, type[LabelLoss]] = {
    "hard": HardLabels,
    "label_smoothing": LabelSmoothing,
    "virtual_teacher_kd": VirtualTeacherKD,
    "self_teacher_kd": SelfTeacherKD,
    "ols": OnlineLabelSmoothing,
    "max_sup": MaxSup,
    "margin_label_smoothing": MarginLabelSmoothing,
    "focal": FocalLoss,
    "flsd53": FLSD53,
    "confidence_penalty": ConfidencePenalty,
    "label_smoothing_pp": LabelSmoothingPlusPlus,
    "progressive_self_kd": ProgressiveSelfKD,
    "zipf_label_smoothing": ZipfLabelSmoothing,
    "label_relaxation": LabelRelaxation,
    "logit_norm": LogitNorm,
}
PLAIN_LOSSES: dict[str, type[PlainLoss]] = {
    "bce": BinaryCrossEntropy,
    "mse": SquaredError,
    "l1": AbsoluteError,
    "huber": HuberLoss,
    "dice_bce": DiceBCE,
    "dice_weighted_fn": DiceWeightedFalseNegatives,
}
Loss = LabelLoss | PlainLoss

__all__ = [
    "FLSD53",
    "LOSSES",
    "PLAIN_LOSSES",
    "AbsoluteError",
    "BinaryCrossEntropy",
    "ConfidencePenalty",
    "DiceBCE",
    "DiceWeightedFalseNegatives",
    "FocalLoss",
    "HardLabels",
    "HuberLoss",
    "LabelLoss",
    "LabelRelaxation",
    "LabelSmoothing",
    "LabelSmoothingPlusPlus",
    "LogitNorm",
    "Loss",
    "MarginLabelSmoothing",
    "MaxSup",
    "OnlineLabelSmoothing",
    "PlainLoss",
    "ProgressiveSelfKD",
    "SelfTeacherKD",
    "SquaredError",
    "VirtualTeacherKD",
    "ZipfLabelSmoothing",
    "build_loss",
    "find_loss",
    "find_preset",
]


def find_loss(name: str) -> type[LabelLoss] | type[PlainLoss]:
    """Return a loss by its name in `LOSSES` or `PLAIN_LOSSES`.

    Raises:
        ValueError: No such loss; the message has the nearest match.
    """
    known = LOSSES | PLAIN_LOSSES
    if name not in known:
        raise ValueError(f"unknown loss {name!r}; {_nearest(name, known)}")
    return known[name]


def find_preset(name: str, preset: str) -> dict[str, Any]:
    """Return the options of a published variant of a loss.

    Args:
        name: A key of `LOSSES` or `PLAIN_LOSSES`.
        preset: A key of the loss's `presets`.

    Raises:
        ValueError: No such loss, or no such preset of it; the message has the nearest match.
    """
    presets = find_loss(name).presets
    if preset not in presets:
        known = _nearest(preset, presets) if presets else "it has none"
        raise ValueError(f"loss {name!r} has no preset {preset!r}; {known}")
    return dict(presets[preset])


def build_loss(name: str, num_classes: int, *, preset: str | None = None, **options: Any) -> Loss:
    """Build a loss by its name in `LOSSES` or `PLAIN_LOSSES`.

    Args:
        name: Of the loss.
        num_classes: K, at least 1; of a loss of other targets the outputs of a model.
        preset: A key of the loss's `presets`, whose options are taken where `options` does not have them.
        options: Keyword arguments of the loss.

    Raises:
        ValueError: No such loss, or no such preset or option of it; the message has the nearest match.
    """
    loss = find_loss(name)
    if preset is not None:
        options = find_preset(name, preset) | options
    known = [option for option in inspect.signature(loss).parameters if option not in ("num_classes", "num_outputs")]
    for option in options:
        if option not in known:
            raise ValueError(f"loss {name!r} has no option {option!r}; {_nearest(option, known)}")
    return loss(num_classes, **options)


def _nearest(word: str, known) -> str:
    matches = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f"did you mean {matches[0]!r}?" if matches else f"it must be one of {', '.join(known)}"
