"""The machine part of `verify`: the GPU and its memory, and what ComfyUI says about devices at its start."""

import contextlib
import logging
import os
import platform
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from handler.comfyui import gpu, machine
from handler.settings import Settings

SAMPLE_S = 0.1
TAIL_LINES = 60

# What ComfyUI 0.30.0 logs about devices, number formats, attention and memory.
FACTS = re.compile(
    r"Total VRAM|pytorch version|xformers version|Set vram state|Device:|Using async|Enabled pinned|Using \w+ attention"
    r"|Using sub quadratic|DynamicVRAM|VAE load device|CLIP/text encoder model load|model weight dtype"
    r"|loaded completely|loaded partially|prepared for dynamic|Python version|ComfyUI version|Enabled fp16"
    r"|Ran out of memory|No working comfy-aimdo"
)
# Lines that end a stage of ComfyUI's start: PyTorch is imported and CUDA is up; everything is imported.
STAGE_ENDS = {"PyTorch, CUDA": "Total VRAM", "ComfyUI, node packs": "Starting server"}

# What the node pack logs once it has measured whether a patch is in force (custom_nodes/layerdiffuse_alpha/proof.py).
PROVED = re.compile(r"(\S+) is applied to (\d+) keys: ([\d.%, ]+) of its effect")


def describe(settings: Settings) -> dict[str, Any]:
    """Returns the facts about this machine, without its name."""
    found = machine.look(settings)
    return {
        "gpus": [
            {
                "name": card.name,
                "memory_bytes": card.memory_bytes,
                "driver": card.driver,
                "cuda": ".".join(map(str, card.cuda)),
                "compute_capability": ".".join(map(str, card.compute_capability)),
            }
            for card in found.gpus
        ],
        "cpus": found.cpus,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "xformers": found.has_xformers,
    }


@dataclass(frozen=True)
class Memory:
    """GPU memory in use by all processes, in bytes: before ComfyUI started, and the peak."""

    before_bytes: int
    peak_bytes: int


class MemorySampler:
    """Samples the GPU memory in use, in a thread, while the block runs."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._before_bytes = 0
        self._peak_bytes = 0

    def __enter__(self) -> Self:
        with contextlib.suppress(gpu.GpuUnavailable):
            self._before_bytes = self._peak_bytes = gpu.used_bytes()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def memory(self) -> Memory | None:
        """Returns what was seen, or None if the driver does not say."""
        return Memory(self._before_bytes, self._peak_bytes) if self._peak_bytes else None

    def _sample(self) -> None:
        while not self._end.wait(SAMPLE_S):
            with contextlib.suppress(gpu.GpuUnavailable):
                self._peak_bytes = max(self._peak_bytes, gpu.used_bytes())


@dataclass(frozen=True)
class Proof:
    """What the node pack measured while it sampled.

    Attributes:
        patch: the file.
        keys: number of weights that it changes.
        shares: how much of the patch's effect each measured module shows; 1 is all of it.
    """

    patch: str
    keys: int
    shares: list[float]


class ComfyLog(logging.Handler):
    """Keeps what ComfyUI logs about its devices and the patch, and its last lines.

    Attributes:
        facts: lines about devices, number formats and memory.
        proof: whether the patch is in force; None if the node pack did not say.
        tail: the last lines.
    """

    def __init__(self) -> None:
        super().__init__()
        self.proof: Proof | None = None
        self._ended_s: dict[str, float] = {}
        self.facts: list[str] = []
        self.tail: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Receives one line."""
        line = record.getMessage().removeprefix("[INFO] ")
        self.tail = [*self.tail[1 - TAIL_LINES :], line]
        if found := PROVED.search(line):
            shares = [round(float(share.strip(" %")) / 100, 5) for share in found[3].split(",")]
            self.proof = Proof(found[1], int(found[2]), shares)
        for stage, words in STAGE_ENDS.items():
            if words in line:
                self._ended_s.setdefault(stage, record.created)
        if FACTS.search(line) and line not in self.facts:
            self.facts.append(line)

    def start_seconds(self, began_s: float, ready_s: float) -> dict[str, float]:
        """Returns the seconds of each stage of ComfyUI's start.

        Args:
            began_s, ready_s: when it was started, and when it answered; seconds since the epoch.
        """
        ends = {**self._ended_s, "until it answers": ready_s}
        begins = [began_s, *ends.values()]
        return {stage: round(end_s - begin_s, 3) for begin_s, (stage, end_s) in zip(begins, ends.items(), strict=False)}


@contextlib.contextmanager
def comfyui_log(is_shown: bool) -> Iterator[ComfyLog]:
    """Yields a log that receives ComfyUI's lines during the block.

    Args:
        is_shown: whether they also go to standard error.
    """
    logger, log = logging.getLogger("comfyui"), ComfyLog()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    logger.propagate = is_shown
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)
        logger.propagate = propagate
