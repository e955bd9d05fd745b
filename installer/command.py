"""Runs one program with a time limit."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from installer.errors import SetupError


def run(
    arguments: Sequence[str | Path],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    visible: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Runs the program and returns its result; if ``visible``, its output goes to the terminal instead.

    Raises:
        SetupError: it was still running after ``timeout_s``, and was stopped together with its children.
    """
    pipe = None if visible else subprocess.PIPE
    # Inherited on purpose: the setup lock is kept until an orphaned child has ended as well.
    process = subprocess.Popen(  # noqa: S603 -- argument lists of this package, no shell
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        text=True,
        errors="replace",
        env=env,
        cwd=cwd,
        close_fds=False,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except BaseException as exc:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(exc, subprocess.TimeoutExpired):
            raise SetupError(f"{Path(arguments[0]).name} was stopped after {timeout_s:g} s") from exc
        raise
    return subprocess.CompletedProcess(arguments, process.returncode, out or "", err or "")


def last_line(text: str) -> str:
    """Returns the last line that is not empty, for an error message."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
