"""What a result depends on beside the configuration: cores, versions, device, commit."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

RECORDED_PACKAGES = ("torch", "torchvision", "timm", "accelerate", "torchmetrics", "numpy", "pillow")


def available_cores() -> int:
    """Return the processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_per_process(num_processes: int) -> int:
    """Return a process's share of this machine's cores, at least 1."""
    # torchrun, and accelerate through it, say how many of the processes are on this machine.
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", num_processes)))


def environment_record(device: torch.device, num_processes: int, threads: int) -> dict:
    """Return what a figure must be quoted with: versions, device, processes, threads, commit, date."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in RECORDED_PACKAGES},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {_processor()}",
        "num_processes": num_processes,
        "threads": threads,
        "command": sys.argv,
    }


def _processor() -> str:
    """Return the processor's name: Linux has it in cpuinfo, others tell `platform`."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of this source tree, marked where it has changes; None where it is no git checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}-dirty" if changed else head
