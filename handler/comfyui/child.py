"""Runs ComfyUI's main.py, and ends it with the parent or when it can no longer draw.

This file is executed by ComfyUI's Python:
`python child.py <scratch folder> <path of main.py> <arguments>`. The parent holds the other end of standard
input. When it ends, even by SIGKILL, this side reads an end of file, removes the scratch folder, which the
parent no longer can, and exits.

The start of ComfyUI leaves about a million objects, none of which is garbage. While they are made, Python's collector
goes through all of them six times, which takes a sixth of the start, and ComfyUI has it go through them again after the
first picture, which delays that by a quarter of a second. So the collector is off until the parent writes that ComfyUI
is ready, and leaves these objects out from then on.

Stop signals are for the parent, which lets the running job finish: `systemctl stop`, container runtimes and a
terminal also send them to its children, so they are ignored here.
"""

import ctypes
import gc
import logging
import os
import runpy
import shutil
import signal
import sys
import threading
from collections.abc import Callable

BROKEN_STATUS = 70  # EX_SOFTWARE; ComfyUI itself ends with 0 or 1
PR_SET_PDEATHSIG = 1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def at_parents_end(signum: int) -> Callable[[], None]:
    """Returns a function that makes the kernel send this process a signal when its parent ends; Linux only."""
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl  # looked up now: a forked child must not wait for the linker's lock
    return lambda: prctl(PR_SET_PDEATHSIG, signum)


def follow_parent(scratch: str) -> None:
    """Turns the garbage collector on when the parent writes, and ends this process, even if it is stopped, with it."""
    at_parents_end(signal.SIGCONT)()
    while os.read(sys.stdin.fileno(), 1024):
        gc.freeze()
        gc.enable()
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


def exit_without_worker(failure: threading.ExceptHookArgs) -> None:
    """Ends the process if the thread has died that runs graphs; ComfyUI would accept more, and run none."""
    threading.__excepthook__(failure)
    if failure.thread is not None and "prompt_worker" in failure.thread.name:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(BROKEN_STATUS)


def is_not_about_the_gui(record: logging.LogRecord) -> bool:
    """Returns whether to log this; ComfyUI calls it an error that its GUI's templates are not installed."""
    return "comfyui-workflow-templates is not installed" not in str(record.msg)


if __name__ == "__main__":
    for signum in STOP_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    gc.disable()
    threading.Thread(target=follow_parent, args=(sys.argv[1],), daemon=True).start()
    threading.excepthook = exit_without_worker
    logging.getLogger().addFilter(is_not_about_the_gui)
    sys.argv = sys.argv[2:]
    sys.path[0] = os.path.dirname(sys.argv[0])  # noqa: PTH120 -- pathlib is not needed by what runs here
    runpy.run_path(sys.argv[0], run_name="__main__")
