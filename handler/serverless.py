"""The RunPod boundary: jobs from the SDK's loop in, replies out. Translates, decides nothing."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from handler.comfyui.client import OnProgress
from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.errors import GenerationError, ModelMissing
from handler.job import reply
from handler.job.runner import Job, Runner, reported
from handler.settings import Settings

LEAVE_GRACE_S = 15.0  # for the SDK to report the last job and to end by itself

log = logging.getLogger(__name__)

RunPodJob = Mapping[str, Any]
Handler = Callable[[RunPodJob], Coroutine[Any, Any, dict[str, Any]]]


def make_handler(runner: Runner, settings: Settings, on_progress: OnProgress | None = None) -> Handler:
    """Returns the handler for `runpod.serverless.start`.

    The handler returns the reply of handler.job.reply, or `{"error": "code: message"}`. It raises only
    asyncio.CancelledError, with which the SDK ends a cancelled or timed-out job; by then the run has been
    removed from ComfyUI.
    """

    shape = reply.Shape.of(settings)

    def run(job: RunPodJob, deadline: Deadline) -> dict[str, Any]:
        job_id = str(job.get("id"))
        try:
            with reported(job_id):
                own_job = Job(job_id, runner.parse(job.get("input"), job.get("s3Config")), job.get("s3Config"))
                encoded, outcome = runner.run(own_job, deadline, on_progress)
                return reply.build(outcome, encoded, shape)
        except GenerationError as exc:
            return {"error": str(exc)}

    async def handle(job: RunPodJob) -> dict[str, Any]:
        deadline = Deadline(settings.job_timeout_s)
        work = asyncio.create_task(asyncio.to_thread(run, job, deadline))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            deadline.cancel()
            await asyncio.wait([work])
            raise

    return handle


class LeavingWorker:
    """Handles jobs until ComfyUI is given up or a weight file is gone, then leaves the field to another worker.

    The job that it has fails, the SDK asks RunPod to replace the worker and takes no other job, and the
    process ends with status 1. An idle worker ends at once if ComfyUI is given up.

    Attributes:
        config: for `runpod.serverless.start`.
    """

    def __init__(self, handle: Handler, comfyui: ComfyProcess, check_weights: Callable[[], None]) -> None:
        """`check_weights` runs after a job that failed; it raises ModelMissing if a weight file is gone or damaged."""
        self._handle = handle
        self._check_weights = check_weights
        self._comfyui = comfyui
        self._jobs = 0
        self.config: dict[str, Any] = {"handler": self.handle}

    async def handle(self, job: RunPodJob) -> dict[str, Any]:
        """Is the handler that the SDK calls."""
        self._jobs += 1
        try:
            reply = await self._handle(job)
            if "error" in reply:
                await asyncio.to_thread(self._give_up_without_weights)
            return reply
        finally:
            self._jobs -= 1
            if self._comfyui.unfit.is_set():
                self.config["refresh_worker"] = True  # the SDK looks at it after each job

    def _give_up_without_weights(self) -> None:
        try:
            self._check_weights()
        except ModelMissing as exc:
            self._comfyui.give_up(exc.message)

    def watch(self) -> None:
        """From now on, ends the process when ComfyUI is given up."""
        threading.Thread(target=self._leave_when_unfit, daemon=True).start()

    def _leave_when_unfit(self) -> None:
        self._comfyui.unfit.wait()
        if self._jobs:
            time.sleep(LEAVE_GRACE_S)
        log.critical("worker is not fit", extra={"reason": self._comfyui.unfit_reason})
        os._exit(1)
