"""What metrics take: class indices of any integer type, and numbers of Python or NumPy."""

import math
import numbers
from typing import Any

import torch
from torch import Tensor

CLASS_INDEX_TYPES = frozenset(
    {
        torch.bool,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
    }
)


def class_indices(target: Tensor, name: str = "target") -> Tensor:
    """Return class indices of any integer type, or boolean, as int64: the only type that all indexing takes as such.

    The only place where labels are converted. torch takes uint8 for a mask where it indexes, and refuses the other
    types in some operations and not in others.

    Raises:
        ValueError: They are no integers; the message has the name.
    """
    if target.dtype not in CLASS_INDEX_TYPES:
        raise ValueError(f"{name} must hold class indices, got {target.dtype}")
    return target if target.dtype == torch.int64 else target.long()


def usable_rows(logits: Tensor) -> Tensor:
    """Return which rows softmax makes a distribution of, bool `[N]`.

    A logit of -inf is a masked class, of probability 0. NaN, +inf and a row of masked classes alone give none.

    Args:
        logits: `[N, K]`.
    """
    return ~(logits.isnan() | (logits == torch.inf)).any(dim=1) & logits.isfinite().any(dim=1)


def whole_number(name: str, value: Any) -> int:
    """Return a whole number of Python, NumPy or a tensor as Python's.

    Raises:
        ValueError: It is none; the message has the name.
    """
    number = _python_number(value)
    if not isinstance(number, numbers.Integral) or isinstance(number, bool):
        raise ValueError(f"{name} must be a whole number, got {number!r}")
    return int(number)


def real_number(name: str, value: Any) -> float:
    """Return a number of Python, NumPy or a tensor as Python's.

    Raises:
        ValueError: It is none, or NaN; the message has the name.
    """
    number = _python_number(value)
    if not isinstance(number, numbers.Real) or isinstance(number, bool) or math.isnan(number):
        raise ValueError(f"{name} must be a number, got {number!r}")
    return float(number)


def yes_or_no(name: str, value: Any) -> bool:
    """Return a boolean of Python, NumPy or a tensor as Python's.

    Raises:
        ValueError: It is none; the message has the name.
    """
    flag = _python_number(value)
    if not isinstance(flag, bool):
        raise ValueError(f"{name} must be true or false, got {flag!r}")
    return flag


def _python_number(value: Any) -> Any:
    """Return NumPy's number, or an array or tensor without dimensions, as Python's; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value
