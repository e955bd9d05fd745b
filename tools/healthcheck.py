#!/usr/bin/env python3
"""Docker's HEALTHCHECK: exits with 0 if the worker's ComfyUI answers. Standard library only."""

import sys
import urllib.request
from pathlib import Path

MAIN = b"/handler/comfyui/child.py"
TIMEOUT_S = 5


def port():
    """Returns the port of the running ComfyUI, or None."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:  # the process has just ended
            continue
        if any(argument.endswith(MAIN) for argument in arguments) and b"--port" in arguments:
            return int(arguments[arguments.index(b"--port") + 1])
    return None


def main():
    """Returns the exit status."""
    found = port()
    if found is None:
        print("ComfyUI is not running")
        return 1
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(f"http://127.0.0.1:{found}/system_stats", timeout=TIMEOUT_S).close()
    except OSError as exc:
        print(f"ComfyUI does not answer: {exc}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
