"""Which samples a process reads at which step, for training and for evaluation."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from ols.keyed import BALANCED_ORDER, CLASS_ORDER, keyed_order

# (epoch, index): workers that persist learn the epoch from the key. A sample that an epoch repeats has epoch + n 2^32
# at its n-th repetition, so that it is augmented differently.
Key = tuple[int, int]
REPETITION = 1 << 32


@dataclass(frozen=True)
class BatchShare:
    """The images of an optimizer step, and which of them this process reads.

    Args:
        global_batch_size: Images per optimizer step over all processes and accumulation steps.
        accumulation_steps: Micro-batches per optimizer step.
        rank: This process.
        world_size: Number of processes.

    Raises:
        ValueError: The global batch does not divide into processes x accumulation steps.
    """

    global_batch_size: int
    accumulation_steps: int = 1
    rank: int = 0
    world_size: int = 1

    def __post_init__(self):
        if self.global_batch_size % (self.world_size * self.accumulation_steps):
            raise ValueError(
                f"global_batch_size {self.global_batch_size} does not divide into {self.world_size} processes x "
                f"{self.accumulation_steps} accumulation steps"
            )

    @property
    def batch_size(self) -> int:
        """Images of a micro-batch of this process."""
        return self.global_batch_size // (self.world_size * self.accumulation_steps)

    def __str__(self) -> str:
        return (
            f"global_batch_size {self.global_batch_size} / ({self.world_size} processes x "
            f"{self.accumulation_steps} accumulation steps) = {self.batch_size}"
        )


class Batches(Sampler[list[Key]]):
    """What a process reads, batch by batch.

    Args:
        pool: Indices of which every process reads its share, int64 `[N]`.
    """

    def __init__(self, pool: np.ndarray):
        self.pool = pool

    @abstractmethod
    def __len__(self) -> int: ...


class TrainBatches(Batches):
    """This process's share of each global batch; the global batch is the same on any number of processes.

    The order of an epoch is a permutation keyed by (seed, epoch), cut into global batches; what does not fill a
    global batch waits for another epoch's order. Micro-batch `m` of process `r` is a slice of the global batch.

    Balanced, an epoch has as many images, and of each class of the pool equally many, up to one: those of a small class
    repeat, each as often as the others up to one, and of a large class another part is drawn in every epoch.

    Args:
        pool: Indices to train on, int64 `[N]`.
        share: Images of an optimizer step, and which of them this process reads.
        seed: Seed of the order; `None` keeps the pool's own order in every epoch.
        balanced: Class of each index of the pool, int64 `[N]`, to draw all classes equally often.

    Raises:
        ValueError: The pool does not fill one global batch, or is to be balanced without a seed.
    """

    def __init__(
        self, pool: np.ndarray, share: BatchShare, *, seed: int | None = 0, balanced: np.ndarray | None = None
    ):
        super().__init__(pool)
        if len(pool) < share.global_batch_size:
            raise ValueError(f"{len(pool)} training images do not fill one global batch of {share.global_batch_size}")
        if seed is None and balanced is not None:
            raise ValueError("a balanced order is drawn: it needs a seed")
        self.share, self.seed, self.balanced = share, seed, balanced
        self.global_batch_size, self.accumulation_steps = share.global_batch_size, share.accumulation_steps
        self.steps = len(pool) // share.global_batch_size
        self.epoch = 0
        self.start_step = 0  # global batches of the epoch that are left out: a run continues after them

    def __len__(self) -> int:
        return self.steps * self.accumulation_steps

    def __iter__(self) -> Iterator[list[Key]]:
        keys = self._keys()[: self.steps * self.global_batch_size]
        # [steps, accumulation_steps, world_size, batch_size, 2]
        keys = keys.reshape(-1, self.share.world_size, self.share.batch_size, 2)
        for batch in keys[self.start_step * self.accumulation_steps :, self.share.rank]:
            yield [(epoch, index) for epoch, index in batch.tolist()]

    def _keys(self) -> np.ndarray:
        """Return the keys of an epoch in their order, int64 `[N, 2]`."""
        order = np.arange(len(self.pool))
        repetitions = np.zeros_like(order)
        if self.seed is not None and self.balanced is not None:
            order, repetitions = balanced_order(self.seed, self.epoch, self.balanced)
        elif self.seed is not None:
            order = keyed_order(self.seed, self.epoch, len(order))
        return np.stack(np.broadcast_arrays(self.epoch + repetitions * REPETITION, self.pool[order]), axis=1)


def balanced_order(seed: int, epoch: int, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw an epoch that has equally many samples of every class, keyed by (seed, epoch).

    Args:
        seed: Seed of the run.
        epoch: Which epoch.
        targets: Class of each sample, int64 `[N]`.

    Returns:
        Positions of the samples drawn, and how often each was drawn before in this epoch, int64 `[N]` each.
    """
    _, targets, counts = np.unique(targets, return_inverse=True, return_counts=True)
    size, num_classes = len(targets), len(counts)
    # Which classes come once more than the others, where they do not divide the epoch, changes with the epoch.
    quotas = size // num_classes + (keyed_order(seed, epoch, num_classes, CLASS_ORDER) < size % num_classes)
    shuffled = keyed_order(seed, epoch, size)
    members = shuffled[np.argsort(targets[shuffled], kind="stable")]  # by class, in random order within it
    classes = np.repeat(np.arange(num_classes), quotas)
    turn = np.arange(size) - (np.cumsum(quotas) - quotas)[classes]  # 0, 1, ... within each class
    repetitions, nth = np.divmod(turn, counts[classes])
    drawn = members[(np.cumsum(counts) - counts)[classes] + nth]
    order = keyed_order(seed, epoch, size, BALANCED_ORDER)
    return drawn[order], repetitions[order]


class EvalBatches(Batches):
    """Every index of the pool exactly once over all processes: no padding, no repetition, shares may differ by one.

    Args:
        pool: Indices to evaluate, int64 `[N]`.
        batch_size: Images per batch of this process.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, pool: np.ndarray, *, batch_size: int, rank: int = 0, world_size: int = 1):
        super().__init__(pool)
        self.batch_size = batch_size
        self.share = pool[rank::world_size]
        self.most = -(-len(pool[::world_size]) // batch_size)  # batches of the process that has most

    def __len__(self) -> int:
        return -(-len(self.share) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self.share), self.batch_size):
            yield [(0, index) for index in self.share[start : start + self.batch_size].tolist()]
