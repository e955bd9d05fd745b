"""Why ComfyUI ended, from its exit status and what it printed last."""

import re
import signal
from collections.abc import Sequence

TRACEBACK = "Traceback (most recent call last):"
EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(?::\s.+)?")  # a traceback's last line: "RuntimeError: no driver"


def reason(status: int, lines: Sequence[str]) -> str:
    """Returns the exception that ended the process if it printed a traceback, else its exit status.

    Args:
        status: the exit status; -9 if it was killed by SIGKILL.
        lines: what it printed last, oldest first.
    """
    if status < 0:
        return f"it was killed by {_name(-status)}"
    starts = [number for number, line in enumerate(lines) if line == TRACEBACK]
    for line in lines[starts[-1] + 1 :] if starts else ():
        if EXCEPTION.fullmatch(line):
            return line
    return f"exit status {status}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
