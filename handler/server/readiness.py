"""Whether the worker can draw, as of now."""

import asyncio
import logging
from collections.abc import Callable

from handler.comfyui.process import ComfyProcess
from handler.errors import ComfyUnavailable, GenerationError, ModelMissing

RETRY_S = 60.0
WEIGHTS_POLL_S = 5.0

log = logging.getLogger(__name__)


class Readiness:
    """What /ping, /health, /metrics and the dispatcher know about the worker.

    Attributes:
        comfyui: the process that pictures are drawn on.
    """

    def __init__(self, prepare: Callable[[], None], check_weights: Callable[[], None], comfyui: ComfyProcess) -> None:
        """Both functions run in a thread.

        Args:
            prepare: checks the machine and loads the models.
            check_weights: raises ModelMissing if a weight file is missing or damaged.
            comfyui: the process that pictures are drawn on.
        """
        self.comfyui = comfyui
        self._prepare = prepare
        self._check_weights = check_weights
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

    async def follow(self) -> None:
        """Prepares the worker, trying again until that succeeds; then looks at the weight files every few seconds."""
        while not await self._succeeds(self._prepare, "warm-up failed"):
            await asyncio.sleep(WEIGHTS_POLL_S if isinstance(self._error, ModelMissing) else RETRY_S)
        self._is_prepared = True
        while True:
            await asyncio.sleep(WEIGHTS_POLL_S)
            await self._has_weights()

    async def is_cause_of(self, error: GenerationError) -> bool:
        """Returns whether a job failed only because a weight file is missing now; no job runs until it is back."""
        return isinstance(error, ModelMissing) and not await self._has_weights()

    async def _has_weights(self) -> bool:
        return await self._succeeds(self._check_weights, "weights missing, jobs wait")

    async def _succeeds(self, check: Callable[[], None], failure: str) -> bool:
        """Returns whether the check passes; logs the failure, but not the same one twice in a row."""
        try:
            await asyncio.to_thread(check)
        except GenerationError as exc:
            if self._error is None or self._error.message != exc.message:
                log.error(failure, extra={"code": exc.code, "reason": exc.message})  # noqa: TRY400
            self._error = exc
            return False
        if self._error is not None:
            log.info("jobs run again")
        self._error = None
        return True
