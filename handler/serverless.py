"""The RunPod boundary: jobs from the SDK's loop in, replies out. Translates, decides nothing."""

import asyncio
import functools
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.errors import GenerationError, ModelMissing
from handler.job import reply
from handler.job.progress import JobProgress, OnProgress
from handler.job.runner import Job, Runner, reported
from handler.settings import Settings

UPDATE_S = 1.0  # between two reports of a job's progress
UPDATE_GRACE_S = 2.0  # at its end, for one that is being sent
LEAVE_GRACE_S = 15.0  # for the SDK to report the last job and to end by itself

log = logging.getLogger(__name__)

RunPodJob = Mapping[str, Any]
SendProgress = Callable[[RunPodJob, JobProgress], Awaitable[None]]


class Handler(Protocol):
    """What runs a job."""

    def __call__(
        self, job: RunPodJob, on_nearly_done: Callable[[], None] = ..., /
    ) -> Coroutine[Any, Any, dict[str, Any]]:
        """Returns the reply; calls `on_nearly_done` in the event loop when only the last picture's decoding is left."""


async def send_progress(job: RunPodJob, progress: JobProgress) -> None:
    """Sends the progress of a job to RunPod, whose /status then has it as `output`; a failure is only logged."""
    from runpod.http_client import AsyncClientSession
    from runpod.serverless.modules.rp_http import send_result

    async with AsyncClientSession() as session:
        await send_result(session, {"status": "IN_PROGRESS", "output": asdict(progress)}, job)


def make_handler(runner: Runner, settings: Settings, send: SendProgress | None = None) -> Handler:
    """Returns the handler for `runpod.serverless.start`.

    Args:
        runner: runs the jobs.
        settings: this worker's.
        send: sends the progress of a job, at most once a second, and never after the handler has returned; None
            sends nothing.

    The handler returns the reply of handler.job.reply, or `{"error": "code: message"}`. It raises only
    asyncio.CancelledError, with which the SDK ends a cancelled or timed-out job; by then the run has been
    removed from ComfyUI.
    """

    shape = reply.Shape.of(settings)

    def run(job: RunPodJob, deadline: Deadline, on_progress: OnProgress) -> dict[str, Any]:
        job_id = str(job.get("id"))
        try:
            with reported(job_id):
                own_job = Job(job_id, runner.parse(job.get("input"), job.get("s3Config")), job.get("s3Config"))
                encoded, outcome = runner.run(own_job, deadline, on_progress)
                return reply.build(outcome, encoded, shape)
        except GenerationError as exc:
            return {"error": str(exc)}

    async def handle(job: RunPodJob, on_nearly_done: Callable[[], None] = _do_nothing) -> dict[str, Any]:
        deadline, loop, latest = Deadline(settings.job_timeout_s), asyncio.get_running_loop(), _Latest()

        def on_progress(progress: JobProgress) -> None:
            latest.set(progress)
            if progress.is_nearly_done:
                loop.call_soon_threadsafe(on_nearly_done)

        work = asyncio.create_task(asyncio.to_thread(run, job, deadline, on_progress))
        updates = None if send is None else asyncio.create_task(latest.send_until(work, functools.partial(send, job)))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            deadline.cancel()
            await asyncio.wait([work])
            raise
        finally:
            if updates is not None:
                await _end(updates)

    return handle


def _do_nothing() -> None:
    pass


class _Latest:
    """The progress of a job that is running in another thread."""

    def __init__(self) -> None:
        self._progress: JobProgress | None = None

    def set(self, progress: JobProgress) -> None:
        self._progress = progress

    async def send_until(self, work: asyncio.Task[Any], send: Callable[[JobProgress], Awaitable[None]]) -> None:
        """Sends the progress whenever it has changed, at most once in UPDATE_S, until `work` ends.

        It is not sent when the job is nearly done, because the result would have to wait for it.
        """
        sent = None
        while not work.done():
            if self._progress is not None and self._progress != sent and not self._progress.is_nearly_done:
                sent = self._progress
                await send(sent)
            await asyncio.wait([work], timeout=UPDATE_S)


async def _end(updates: asyncio.Task[None]) -> None:
    """Waits for an update that is being sent, since it must not arrive after the result; then gives it up."""
    await asyncio.wait([updates], timeout=UPDATE_GRACE_S)
    updates.cancel()
    await asyncio.wait([updates])
    if not updates.cancelled() and (error := updates.exception()) is not None:
        log.warning("progress not sent", extra={"reason": repr(error)})


class LeavingWorker:
    """Handles jobs until ComfyUI is given up or a weight file is gone, then makes way for another worker.

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

    async def handle(self, job: RunPodJob, on_nearly_done: Callable[[], None] = _do_nothing) -> dict[str, Any]:
        """Is the handler that the SDK calls."""
        if self._comfyui.unfit.is_set():  # since this job was taken
            raise asyncio.CancelledError  # the SDK reports nothing, so RunPod can give the job to another worker
        self._jobs += 1
        try:
            reply = await self._handle(job, on_nearly_done)
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
