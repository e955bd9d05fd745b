"""Runs ComfyUI's main.py, and ends it as soon as the parent is gone.

This file is executed by ComfyUI's Python, not imported:
`python child.py <scratch folder> <path of main.py> <arguments>`. The parent holds the other end of standard
input. When it ends, even by SIGKILL, this side reads an end of file, removes the scratch folder, which the
parent no longer can, and exits.
"""

import os
import runpy
import shutil
import sys
import threading


def exit_with_parent(scratch: str) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=exit_with_parent, args=(sys.argv[1],), daemon=True).start()
    sys.argv = sys.argv[2:]
    sys.path[0] = os.path.dirname(sys.argv[0])  # noqa: PTH120 -- pathlib is not needed by what runs here
    runpy.run_path(sys.argv[0], run_name="__main__")
