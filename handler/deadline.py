"""How much time a job has left, and whether it was cancelled."""

import threading
import time

from handler.errors import JobCancelled, JobTimeout


class Deadline:
    """One per job, made at the boundary and handed down. Safe to cancel from another thread."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._end_s = time.monotonic() + limit_s
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Makes the next left_s() or sleep() raise JobCancelled."""
        self._cancelled.set()

    def left_s(self) -> float:
        """Returns the seconds left, more than 0.

        Raises:
            JobCancelled: `cancel` was called.
            JobTimeout: the time is up.
        """
        if self._cancelled.is_set():
            raise JobCancelled("the job was cancelled")
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise JobTimeout(f"the job took longer than {self._limit_s:g} s")
        return left_s

    def sleep(self, seconds: float) -> None:
        """Waits, but not past the deadline and not after a cancellation; raises like `left_s`."""
        self._cancelled.wait(min(seconds, self.left_s()))
