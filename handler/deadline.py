"""How long a job may still take, and whether anybody still wants it."""

import threading
import time

from handler.errors import JobCancelled, JobTimeout


class Deadline:
    """One per job, made at the top and handed down; safe to cancel from another thread."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._end_s = time.monotonic() + limit_s
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Lets whoever asks next for the time left raise JobCancelled."""
        self._cancelled.set()

    def left_s(self) -> float:
        """Returns the seconds left, more than 0.

        Raises:
            JobCancelled: `cancel` was called.
            JobTimeout: none are left.
        """
        if self._cancelled.is_set():
            raise JobCancelled("the job was cancelled")
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise JobTimeout(f"the job took longer than {self._limit_s:g} s")
        return left_s

    def sleep(self, seconds: float) -> None:
        """Waits, but no longer than there is time, nor after a cancellation."""
        self._cancelled.wait(min(seconds, self.left_s()))
