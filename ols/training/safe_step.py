"""Steps that are not finite are undone on the device: nothing waits for the host to know of them."""

from collections.abc import Iterable

import torch
from torch import Tensor

LARGE = 1 << 20  # elements: joining such a tensor with others would copy more than it saves


class StepGuard:
    """Remembers tensors before a step, and puts them back after a step that was not finite.

    Args:
        tensors: What a step changes before it is known to be finite, such as batch statistics; updated in place.
    """

    def __init__(self, tensors: Iterable[Tensor]):
        groups: dict[object, list[Tensor]] = {}
        for tensor in tensors:
            alone = tensor.numel() >= LARGE and tensor.is_contiguous()
            groups.setdefault(id(tensor) if alone else tensor.dtype, []).append(tensor)
        self._groups = list(groups.values())
        self._before: list[Tensor] = []

    def begin(self) -> None:
        """Remember the tensors as they are before a step."""
        self._before = [torch.cat([tensor.flatten() for tensor in group]) for group in self._groups]

    def settle(self, nonfinite: Tensor) -> None:
        """Put them back where `nonfinite`, a boolean on their device, is true."""
        for group, before in zip(self._groups, self._before, strict=True):
            if len(group) == 1:
                group[0].copy_(torch.where(nonfinite, before.view_as(group[0]), group[0]))
                continue
            now = torch.cat([tensor.flatten() for tensor in group])
            kept = torch.where(nonfinite, before, now).split([tensor.numel() for tensor in group])
            torch._foreach_copy_(group, [part.view_as(tensor) for part, tensor in zip(kept, group, strict=True)])
