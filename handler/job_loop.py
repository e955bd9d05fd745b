"""The SDK's loop without its pauses, as of runpod 1.12.0 (serverless/modules/rp_scale.py, rp_job.py, rp_http.py).

The SDK's own loop looks for room for another job once a second, and for a job to run every 0.1 s, so a worker is idle
for half a second between two queued jobs. It also formats each reply twice for a debug log and once as JSON, 50 ms for
a picture of 1024x1024, and waits until RunPod has acknowledged the result. If a stop signal comes while RunPod's answer
with a job is awaited, it takes that job and never runs it; until that answer, for up to 20 s, it does not stop. If
RunPod does not acknowledge a result, it gives up after three attempts in a few seconds, or waits ten minutes for an
answer without taking a job.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import aiohttp
import pydantic_core
import tenacity
from runpod.serverless.modules import rp_http, rp_scale

POLL_S = 0.1
FAILED_PAUSE_S = 1.0  # after a request that failed
UNFINISHED = 2  # jobs
REPORT_TRIES = 8
REPORT_TIMEOUT_S = 60.0  # of one try
REPORT_WAIT = tenacity.wait_exponential(multiplier=0.5, max=10)  # half a minute in all
HEADERS = {"charset": "utf-8", "Content-Type": "application/x-www-form-urlencoded"}  # as the SDK's

log = logging.getLogger(__name__)

RunPodJob = dict[str, Any]


class Unprinted(dict[str, Any]):
    """A reply whose `repr`, which the SDK makes of each one, has no pictures."""

    def __repr__(self) -> str:
        return f"<reply with {', '.join(self)}>"


class JobLoop(rp_scale.JobScaler):  # type: ignore[misc]  # the SDK has no types
    """Draws one job at a time. Takes the next one when the last one is nearly done, and sends results meanwhile.

    So the GPU does not wait for RunPod's answers, and no job waits here while another worker could draw it. At most
    two jobs are unfinished: one whose result is being sent and one that is drawn, or one that is nearly done and the
    next one.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._handler: Callable[..., Coroutine[Any, Any, dict[str, Any]]] = config["handler"]
        config["handler"] = self._draw  # the SDK calls it, and looks at other entries after each job
        # With room for more jobs the SDK asks for one without a pause; `_fetch` decides when there is room.
        self.concurrency_modifier = lambda _: 2 * UNFINISHED  # it counts a job twice until that is begun
        self.jobs_fetcher = self._fetch
        self._drawing = asyncio.Lock()
        self._undrawn: set[str] = set()  # jobs that are not nearly done
        self._changed = asyncio.Event()
        self._is_taking = True

    async def get_jobs(self, session: Any) -> None:
        """Takes jobs until a stop signal; gives up a request that RunPod has not begun to answer then."""
        watched = _Session(session)
        try:
            await _run_until(lambda: not self.is_alive() and not watched.has_answer, super().get_jobs(watched))
        finally:
            self._is_taking = False

    async def monitor_stop_signals(self, session: Any) -> None:
        """Cancels jobs when RunPod asks for it, until a stop signal and the end of the last job."""
        await _run_until(
            lambda: not self._is_taking and not self.current_occupancy(), super().monitor_stop_signals(session)
        )

    async def run_jobs(self, session: Any) -> None:
        """Runs the jobs that were taken, also one that came after a stop signal."""
        tasks: set[asyncio.Task[None]] = set()
        while self._is_taking or not self.jobs_queue.empty():
            with contextlib.suppress(TimeoutError):
                job = await asyncio.wait_for(self.jobs_queue.get(), POLL_S)
                task = asyncio.create_task(self.handle_job(session, job))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                self.jobs_tasks[job["id"]] = task
        await asyncio.gather(*tasks, return_exceptions=True)

    async def handle_job(self, session: Any, job: RunPodJob) -> None:
        """Runs one job and sends its result."""
        try:
            await super().handle_job(session, job)
        finally:
            self._nearly_done(job["id"])

    async def _draw(self, job: RunPodJob) -> Unprinted:
        """Is the handler that the SDK calls."""
        try:
            async with self._drawing:
                return Unprinted(await self._handler(job, partial(self._nearly_done, job["id"])))
        finally:
            if self.config.get("refresh_worker", False):
                self.kill_worker()  # takes no more jobs; the SDK does this only after it has sent the result
            self._nearly_done(job["id"])

    def _nearly_done(self, job_id: str) -> None:
        self._undrawn.discard(job_id)
        self._changed.set()

    async def _fetch(self, session: Any, _: int) -> list[RunPodJob] | None:
        if self._undrawn or self.job_progress.get_job_count() >= UNFINISHED:
            self._changed.clear()
            await self._changed.wait()
            return None  # the SDK calls again, unless a stop signal came meanwhile
        try:
            jobs: list[RunPodJob] | None = await rp_scale.get_job(session)
        except aiohttp.ClientError:
            await asyncio.sleep(FAILED_PAUSE_S)
            raise  # the SDK logs it and calls again at once
        if not jobs:
            await asyncio.sleep(POLL_S)  # RunPod may answer at once while a job is in progress
            return None
        self._undrawn.update(job["id"] for job in jobs)
        return jobs


