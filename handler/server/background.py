"""Tasks that run as long as the server does."""

import asyncio
import logging
from collections.abc import Coroutine

log = logging.getLogger(__name__)


class Background:
    """Runs the tasks that the server cannot do without.

    Attributes:
        has_crashed: whether one of them has raised; the server then stops.
    """

    def __init__(self) -> None:
        self.has_crashed = False

    def start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Returns a task that runs `work`."""
        task = start(work)
        task.add_done_callback(self._note_crash)
        return task

    def _note_crash(self, task: asyncio.Task[None]) -> None:
        self.has_crashed |= not task.cancelled() and task.exception() is not None


def start(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
    """Returns a task that runs `work`, and that logs when it raises; the server continues without it."""
    task = asyncio.create_task(work)
    task.add_done_callback(_log_crash)
    return task


def _log_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (exc := task.exception()):
        log.critical("background task crashed", exc_info=exc)
