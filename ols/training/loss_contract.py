"""What the trainer asks of a loss."""

from torch import nn

from ols.losses import Loss


def check_loss(loss: Loss, teacher: nn.Module | None) -> None:
    """Make sure that a loss suits the trainer.

    Raises:
        ValueError: It reduces otherwise than by the sum, lacks the teacher it needs, or has one that it does not need.
    """
    name = type(loss).__name__
    if loss.reduction != "sum":
        raise ValueError(f"the trainer needs a loss with reduction='sum', got {loss.reduction!r}")
    if loss.needs_teacher and teacher is None:
        raise ValueError(f"{name} needs a teacher: name the export of a trained model as `teacher`")
    if teacher is not None and not loss.needs_teacher:
        raise ValueError(f"{name} needs no teacher: leave out `teacher`, or choose a loss that learns from one")
