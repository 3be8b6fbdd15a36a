"""What the processes of a run agree upon while it trains, without waiting for each other or for the device."""

from collections.abc import Callable
from typing import cast

import torch
import torch.distributed as dist


class Agreement:
    """Which flags are up on at least one process: on one process as it stands, on several as it stood one call before.

    The flags travel between the hosts while the devices work, so every process learns the same at the same call.

    Args:
        flags: Returns this process's flags, always equally many.
        num_processes: Processes of the run; each calls `poll` equally often.
    """

    def __init__(self, flags: Callable[[], tuple[bool, ...]], num_processes: int):
        self._flags = flags
        # gloo: between hosts, also where the devices talk by another backend; all processes are members
        self._group = cast(dist.ProcessGroup, dist.new_group(backend="gloo")) if num_processes > 1 else None
        self._asked: tuple[dist.Work, torch.Tensor] | None = None

    def poll(self) -> tuple[bool, ...]:
        """Return the flags agreed upon, and on several processes ask for the next call's."""
        flags = self._flags()
        if self._group is None:
            return flags
        before, self._asked = self._asked, None
        agreed = (False,) * len(flags)
        if before is not None:
            work, counts = before
            work.wait()
            agreed = tuple((counts > 0).tolist())
        counts = torch.tensor(flags, dtype=torch.int32)
        self._asked = dist.all_reduce(counts, group=self._group, async_op=True), counts
        return agreed
