"""Tasks that run as long as the server does."""

import asyncio
import logging
from collections.abc import Coroutine

log = logging.getLogger(__name__)


def start(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
    """Returns a task that runs `work`, and that logs when it raises."""
    task = asyncio.create_task(work)
    task.add_done_callback(_log_crash)
    return task


def _log_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (exc := task.exception()):
        log.critical("background task crashed", exc_info=exc)
