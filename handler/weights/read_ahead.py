"""Reads the weight files from the disk while ComfyUI still imports its modules.

ComfyUI maps them into memory (safetensors), so later it finds in the page cache what has been read here.
"""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

CHUNK_BYTES = 16 << 20
ROOM = 2  # times the files: for their pages, and for ComfyUI's copy of the weights

log = logging.getLogger(__name__)


def begin(paths: Sequence[Path], memory_bytes: int) -> threading.Thread | None:
    """Reads the files in a thread, which it returns; None if this machine's memory is too small for that.

    Args:
        paths: in the order in which ComfyUI needs them.
        memory_bytes: what this program and ComfyUI may use.
    """
    size_bytes = sum(path.stat().st_size for path in paths)
    if memory_bytes < ROOM * size_bytes:
        log.info("weights not read ahead", extra={"bytes": size_bytes, "memory_bytes": memory_bytes})
        return None
    thread = threading.Thread(target=_read, args=(paths,), daemon=True)
    thread.start()
    return thread


def _read(paths: Sequence[Path]) -> None:
    began_s = time.monotonic()
    size_bytes = 0
    buffer = bytearray(CHUNK_BYTES)
    for path in paths:
        try:
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    size_bytes += count
        except OSError as exc:  # the fitness checks report it
            log.debug("weights not read ahead", extra={"path": str(path), "reason": exc.strerror})
    log.info("weights read ahead", extra={"bytes": size_bytes, "seconds": round(time.monotonic() - began_s, 2)})
