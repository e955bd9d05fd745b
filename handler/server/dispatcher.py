"""Runs queued jobs one after another, and wakes the requests that wait for them."""

import asyncio
import contextlib
import functools
import logging
import time
import uuid
import weakref
from collections.abc import AsyncIterator

from handler.errors import GenerationError, InvalidInput, StorageUnavailable
from handler.job import reply
from handler.job.runner import Runner
from handler.server.background import Background
from handler.server.cleanup import clean_up
from handler.server.job_record import JobRecord, JobRequest, Status
from handler.server.job_store import CANCELLED, JobStore
from handler.server.metrics import Metrics
from handler.server.picture_store import PictureStore
from handler.server.readiness import Readiness
from handler.server.results import ENDS_WITH_US, STORAGE_RETRY_S, Results
from handler.server.running_job import RunningJob
from handler.server.webhooks import Webhooks
from handler.settings import Settings
from handler.workflow.parameters import Request

STOP_GRACE_S = 4.5  # for the running job, from the stop signal on
INTERRUPT_GRACE_S = 1.5  # then, until its run has left ComfyUI
ABANDON_GRACE_S = 0.5  # then, until it has noticed that ComfyUI is gone
READY_POLL_S = 0.1

log = logging.getLogger(__name__)


class Dispatcher:
    """One worker behind the job store. Its methods belong to one event loop."""

    def __init__(
        self, store: JobStore, runner: Runner, pictures: PictureStore, settings: Settings, metrics: Metrics
    ) -> None:
        self._store = store
        self._runner = runner
        self._pictures = pictures
        self._webhooks = Webhooks(store, pictures, settings)
        self._settings = settings
        self._metrics = metrics
        self._requests: dict[str, Request] = {}  # of queued jobs, so that their input is checked only once
        self._running: RunningJob | None = None
        self._running_lock = asyncio.Lock()  # while it is held, a job is either queued or running
        self._queued = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stopping_s = 0.0  # when that was set
        self._finished: weakref.WeakValueDictionary[str, asyncio.Event] = weakref.WeakValueDictionary()
        self._results = Results(store, pictures, self._stopping)

    @contextlib.asynccontextmanager
    async def running(self, background: Background, readiness: Readiness) -> AsyncIterator[None]:
        """Runs jobs during the block, while the worker can draw; then stops ComfyUI.

        The running job has STOP_GRACE_S from the first `stop` on; otherwise it is queued again for the next start.
        """
        async with self._webhooks.running(background):
            loop = background.start(self._run_jobs(readiness))
            timed_out = functools.partial(self._on_finished, status=Status.TIMED_OUT)
            cleanup = background.start(clean_up(self._store, self._pictures, self._settings, timed_out))
            try:
                yield
            finally:
                self.stop()
                cleanup.cancel()
                await asyncio.wait([loop], timeout=self._stopping_s + STOP_GRACE_S - time.monotonic())
                if self._running is not None:
                    self._running.deadline.cancel()
                    await asyncio.wait([loop], timeout=INTERRUPT_GRACE_S)
                await asyncio.to_thread(readiness.comfyui.stop)
                await asyncio.wait([loop], timeout=ABANDON_GRACE_S)
                if self._running is not None and not loop.done():  # it waits for something else, such as a bucket
                    await self._put_back(self._running)
                loop.cancel()
                await asyncio.wait([loop, cleanup])

    def stop(self) -> None:
        """Starts no more jobs, and ends every `wait`."""
        self._stopping_s = self._stopping_s or time.monotonic()
        self._stopping.set()
        self._queued.set()
        for finished in list(self._finished.values()):
            finished.set()

    @property
    def is_busy(self) -> bool:
        """Whether a job is running."""
        return self._running is not None

    async def submit(self, job: JobRequest, keep_s: float, prefix: str = "") -> str:
        """Queues a job on disk and returns its id.

        Args:
            keep_s: how long its result is kept.
            prefix: of the id.

        Raises:
            InvalidInput, QueueFull, StorageUnavailable: it was not accepted.
        """
        # In a thread, since it looks for embeddings on disk.
        request = await asyncio.to_thread(self._runner.parse, job.input, job.s3_config, job.is_sent_as_base64)
        job_id = f"{prefix}{uuid.uuid4()}"
        self._requests[job_id] = request
        try:
            await asyncio.to_thread(self._store.add, job_id, job, keep_s)
        except BaseException:
            self._requests.pop(job_id, None)
            raise
        self._metrics.accepted.inc()
        self._queued.set()
        return job_id

    async def submit_failed(self, job: JobRequest, error: InvalidInput, keep_s: float, prefix: str = "") -> str:
        """Stores a job that has failed already, and returns its id; raises StorageUnavailable if it is not accepted."""
        job_id = f"{prefix}{uuid.uuid4()}"
        log.warning("job refused", extra={"job_id": job_id, "code": error.code})
        await asyncio.to_thread(self._store.add_failed, job_id, job, keep_s, error)
        self._metrics.accepted.inc()
        self._metrics.errors.labels(error.code).inc()
        self._on_finished(job_id, Status.after(error))
        return job_id

    async def wait(self, job_id: str, timeout_s: float | None = None) -> JobRecord:
        """Returns the job when it has finished, or as it is after `timeout_s` or when the server stops.

        Raises:
            NotFound: the id is unknown, or the result has expired.
            StorageUnavailable: the job has finished, but its result could not be stored.
        """
        finished = self._finished.setdefault(job_id, asyncio.Event())  # before reading, so that none is missed
        record = await self._get(job_id)
        if record.status.is_final or self._stopping.is_set():
            return record
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(finished.wait(), timeout_s)
        return await self._get(job_id)

    async def cancel(self, job_id: str) -> JobRecord:
        """Cancels a queued or running job, and returns it when that is on disk. A finished job does not change.

        Raises:
            NotFound: the id is unknown, or the result has expired.
            StorageUnavailable: the cancellation could not be stored.
        """
        async with self._running_lock:
            running = self.running_job(job_id)
            if running is not None:
                running.cancel()
                await asyncio.to_thread(self._store.fail, job_id, CANCELLED)
            elif await asyncio.to_thread(self._store.cancel_queued, job_id):
                self._on_finished(job_id, Status.CANCELLED)
        if running is not None:
            await running.finished.wait()
        return await self._get(job_id)

    async def purge(self) -> int:
        """Cancels all queued jobs, and returns their number."""
        ids = await asyncio.to_thread(self._store.purge)
        for job_id in ids:
            self._on_finished(job_id, Status.CANCELLED)
        return len(ids)

    async def retry(self, job_id: str) -> None:
        """Queues a job again that has failed or timed out; raises like JobStore.retry."""
        await asyncio.to_thread(self._store.retry, job_id)
        self._queued.set()

    def running_job(self, job_id: str) -> RunningJob | None:
        """Returns the job if it is running."""
        return self._running if self._running is not None and self._running.id == job_id else None

    async def _get(self, job_id: str) -> JobRecord:
        record = await asyncio.to_thread(self._store.get, job_id)
        self._results.check(job_id)
        return record

    async def _run_jobs(self, readiness: Readiness) -> None:
        while not self._stopping.is_set():
            if not readiness.can_draw:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), READY_POLL_S)
                continue
            self._queued.clear()
            try:
                running = await self._take()
            except StorageUnavailable as exc:
                log.error("cannot take jobs", extra={"reason": exc.message})  # noqa: TRY400
                await asyncio.sleep(STORAGE_RETRY_S)
                continue
            if running is not None:
                await self._run(running, readiness)
            else:
                await self._queued.wait()

    async def _take(self) -> RunningJob | None:
        async with self._running_lock:
            record = await asyncio.to_thread(self._store.take)
            if record is None:
                return None
            request = self._requests.pop(record.id, None)
            self._running = RunningJob(record, request, self._settings.job_timeout_s, self._store.now())
            return self._running

    async def _run(self, running: RunningJob, readiness: Readiness) -> None:
        try:
            shape, keeper = reply.Shape.of(self._settings), self._results.keeper(running.id)
            encoded, outcome = await asyncio.to_thread(running.run, self._runner, shape, keeper)
            await self._results.complete(running, encoded, outcome)
        except GenerationError as exc:
            is_not_its_fault = self._stopping.is_set() and isinstance(exc, ENDS_WITH_US)
            if (is_not_its_fault or await readiness.is_cause_of(exc)) and await self._put_back(running):
                return
            self._metrics.errors.labels(exc.code).inc()
            status = Status.after(exc)
            await self._results.fail(running.id, exc, functools.partial(self._wake, running))
        else:
            self._metrics.observe(picture.info["seconds"] for picture in outcome.pictures)
            status = Status.COMPLETED
        finally:
            running.finished.set()
        self._running = None
        self._on_finished(running.id, status)

    async def _put_back(self, running: RunningJob) -> bool:
        """Queues the job again and returns True, unless a caller cancelled it."""
        async with self._running_lock:
            if running.is_cancelled or not await self._results.put_back(running.id):
                return False
            self._running = None
            return True

    def _wake(self, running: RunningJob) -> None:
        running.finished.set()
        self._wake_waiting(running.id)

    def _wake_waiting(self, job_id: str) -> None:
        if finished := self._finished.pop(job_id, None):
            finished.set()

    def _on_finished(self, job_id: str, status: Status) -> None:
        self._requests.pop(job_id, None)
        self._wake_waiting(job_id)
        self._metrics.finished.labels(status.lower()).inc()
        self._webhooks.job_finished()
