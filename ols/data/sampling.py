"""Which samples a process reads at which step, for training and for evaluation."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from ols.data.keyed import keyed_order

Key = tuple[int, int]  # (epoch, index): workers that persist learn the epoch from the key


class TrainBatches(Sampler[list[Key]]):
    """This process's share of each global batch; the global batch is the same on any number of processes.

    The order of an epoch is a permutation keyed by (seed, epoch), cut into global batches; what does not fill a
    global batch waits for another epoch's order. Micro-batch `m` of process `r` is a slice of the global batch.

    Args:
        pool: Indices to train on, int64 `[N]`.
        global_batch_size: Images per optimizer step over all processes and accumulation steps.
        accumulation_steps: Micro-batches per optimizer step.
        rank: This process.
        world_size: Number of processes.
        seed: Seed of the order; `None` keeps the pool's own order in every epoch.

    Raises:
        ValueError: If the global batch does not divide into processes x accumulation steps, or the pool does not
            fill one global batch.
    """

    def __init__(
        self,
        pool: np.ndarray,
        *,
        global_batch_size: int,
        accumulation_steps: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int | None = 0,
    ):
        parts = world_size * accumulation_steps
        if global_batch_size % parts:
            raise ValueError(
                f"global_batch_size {global_batch_size} does not divide into {world_size} processes x "
                f"{accumulation_steps} accumulation steps"
            )
        if len(pool) < global_batch_size:
            raise ValueError(f"{len(pool)} training images do not fill one global batch of {global_batch_size}")
        self.pool, self.seed, self.rank, self.world_size = pool, seed, rank, world_size
        self.global_batch_size, self.accumulation_steps = global_batch_size, accumulation_steps
        self.batch_size = global_batch_size // parts
        self.steps = len(pool) // global_batch_size
        self.epoch = 0
        self.start_step = 0  # global batches of the epoch that are left out: a run continues after them

    def __len__(self) -> int:
        return self.steps * self.accumulation_steps

    def __iter__(self) -> Iterator[list[Key]]:
        order = self.pool
        if self.seed is not None:
            order = order[keyed_order(self.seed, self.epoch, len(order))]
        # [steps, accumulation_steps, world_size, batch_size]
        order = order[: self.steps * self.global_batch_size].reshape(-1, self.world_size, self.batch_size)
        for batch in order[self.start_step * self.accumulation_steps :, self.rank]:
            yield [(self.epoch, index) for index in batch.tolist()]


class EvalBatches(Sampler[list[Key]]):
    """Every index of the pool exactly once over all processes: no padding, no repetition, shares may differ by one.

    Args:
        pool: Indices to evaluate, int64 `[N]`.
        batch_size: Images per batch of this process.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, pool: np.ndarray, *, batch_size: int, rank: int = 0, world_size: int = 1):
        self.pool, self.batch_size = pool, batch_size
        self.share = pool[rank::world_size]
        self.most = -(-len(pool[::world_size]) // batch_size)  # batches of the process that has most

    def __len__(self) -> int:
        return -(-len(self.share) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self.share), self.batch_size):
            yield [(0, index) for index in self.share[start : start + self.batch_size].tolist()]
