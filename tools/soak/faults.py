"""When each fault happens, and how a process or a connection is hit from outside."""

import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

SYS_PIDFD_GETFD = 438
POLL_S = 0.02


def plan(kinds: Sequence[str], faults: int, first: int, last: int, chance: random.Random) -> list[tuple[int, str]]:
    """Returns after how many finished jobs which fault happens, in order.

    Args:
        kinds: all of them occur about equally often.
        first: finished jobs before the first fault.
        last: finished jobs before the last fault.
    """
    names = [kinds[number % len(kinds)] for number in range(faults)]
    chance.shuffle(names)
    return list(zip(sorted(chance.choices(range(first, last + 1), k=faults)), names, strict=True))


def until(holds: Callable[[], bool], timeout_s: float) -> bool:
    """Returns whether it holds within this time."""
    end_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end_s:
            return False
        time.sleep(POLL_S)
    return True


def comfyui_of(pid: int) -> psutil.Process | None:
    """Returns the ComfyUI of this server or worker, or None while it has none."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.Error):
                if "--port" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                    return child
    return None


def hit(process: psutil.Process | None, signum: signal.Signals) -> None:
    """Sends a signal, unless the process has ended."""
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signum)


def cut_connections(pid: int, to: psutil.Process | None) -> int:
    """Shuts down all TCP connections of process `pid` to process `to`, as a broken network does. Returns how many."""
    if to is None:
        return 0
    command = to.cmdline()
    port = int(command[command.index("--port") + 1])
    found = [one.fd for one in psutil.Process(pid).net_connections("tcp") if one.raddr and one.raddr.port == port]
    process = os.pidfd_open(pid)
    try:
        for number in found:
            copied = ctypes.CDLL(None, use_errno=True).syscall(SYS_PIDFD_GETFD, process, number, 0)
            if copied >= 0:
                with socket.socket(fileno=copied) as connection, contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
    finally:
        os.close(process)
    return len(found)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """Mounts a tmpfs on the folder during the block; yields False if the system does not allow it."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False
    )
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Leaves no byte free on the folder's disk during the block."""
    ballast = folder / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        yield
    finally:
        ballast.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free
