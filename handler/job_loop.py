"""The SDK's loop without its pauses, as of runpod 1.12.0 (serverless/modules/rp_scale.py).

The SDK's own loop looks for room for another job once a second, and for a job to run every 0.1 s, so a worker is idle
for half a second between two queued jobs. If a stop signal comes while RunPod's answer with a job is awaited, it takes
that job and never runs it; until that answer, for up to 20 s, it does not stop. If RunPod does not acknowledge a
result, it gives up after three attempts in a few seconds, or waits ten minutes for an answer without taking a job.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import aiohttp
import tenacity
from runpod.serverless.modules import rp_http, rp_scale

POLL_S = 0.1
REPORT_TRIES = 8
REPORT_TIMEOUT_S = 60.0  # of one try
REPORT_WAIT = tenacity.wait_exponential(multiplier=0.5, max=10)  # half a minute in all

RunPodJob = dict[str, Any]


class JobLoop(rp_scale.JobScaler):  # type: ignore[misc]  # the SDK has no types
    """Takes the next job as soon as the last one has ended, never earlier, so that an idle worker can have it."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        # With room for a second job the SDK asks for one without a pause; `_fetch` does not until the first has ended.
        self.concurrency_modifier = lambda _: 2
        self.jobs_fetcher = self._fetch
        self._ended = asyncio.Event()
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
            self._ended.set()

    async def _fetch(self, session: Any, _: int) -> list[RunPodJob] | None:
        if self.current_occupancy():
            self._ended.clear()
            await self._ended.wait()
            return None  # the SDK calls again, unless a stop signal came meanwhile
        jobs: list[RunPodJob] | None = await rp_scale.get_job(session)
        return jobs


def install() -> None:
    """Makes `runpod.serverless.start` use this loop."""
    rp_scale.JobScaler = JobLoop
    rp_http._transmit = report


async def report(session: aiohttp.ClientSession, url: str, result: str) -> None:
    """Posts a result until RunPod acknowledges it; gives up after REPORT_TRIES, or if RunPod refuses it.

    Raises:
        aiohttp.ClientError: it was not acknowledged.
    """
    headers = {"charset": "utf-8", "Content-Type": "application/x-www-form-urlencoded"}  # as the SDK's
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
