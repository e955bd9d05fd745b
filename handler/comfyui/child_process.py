"""One ComfyUI process, from its start to its end: what it prints, and why it ended."""

import collections
import contextlib
import io
import logging
import re
import subprocess
import tempfile
import threading
import time

from handler.comfyui import ending
from handler.comfyui.client import ComfyClient

TAIL_LINES = 40
RELAY_GRACE_S = 1.0  # for the last lines of a process that has ended
ANSI_STYLE = re.compile(r"\x1b\[[\d;]*m")

comfyui_log = logging.getLogger("comfyui")


class Child:
    """One ComfyUI process.

    Attributes:
        process: as the standard library sees it.
        client: speaks to it.
        started_s: when it was started, on the monotonic clock.
        ready_s: when it became ready; None until then.
        reason: why it ended, or is about to; empty until then.
        last_lines: what it printed last.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], client: ComfyClient, scratch: tempfile.TemporaryDirectory[str]
    ) -> None:
        self.process = process
        self.client = client
        self.started_s = time.monotonic()
        self.ready_s: float | None = None
        self.reason = ""
        self.last_lines: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._scratch = scratch
        self._relay = threading.Thread(target=self._log_output, daemon=True)
        self._relay.start()

    @property
    def is_ready(self) -> bool:
        """Whether it takes graphs."""
        return self.ready_s is not None and not self.reason

    def became_ready(self) -> None:
        """Notes that it takes graphs, and tells it."""
        self.ready_s = time.monotonic()
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended, which `wait` notices
                self.process.stdin.write(b"\n")
                self.process.stdin.flush()

    def kill(self, reason: str) -> None:
        """Ends it at once; `wait` returns soon."""
        self.reason = reason
        self.process.kill()

    def wait(self) -> int:
        """Waits for its end, cleans up after it, and returns its exit status."""
        status = self.process.wait()
        self._relay.join(RELAY_GRACE_S)
        if not self.reason:
            stage = "" if self.ready_s is not None else " while starting"
            self.reason = f"ComfyUI ended{stage}: {ending.reason(status, list(self.last_lines))}"
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        self.client.close()
        self._scratch.cleanup()
        return status

    def _log_output(self) -> None:
        assert self.process.stdout is not None
        with io.TextIOWrapper(self.process.stdout, errors="replace", newline="\n") as lines:
            for line in lines:
                # Progress bars redraw themselves with carriage returns.
                text = ANSI_STYLE.sub("", line.rstrip().rsplit("\r", 1)[-1])
                if text:
                    self.last_lines.append(text)
                    comfyui_log.info(text)
