"""The machine that a run is on: devices, precision, processes, and the seeds of what is random."""

import hashlib
import os
import random

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from ols.config import TrainConfig


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Set up device, precision and processes.

    Raises:
        ValueError: The precision needs another device, or the launcher was told another one.
        RuntimeError: The launcher started several processes, but Accelerate does not see them.
    """
    torch.use_deterministic_algorithms(config.deterministic)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which they need, before the first use of the GPU
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # by `accelerate launch`, or by Accelerate's own file
    if asked not in ("no", config.precision):
        raise ValueError(
            f"the launcher asks for mixed precision {asked}, and train.precision is {config.precision}: set "
            f"--train.precision {asked if asked in ('bf16', 'fp16') else 'bf16'}, or launch with --mixed_precision no"
        )
    # Without `cpu=True`, Accelerate takes CPU ranks for unrelated single processes.
    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    if config.precision == "fp16" and cpu:
        raise ValueError("train.precision fp16 needs a GPU, got cpu; bf16 has the range of float32 and needs none")
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=config.precision if config.precision in ("bf16", "fp16") else "no",
        # Batch statistics are averaged over processes once, before they are used, by the trainer.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != launched:
        raise RuntimeError(f"{launched} processes were launched, but Accelerate sees {accelerator.num_processes}")
    return accelerator


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_step(seed: int, epoch: int, micro_batch: int, rank: int) -> None:
    """Key dropout and the like by where a run is, so that they do not depend on what was drawn before."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{micro_batch}/{rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest))
