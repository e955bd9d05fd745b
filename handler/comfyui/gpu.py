"""The NVIDIA GPUs of this machine, as the driver describes them.

The facts come from NVML, the library behind `nvidia-smi`. PyTorch would have to be in this process, and
its CUDA context would take memory that ComfyUI needs.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pynvml

NOT_FOUND = (
    "the NVIDIA driver's library (libnvidia-ml.so.1) was not found: there is no driver, or the container was started "
    "without GPUs (docker run --gpus all; NVIDIA_DRIVER_CAPABILITIES must include utility)"
)


class GpuUnavailable(Exception):
    """The driver does not answer; the message is its reason."""


class LibraryMissing(GpuUnavailable):
    """The driver's library is not there; CUDA may work without it."""


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: for example "NVIDIA GeForce RTX 4090".
        memory_bytes: all of its memory; 0 if the driver does not say (a MIG partition).
        driver: version of the driver, for example "570.124.06".
        cuda: most recent CUDA version that the driver supports, for example (12, 8).
        compute_capability: for example (8, 9).
    """

    name: str
    memory_bytes: int
    driver: str
    cuda: tuple[int, int]
    compute_capability: tuple[int, int]


def gpus() -> list[Gpu]:
    """Returns the GPUs in the driver's order; CUDA_VISIBLE_DEVICES does not hide any.

    Raises:
        GpuUnavailable: there is no NVIDIA driver, or it does not answer.
    """
    with _driver():
        return [_described(handle) for handle in _handles()]


def used_bytes() -> int:
    """Returns the memory in use on all GPUs, by every process.

    Raises:
        GpuUnavailable: there is no NVIDIA driver, or it does not answer.
    """
    with _driver():
        return sum(_memory(handle)[1] for handle in _handles())


@contextlib.contextmanager
def _driver() -> Iterator[None]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound as exc:
        raise LibraryMissing(NOT_FOUND) from exc
    except pynvml.NVMLError as exc:
        raise GpuUnavailable(f"the NVIDIA driver does not answer: {exc}") from exc
    try:
        yield
    except pynvml.NVMLError as exc:
        raise GpuUnavailable(f"the NVIDIA driver does not describe the GPU: {exc}") from exc
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _handles() -> list[pynvml.c_nvmlDevice_t]:
    return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]


def _described(handle: pynvml.c_nvmlDevice_t) -> Gpu:
    cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()  # 12080 for 12.8
    return Gpu(
        name=pynvml.nvmlDeviceGetName(handle),
        memory_bytes=_memory(handle)[0],
        driver=pynvml.nvmlSystemGetDriverVersion(),
        cuda=(cuda // 1000, cuda % 1000 // 10),
        compute_capability=pynvml.nvmlDeviceGetCudaComputeCapability(handle),
    )


def _memory(handle: pynvml.c_nvmlDevice_t) -> tuple[int, int]:
    """Returns the GPU's memory and how much of it is used, in bytes; zeros if the driver does not say."""
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except (pynvml.NVMLError_NoPermission, pynvml.NVMLError_NotSupported):
        return 0, 0
    return memory.total, memory.used
