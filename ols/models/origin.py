"""Where the weights of a network come from: lines noted on it, which checkpoints and exports keep."""

from collections.abc import Iterable

from torch import nn


def note_origin(model: nn.Module, lines: Iterable[str]) -> None:
    """Note on a network where its weights come from; its tensors stay as they are.

    Args:
        model: Whose weights were loaded.
        lines: What was loaded from where, with its SHA-256; then what that had been started from, and so on.
    """
    model.origin = tuple(lines)  # type: ignore[assignment]  # no parameter, and not in the state dict


def origin_of(model: nn.Module) -> tuple[str, ...]:
    """Return what was noted on a network or its trunk, the newest first; nothing where it was trained from scratch."""
    noted = (getattr(module, "origin", None) for module in model.modules())
    return next((lines for lines in noted if isinstance(lines, tuple)), ())
