"""Takes over changes of the stored workflow while the server runs."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from handler.errors import GenerationError
from handler.workflow.workflow import Workflow

POLL_S = 0.5

log = logging.getLogger(__name__)


class WorkflowWatch:
    """Loads the workflow again when a file of it changes; if it cannot run, the last good one stays in use.

    Attributes:
        refused: why the files on disk are not in use; None if they are.
    """

    def __init__(self, folder: Path, load: Callable[[], Workflow], use: Callable[[Workflow], None]) -> None:
        """Remembers the files as they are.

        Args:
            folder: of the stored workflows.
            load: returns the checked workflow; raises GenerationError if it cannot run.
            use: makes the next job use it.
        """
        self.refused: str | None = None
        self._folder = folder
        self._load = load
        self._use = use
        self._seen = self._files()

    async def run(self, on_change: Callable[[], None]) -> None:
        """Looks for changes until it is cancelled; calls `on_change` after each workflow that was taken over."""
        while True:
            await asyncio.sleep(POLL_S)
            if await asyncio.to_thread(self.check):
                on_change()

    def follow(self) -> None:
        """Looks for changes as long as the thread lives."""
        while True:
            time.sleep(POLL_S)
            self.check()

    def check(self) -> bool:
        """Returns whether the files had changed and are in use now."""
        files = self._files()
        if files == self._seen:
            return False
        self._seen = files
        try:
            workflow = self._load()
        except GenerationError as exc:
            self.refused = exc.message
            log.error("workflow not taken over", extra={"reason": exc.message})  # noqa: TRY400
            return False
        self.refused = None
        self._use(workflow)
        log.info("workflow taken over", extra={"workflow": workflow.name, "profile": workflow.profile})
        return True

    def _files(self) -> dict[Path, tuple[int, int]]:
        """Returns the time and size of each file."""
        found = {}
        for path in (*self._folder.glob("*.json"), *self._folder.glob("profiles/*.json")):
            try:
                status = path.stat()
            except OSError:  # it was just replaced
                continue
            found[path] = status.st_mtime_ns, status.st_size
        return found
