"""Whose evidence is looked for in an image, and whether the model's answer to that was right."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

TRUE, PREDICTED = "true", "predicted"


def explained_classes(explain: str, kind: str, classes: Sequence[str], targets: NDArray) -> NDArray | None:
    """Return the class to look for in each image of a data set, int64 `[N]`; None for the one that is predicted.

    Args:
        explain: `true` for the class that an image has, `predicted`, or the label of a class.
        kind: Of the targets, `class` or `multilabel`.
        classes: Label of each class or label.
        targets: Of each image `[N, ...]`.

    Raises:
        ValueError: There is no such class, or the targets are of another kind.
    """
    if kind not in ("class", "multilabel"):
        raise ValueError(f"targets of kind {kind!r} have no class whose evidence could be looked for")
    if explain in classes:
        return np.full(len(targets), list(classes).index(explain), np.int64)
    if explain == PREDICTED:
        return None
    if explain != TRUE:
        raise ValueError(f"no class is named {explain!r}; there are {', '.join(classes)}, {TRUE} and {PREDICTED}")
    if kind == "multilabel":
        raise ValueError(f"an image has several labels: name one of {', '.join(classes)}")
    return targets.astype(np.int64)


def answered_right(kind: str, logits: Tensor, targets: Tensor, classes: NDArray) -> NDArray:
    """Return whether each image is predicted right: 1, 0, or NaN where its label is unknown; float64 `[N]`.

    Args:
        kind: `class`: the largest logit is that of the target; `multilabel`: the logit of the label that was looked
            for has the sign of its target.
        logits: `[N, K]`.
        targets: `[N]` or `[N, K]`.
        classes: Class that was looked for, int64 `[N]`.
    """
    if kind == "class":
        return (logits.argmax(dim=1) == targets).double().numpy()
    rows = np.arange(len(classes))
    target, said = targets.numpy()[rows, classes], logits.numpy()[rows, classes] > 0
    return np.where(np.isnan(target), np.nan, said == (target > 0.5))
