"""Whether this machine can draw: a GPU for SDXL, readable weights, a disk with room. Costs milliseconds.

Whether CUDA works is shown by ComfyUI's start, and whether everything together does by the warm-up.
"""

import errno
import os
import sys
import tempfile
from pathlib import Path

from handler.comfyui.gpu import GpuUnavailable, LibraryMissing, gpus
from handler.comfyui.launch import NO_SCRATCH
from handler.comfyui.machine import has_gpu
from handler.errors import ModelMissing, NoGpu, StorageUnavailable
from handler.job.profiles import FALLBACK_PROFILE
from handler.settings import Settings
from handler.weights import header, locate
from handler.workflow.workflow import Workflow

OLDEST_CUDA = (12, 0)  # CUDA 12.8, which PyTorch brings, runs on every driver for CUDA 12
SCRATCH_BYTES = 16 << 20
CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")


def check_gpu(settings: Settings, workflow: Workflow) -> None:
    """Raises NoGpu with the reason if the workflow needs a GPU and has none.

    DEVICE=cpu asks for the CPU. With DEVICE=auto, only the tiny profile runs on it.
    """
    on_cpu_by_choice = settings.device == "cpu"
    cpu_will_do = settings.device == "auto" and workflow.profile == FALLBACK_PROFILE and not has_gpu()
    if on_cpu_by_choice or cpu_will_do:
        return
    if reason := _without_gpu():
        raise NoGpu(f"the profile {workflow.profile} needs a GPU: {reason}; to use the CPU, set DEVICE=cpu")


def check_weights(settings: Settings, workflow: Workflow) -> None:
    """Raises ModelMissing if a weight file is not found, cannot be read, or was cut short."""
    if missing := locate.missing(workflow.models, settings):
        names = " and ".join(map(str, missing))
        raise ModelMissing(f"{names} missing or unreadable in MODELS_DIR, WEIGHTS_DIRS and HF_CACHE_DIR")
    for file in workflow.models:
        found = locate.find(file, settings)
        try:
            header.read(found.path if found else settings.models_dir / file.folder / file.name)
        except header.BadHeader as exc:
            raise ModelMissing(f"{file} {exc}") from exc


def check_disk() -> None:
    """Raises StorageUnavailable if ComfyUI's temporary files have no room."""
    try:
        with tempfile.TemporaryFile() as scratch:
            os.posix_fallocate(scratch.fileno(), 0, SCRATCH_BYTES)
    except FileNotFoundError as exc:  # raised by tempfile
        raise StorageUnavailable(NO_SCRATCH) from exc
    except OSError as exc:
        reason = os.strerror(exc.errno or errno.EIO)
        raise StorageUnavailable(f"the folder for temporary files cannot be used: {reason}") from exc


def _without_gpu() -> str:
    """Returns why CUDA cannot work here; empty if nothing speaks against it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if sys.platform == "darwin":
        return ""
    if visible in {"", "-1"}:
        return f"CUDA_VISIBLE_DEVICES is {visible!r}, which hides every GPU"
    try:
        found = gpus()
    except GpuUnavailable as exc:
        # NVML is missing in a container without the driver capability `utility`, in which CUDA works.
        return "" if isinstance(exc, LibraryMissing) and has_gpu() else f"{exc}{_given()}"
    if not found:
        return f"the NVIDIA driver reports no GPU{_given()}"
    supported, needed = (".".join(map(str, version)) for version in (found[0].cuda, OLDEST_CUDA))
    too_old = f"the NVIDIA driver {found[0].driver} supports CUDA {supported}, PyTorch needs {needed} or newer"
    return too_old if found[0].cuda < OLDEST_CUDA else ""


def _given() -> str:
    """Returns a remark if this is a container to which no GPU was given."""
    if not any(Path(mark).exists() for mark in CONTAINER_MARKS):
        return ""
    match os.environ.get("NVIDIA_VISIBLE_DEVICES"):
        case None:
            return "; NVIDIA_VISIBLE_DEVICES is not set in this container"
        case ("" | "void" | "none") as given:
            return f"; NVIDIA_VISIBLE_DEVICES is {given!r} in this container"
    return ""
