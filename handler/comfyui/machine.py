"""What ComfyUI's options depend on: GPUs, CPUs and installed packages of this machine."""

import os
import sys
from pathlib import Path

from handler.comfyui import gpu
from handler.comfyui.options import Machine
from handler.settings import Settings

CGROUPS = Path("/sys/fs/cgroup")


def look(settings: Settings) -> Machine:
    """Returns the facts about this machine."""
    try:
        found = gpu.gpus()
    except gpu.GpuUnavailable:  # the fitness checks report it
        found = []
    packages = settings.comfyui_dir / "venv" / "lib"
    return Machine(found, usable_cpus(), any(packages.glob("python3*/site-packages/xformers")))


def has_gpu() -> bool:
    """Returns whether there is a GPU that PyTorch can use: an NVIDIA device, WSL's, or Apple's own."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists() or sys.platform == "darwin"


def on_cpu(settings: Settings) -> bool:
    """Returns whether ComfyUI runs without a GPU."""
    return settings.device == "cpu" or (settings.device == "auto" and not has_gpu())


def usable_cpus(cgroups: Path = CGROUPS) -> int:
    """Returns how many CPUs this process may use: its affinity, limited by the container's quota; at least 1.

    PyTorch heeds the affinity but not the quota: with 2 of 64 CPUs it starts 64 threads.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return cpus if quota is None else max(1, min(cpus, int(quota)))


def memory_bytes(cgroups: Path = CGROUPS) -> int:
    """Returns this machine's memory, or the container's limit if that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    words = _words(cgroups / "memory.max") or _words(cgroups / "memory" / "memory.limit_in_bytes")  # or "max"
    return min([physical, *(int(word) for word in words if word.isdecimal())])


def _quota(cgroups: Path) -> float | None:
    """Returns the container's CPU limit in CPUs, or None if there is none.

    Linux: Documentation/admin-guide/cgroup-v2.rst (cpu.max), Documentation/scheduler/sched-bwc.rst (version 1).
    """
    limit = _words(cgroups / "cpu.max")  # "150000 100000" or "max 100000"
    if not limit:
        limit = _words(cgroups / "cpu" / "cpu.cfs_quota_us") + _words(cgroups / "cpu" / "cpu.cfs_period_us")
    match limit:
        case [quota_us, period_us] if quota_us.isdecimal() and int(quota_us) and int(period_us):  # not "max" or -1
            return int(quota_us) / int(period_us)
    return None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text("ascii").split()
    except OSError:
        return []
