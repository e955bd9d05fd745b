"""Memory, descriptors and leftover files of the program under test and its ComfyUI."""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tools.soak.faults import comfyui_of

EVERY_S = 0.2


@dataclass(frozen=True)
class Usage:
    """What is used at one moment, by the program and its ComfyUI together."""

    rss_bytes: int
    descriptors: int


def now(pid: int) -> Usage | None:
    """Returns what is used now; None while one of the two does not run."""
    comfyui = comfyui_of(pid)
    if comfyui is None:
        return None
    with contextlib.suppress(psutil.Error):
        both = [psutil.Process(pid), comfyui]
        return Usage(sum(one.memory_info().rss for one in both), sum(one.num_fds() for one in both))
    return None


def leftover_bytes(*folders: Path, known: set[str]) -> int:
    """Returns the size of the files in the folders, without those of these names."""
    size_bytes = 0
    for folder in folders:
        for path in folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.name not in known:
                    size_bytes += path.stat().st_size
    return size_bytes


class StartCounter:
    """Counts the processes of ComfyUI that are seen during the block."""

    def __init__(self, pid_of_program: Callable[[], int | None]) -> None:
        self._pid_of_program = pid_of_program
        self._seen: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "StartCounter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def restarts(self) -> int:
        return max(0, len(self._seen) - 1)

    def _watch(self) -> None:
        while not self._stop.wait(EVERY_S):
            pid = self._pid_of_program()
            comfyui = comfyui_of(pid) if pid else None
            if comfyui is not None:
                self._seen.add(comfyui.pid)
