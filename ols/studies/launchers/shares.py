"""What each of several jobs on one machine may use of it: its own cores and its own GPUs."""

import os
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Share(NamedTuple):
    """A part of the machine.

    Args:
        cores: Numbers of processor cores; None for all.
        gpus: GPUs as `CUDA_VISIBLE_DEVICES` names them; None for all.
    """

    cores: list[int] | None = None
    gpus: list[str] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a job's environment has beside that of its starter."""
        return {} if self.gpus is None else {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}

    def confine(self, process: int) -> None:
        """Let a process that has just begun run on these cores alone, and with it all that it starts."""
        if self.cores is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process, self.cores)


def divide_machine(parallel: int) -> list[Share]:
    """Divide what this process may use into so many parts; where they are more than cores or GPUs, some share one."""
    if parallel == 1:
        return [Share()]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    gpus = visible_gpus()
    return [Share(_part(cores, k, parallel) or None, _part(gpus, k, parallel) or None) for k in range(parallel)]


def visible_gpus() -> list[str]:
    """Return the GPUs that this process sees, as `CUDA_VISIBLE_DEVICES` names them."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch  # takes seconds

    return [str(number) for number in range(torch.cuda.device_count())]


def _part(values: Sequence[T], number: int, parts: int) -> list[T]:
    if len(values) < parts:
        return [values[number % len(values)]] if values else []
    return list(values[number * len(values) // parts : (number + 1) * len(values) // parts])
