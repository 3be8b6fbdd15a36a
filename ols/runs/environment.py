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
        "command": command_line(),
    }


def command_line() -> list[str]:
    """Return what was typed to start this process, with the launcher that it was typed for.

    That is the outermost of its ancestors whose command line has this script as an argument: `torchrun`, `accelerate
    launch`, `uv run`. Where the system does not tell (it does on Linux), it is `python` and the script's own arguments.
    """
    own = ["python", *sys.argv]
    if sys.orig_argv[-len(sys.argv) :] == sys.argv:
        own = sys.orig_argv
    typed, process = own, os.getppid()
    while (command := _command_of(process)) and sys.argv[0] in command[1:]:
        typed, process = command, _parent_of(process)
    typed = [_bare_name(typed[0]), *typed[1:]]
    # A script of an environment's `bin`, which its interpreter runs
    if typed[0].startswith("python") and len(typed) > 1 and Path(typed[1]).parent.name in ("bin", "Scripts"):
        typed = [_bare_name(typed[1]), *typed[2:]]
    return typed


def _bare_name(program: str) -> str:
    return Path(program).name if os.path.isabs(program) else program


def _command_of(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def _parent_of(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


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
