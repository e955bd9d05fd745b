"""Whether the worker can draw, as of now."""

import asyncio
import logging
from collections.abc import Callable

from handler.comfyui.process import ComfyProcess
from handler.errors import ComfyUnavailable, GenerationError

RETRY_S = 60.0

log = logging.getLogger(__name__)


class Readiness:
    """What /ping, /health, /metrics and the dispatcher know about the worker.

    Attributes:
        comfyui: the process that pictures are drawn on.
    """

    def __init__(self, prepare: Callable[[], None], comfyui: ComfyProcess) -> None:
        """`prepare` checks the machine and loads the models; it runs in a thread."""
        self.comfyui = comfyui
        self._prepare = prepare
        self._is_prepared = False
        self._error: GenerationError | None = None

    @property
    def error(self) -> GenerationError | None:
        """Why the worker cannot draw; None while it can, or starts."""
        if self.comfyui.unfit.is_set():
            return ComfyUnavailable(self.comfyui.unfit_reason)
        return self._error

    @property
    def can_draw(self) -> bool:
        """Whether jobs may run; if ComfyUI is just being restarted, they wait for it."""
        return self._is_prepared and self.error is None

    @property
    def is_up(self) -> bool:
        """Whether a job would be drawn at once."""
        return self.can_draw and self.comfyui.is_ready

    async def prepare(self) -> None:
        """Prepares the worker; if that fails, tries again every minute until it succeeds."""
        while True:
            try:
                await asyncio.to_thread(self._prepare)
            except GenerationError as exc:
                log.error("warm-up failed", extra={"code": exc.code, "reason": exc.message})  # noqa: TRY400
                self._error = exc
                await asyncio.sleep(RETRY_S)
            else:
                self._error, self._is_prepared = None, True
                return