def install() -> None:
    """Makes `runpod.serverless.start` use this loop."""
    rp_scale.JobScaler = JobLoop
    rp_http._handle_result = send


async def send(
    session: aiohttp.ClientSession, result: Mapping[str, Any], job: RunPodJob, url_template: str, *_: Any, **__: Any
) -> None:
    """Reports a job's result or progress to RunPod; a failure is only logged."""
    url = url_template.replace("$ID", job["id"]) + "&isStream=false"
    try:
        await report(session, url, pydantic_core.to_json(result), job["id"])
    except aiohttp.ClientError as exc:
        log.error("result not sent", extra={"job_id": job["id"], "reason": str(exc)})  # noqa: TRY400


async def report(session: aiohttp.ClientSession, url: str, result: bytes, job_id: str) -> None:
    """Posts a result until RunPod acknowledges it; gives up after REPORT_TRIES, or if RunPod refuses it.

    Raises:
        aiohttp.ClientError: it was not acknowledged.
    """
    headers = {**HEADERS, "X-Request-ID": job_id}
    async for attempt in tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(REPORT_TRIES),
        wait=REPORT_WAIT,
        retry=tenacity.retry_if_exception(_may_pass),
        reraise=True,
    ):
        with attempt:
            timeout = aiohttp.ClientTimeout(REPORT_TIMEOUT_S)
            try:
                async with session.post(url, data=result, headers=headers, timeout=timeout) as response:
                    response.raise_for_status()
                    await response.read()
            except TimeoutError as exc:
                raise aiohttp.ServerTimeoutError(f"no answer within {REPORT_TIMEOUT_S:g} s") from exc


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status >= 500 or error.status == 429
    return isinstance(error, aiohttp.ClientError)


class _Session:
    """The SDK's HTTP session.

    Attributes:
        has_answer: whether RunPod has begun to answer a request that has not been read yet.
    """

    def __init__(self, session: Any) -> None:
        self.has_answer = False
        self._session = session

    @contextlib.asynccontextmanager
    async def get(self, url: str) -> AsyncIterator[Any]:
        async with self._session.get(url) as response:
            self.has_answer = True
            try:
                yield response
            finally:
                self.has_answer = False


async def _run_until(has_ended: Callable[[], bool], work: Coroutine[Any, Any, None]) -> None:
    """Runs `work` until its end, or cancels it as soon as `has_ended()`."""
    task = asyncio.create_task(work)
    try:
        while not task.done() and not has_ended():
            await asyncio.wait([task], timeout=POLL_S)
    finally:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
