"""Counts requests, sockets and written files of this process with an audit hook (PEP 578), which stays to its end."""

import functools
import os
import sys
from collections import Counter


@functools.cache
def counters() -> Counter[str]:
    """Returns what has been counted since the first call: `requests` (HTTP), `sockets` that connect, `files`."""
    found: Counter[str] = Counter()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        match event, arguments:
            case "http.client.send", (_, bytes(sent)) if sent.startswith((b"GET ", b"POST ")):
                found["requests"] += 1
            case "socket.connect", _:
                found["sockets"] += 1
            case "open", (_, _, int(flags)) if flags & (os.O_WRONLY | os.O_RDWR):
                found["files"] += 1

    sys.addaudithook(hook)
    return found
