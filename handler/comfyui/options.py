"""How ComfyUI is started on this machine: facts in, command-line arguments and their reasons out, no I/O.

docs/gpu.md explains the choices. Flags as of ComfyUI 0.30.0 (comfy/cli_args.py).
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from handler.comfyui.gpu import Gpu
from handler.settings import Settings

# SDXL at 1024x1024 by calculation: 7.1 GB of weights, 1.9 of backups, 8.6 of activations (docs/gpu.md).
FULL_BYTES = 20_000_000_000
# The newest GPUs that xformers 0.0.35 has CUTLASS kernels for (xformers/ops/fmha/cutlass.py).
XFORMERS_CAPABILITY = (9, 0)

# Flags that exclude each other; if COMFYUI_ARGS has one, it decides.
VRAM_FLAGS = {
    *("--gpu-only", "--highvram", "--lowvram", "--novram", "--cpu"),
    *("--disable-dynamic-vram", "--enable-dynamic-vram"),
}
CACHE_FLAGS = {"--cache-classic", "--cache-lru", "--cache-none", "--cache-ram", "--high-ram"}
ATTENTION_FLAGS = {
    *("--use-split-cross-attention", "--use-quad-cross-attention", "--use-pytorch-cross-attention"),
    *("--use-sage-attention", "--use-flash-attention", "--disable-xformers"),
}
GIVEN = "set by COMFYUI_ARGS"

# With two OpenMP threads on two busy cores, a job of the tiny model took 5 to 15 times as long. By default
# glibc returns every large activation to the kernel, and the next one costs a page fault for every four
# kilobytes: the full-size decoder took 1.1 to 1.5 times as long.
CPU_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}

Attention = Literal["xformers", "pytorch"]


@dataclass(frozen=True)
class Machine:
    """What the choices depend on.

    Attributes:
        gpus: as the driver describes them; none if it does not answer.
        cpus: how many CPUs the process may use, at least 1.
        has_xformers: whether ComfyUI's environment has xformers.
    """

    gpus: Sequence[Gpu]
    cpus: int
    has_xformers: bool


@dataclass(frozen=True)
class Options:
    """How to start ComfyUI.

    Attributes:
        arguments: for the command line.
        environment: defaults of environment variables.
        reasons: what was chosen and why, for the log.
        attention: what computes attention on the GPU; None if COMFYUI_ARGS or ComfyUI decides.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    reasons: Mapping[str, str]
    attention: Attention | None


def choose(settings: Settings, machine: Machine, on_cpu: bool, xformers_failure: str = "") -> Options:
    """Returns the options for this machine.

    Args:
        on_cpu: whether ComfyUI is to run without a GPU.
        xformers_failure: why the warm-up failed with xformers; empty if it did not. ATTENTION=auto then
            chooses PyTorch's attention.
    """
    given = {argument.partition("=")[0] for argument in shlex.split(settings.comfyui_args)}
    vram, vram_reason = _vram(settings, machine, on_cpu, given)
    cache, cache_reason = ([], GIVEN) if given & CACHE_FLAGS else (["--cache-classic"], "classic: one graph")
    attention, attention_reason = (
        (None, GIVEN) if given & ATTENTION_FLAGS else _attention(settings, machine, on_cpu, xformers_failure)
    )
    without_xformers = ["--use-pytorch-cross-attention", "--disable-xformers"] if attention == "pytorch" else []
    if on_cpu and attention_reason != GIVEN:
        without_xformers = ["--disable-xformers"]  # ComfyUI would import it, in 0.3 s, and not use it
    environment = CPU_ENVIRONMENT if on_cpu else {"OMP_NUM_THREADS": str(machine.cpus)}
    return Options(
        arguments=(*vram, *cache, *without_xformers),
        environment=environment,
        reasons={
            "vram": vram_reason,
            "cache": cache_reason,
            "attention": attention_reason,
            "threads": environment["OMP_NUM_THREADS"],
        },
        attention=attention,
    )


def _vram(settings: Settings, machine: Machine, on_cpu: bool, given: set[str]) -> tuple[list[str], str]:
    if on_cpu:
        return ["--cpu"] if "--cpu" not in given else [], "none: ComfyUI runs on the CPU"
    if given & VRAM_FLAGS:
        return [], GIVEN
    if settings.vram != "auto":
        return _vram_arguments(settings.vram), f"{settings.vram}: set by VRAM"
    memory_bytes = min((gpu.memory_bytes for gpu in machine.gpus), default=0)
    if not memory_bytes:
        return [], "dynamic: the driver does not say how much memory the GPU has"
    choice: Literal["full", "dynamic"] = "full" if memory_bytes >= FULL_BYTES else "dynamic"
    fact = f"the GPU has {memory_bytes / 1e9:.1f} GB, and full needs {FULL_BYTES / 1e9:.0f}"
    return _vram_arguments(choice), f"{choice}: {fact}"


def _vram_arguments(choice: Literal["full", "dynamic"]) -> list[str]:
    return ["--gpu-only"] if choice == "full" else []


def _attention(
    settings: Settings, machine: Machine, on_cpu: bool, xformers_failure: str
) -> tuple[Attention | None, str]:
    if on_cpu:
        return None, "ComfyUI's own for the CPU"
    if settings.attention != "auto":
        return settings.attention, f"{settings.attention}: set by ATTENTION"
    if not machine.has_xformers:
        return None, "ComfyUI's own: xformers is not installed"
    if xformers_failure:
        return "pytorch", f"pytorch: the warm-up failed with xformers: {xformers_failure}"
    capability = max((gpu.compute_capability for gpu in machine.gpus), default=(0, 0))
    if capability > XFORMERS_CAPABILITY:
        found, newest = (".".join(map(str, version)) for version in (capability, XFORMERS_CAPABILITY))
        return "pytorch", f"pytorch: the GPU's compute capability is {found}, and xformers' kernels end at {newest}"
    return "xformers", "xformers: installed"
