"""The server's clock."""

import time
from collections.abc import Callable


def steady() -> Callable[[], float]:
    """Returns a clock that starts with the system's time, and does not jump when that is set.

    It returns seconds since 1970, which are stored, so that jobs and pictures expire across restarts too.
    """
    started_s = time.time() - time.monotonic()
    return lambda: started_s + time.monotonic()
