"""Takes jobs from the store one after another, and tells whoever waits for them."""

import asyncio
import collections
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import tenacity

from handler.comfyui.run import Progress, Run
from handler.deadline import Deadline
from handler.errors import GenerationError, JobCancelled, JobTimeout, NotFound, StorageUnavailable
from handler.job import reply
from handler.job.picture import Outcome
from handler.job.runner import Job, Runner, reported
from handler.server.job_store import CANCELLED, JobRequest, JobStore, Record, Status
from handler.server.metrics import Metrics
from handler.server.picture_store import PictureFolder
from handler.settings import Settings

IDLE_S = 1.0
SWEEP_S = 5.0
STOP_GRACE_S = 6.0  # what a job under way may still take after a stop signal; container engines wait ten seconds
WEBHOOK_TRIES = 3
WEBHOOK_WAIT_S = 10.0
WEBHOOK_TIMEOUT_S = 30.0
SAVE_TRIES = 30
SAVE_WAIT_S = 1.0
CANCEL_TRIES = 100
CANCEL_WAIT_S = 0.02
STREAMED = 256

log = logging.getLogger(__name__)


@dataclass
class UnderWay:
    """A job on the worker."""

    deadline: Deadline
    progress: Progress | None = None
    unread: collections.deque[Progress] = field(default_factory=lambda: collections.deque(maxlen=STREAMED))


class Dispatcher:
    """One worker behind the job store. Its methods belong to one event loop."""

    def __init__(
        self, store: JobStore, runner: Runner, pictures: PictureFolder, settings: Settings, metrics: Metrics
    ) -> None:
        self._store = store
        self._runner = runner
        self._pictures = pictures
        self._settings = settings
        self._metrics = metrics
        self._waiting: collections.defaultdict[str, set[asyncio.Future[None]]] = collections.defaultdict(set)
        self._under_way: dict[str, UnderWay] = {}
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._is_over = asyncio.Event()
        self._lost: set[str] = set()
        self._webhooks: dict[str, asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Takes jobs while the block lasts.

        At its end the job under way may still finish within STOP_GRACE_S; else it waits again, for
        the next start.
        """
        loops = [asyncio.create_task(loop()) for loop in (self._take_jobs, self._sweep, self._start_webhooks)]
        for task in loops:
            task.add_done_callback(_report)
        try:
            yield
        finally:
            self.stop()
            _, slow = await asyncio.wait(loops, timeout=STOP_GRACE_S)
            for under_way in self._under_way.values():
                under_way.deadline.cancel()
            if slow:
                await asyncio.wait(slow)
            for task in self._webhooks.values():
                task.cancel()
            await asyncio.gather(*self._webhooks.values(), return_exceptions=True)

    def stop(self) -> None:
        """Takes no more jobs; whoever waits is told how far the job is."""
        for event in (self._stopping, self._wake, self._is_over):
            event.set()
        for job_id in list(self._waiting):
            self._tell(job_id)

    @property
    def is_stopping(self) -> bool:
        """Whether no more jobs are taken."""
        return self._stopping.is_set()

    @property
    def is_busy(self) -> bool:
        """Whether a job is under way."""
        return bool(self._under_way)

    async def submit(self, request: JobRequest, keep_s: float, prefix: str = "") -> str:
        """Returns the id of a job that now waits and will not be lost.

        Raises:
            QueueFull, StorageUnavailable: it was not accepted.
        """
        job_id = f"{prefix}{uuid.uuid4()}"
        await asyncio.to_thread(self._store.add, job_id, request, keep_s)
        self._metrics.accepted.inc()
        self._wake.set()
        return job_id

    async def wait(self, job_id: str, timeout_s: float) -> Record | None:
        """Returns the job when it is over, or as it is after `timeout_s` or when the server stops.

        Raises:
            StorageUnavailable: the job is over, but how it ended could not be stored.
        """
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[job_id].add(told)
        try:
            record = await asyncio.to_thread(self._store.get, job_id)
            if job_id not in self._lost and record and not record.status.is_final and not self._stopping.is_set():
                await asyncio.wait([told], timeout=timeout_s)
                record = await asyncio.to_thread(self._store.get, job_id)
            if job_id in self._lost:
                raise StorageUnavailable("the result of this job could not be stored, it runs again at the next start")
            return record
        finally:
            self._waiting[job_id].discard(told)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def cancel(self, job_id: str) -> None:
        """Cancels a job that waits or is under way; one that is over stays as it is."""
        for _ in range(CANCEL_TRIES):
            if await asyncio.to_thread(self._store.cancel_waiting, job_id):
                self._over(job_id, Status.CANCELLED)
                return
            if under_way := self._under_way.get(job_id):
                under_way.deadline.cancel()
                return
            record = await asyncio.to_thread(self._store.get, job_id)
            if record is None or record.status.is_final:
                return
            await asyncio.sleep(CANCEL_WAIT_S)  # it is just being taken

    async def purge(self) -> int:
        """Cancels all jobs that wait, and returns how many these were."""
        ids = await asyncio.to_thread(self._store.purge)
        for job_id in ids:
            self._over(job_id, Status.CANCELLED)
        return len(ids)

    async def retry(self, job_id: str) -> bool:
        """Returns whether the job had failed or timed out, and now waits again."""
        again = await asyncio.to_thread(self._store.retry, job_id)
        self._wake.set()
        return again

    def progress(self, job_id: str) -> Progress | None:
        """Returns how far the job is that is under way."""
        under_way = self._under_way.get(job_id)
        return under_way.progress if under_way else None

    def unread(self, job_id: str) -> list[Progress]:
        """Returns the job's progress since this was last asked."""
        under_way = self._under_way.get(job_id)
        if under_way is None:
            return []
        unread = list(under_way.unread)
        under_way.unread.clear()
        return unread

    def describe(self, record: Record) -> dict[str, Any]:
        """Returns a job in the shape of RunPod's API, times in ms.

        Raises:
            NotFound: its picture is no longer kept.
        """
        times = {"delayTime": record.delay_ms, "executionTime": record.execution_ms}
        described: dict[str, Any] = {"id": record.id, "status": str(record.status)}
        described |= {name: value for name, value in times.items() if value is not None}
        if record.status is Status.COMPLETED:
            described["output"] = self._reply(record)
        elif record.status.is_final:
            described["error"] = (record.outcome or CANCELLED)["error"]
        elif progress := self.progress(record.id):
            described["output"] = step(progress)
        return described

    def _reply(self, record: Record) -> dict[str, Any]:
        outcome = Outcome.from_json(record.outcome or {})
        png = None if outcome.url is not None else self._pictures.read(outcome.filename)
        if png is None and outcome.url is None:
            raise NotFound("the picture of this job is no longer kept")
        return reply.build(outcome, png, self._settings.reply_limit_bytes)

    async def _take_jobs(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                record = await asyncio.to_thread(self._store.take)
            except StorageUnavailable as exc:
                log.error("no job can be taken", extra={"reason": exc.message})  # noqa: TRY400
                record = None
            if record is not None:
                await self._run(record)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), IDLE_S)

    async def _run(self, record: Record) -> None:
        limits = [self._settings.job_timeout_s, record.ends_s - time.time()]
        if record.request.execution_timeout_s is not None:
            limits.append(record.request.execution_timeout_s)
        under_way = self._under_way[record.id] = UnderWay(Deadline(max(0.0, min(limits))))
        try:
            outcome = await asyncio.to_thread(self._attempt, record, under_way)
            status = _status(outcome)
            if status is Status.CANCELLED and self._stopping.is_set():
                await asyncio.to_thread(self._store.put_back, record.id)
                log.info("job waits for the next start", extra={"job_id": record.id})
                return
            facts = {"error": str(outcome)} if isinstance(outcome, GenerationError) else outcome
            await self._save(record.id, status, facts)
        finally:
            del self._under_way[record.id]
        self._over(record.id, status)

    def _attempt(self, record: Record, under_way: UnderWay) -> dict[str, Any] | GenerationError:
        def show(run: Run) -> None:
            if run.progress is not None and run.progress != under_way.progress:
                under_way.progress = run.progress
                under_way.unread.append(run.progress)

        try:
            with reported(record.id):
                job = Job(record.id, self._runner.parse(record.request.input), record.request.s3_config)
                picture, outcome = self._runner.run(job, under_way.deadline, show)
                reply.check_size(outcome, picture.png, self._settings.reply_limit_bytes)
                if outcome.url is None:
                    self._pictures.put(picture.filename, picture.png)
        except GenerationError as exc:
            return exc
        self._metrics.observe(picture.info["seconds"])
        return outcome.to_json()

    async def _save(self, job_id: str, status: Status, outcome: dict[str, Any]) -> None:
        """Notes how a job ended, for as long as it takes a full disk to have room again, but no longer than that."""
        for _ in range(SAVE_TRIES):
            try:
                await asyncio.to_thread(self._store.finish, job_id, status, outcome)
            except StorageUnavailable as exc:
                log.error("result not stored yet", extra={"job_id": job_id, "reason": exc.message})  # noqa: TRY400
                await asyncio.sleep(SAVE_WAIT_S)
            else:
                return
        self._lost.add(job_id)
        log.critical("result lost, the job runs again at the next start", extra={"job_id": job_id})

    def _over(self, job_id: str, status: Status) -> None:
        self._metrics.finished.labels(status.lower()).inc()
        self._tell(job_id)
        self._wake.set()
        self._is_over.set()

    def _tell(self, job_id: str) -> None:
        for told in self._waiting.get(job_id, ()):
            if not told.done():
                told.set_result(None)

    async def _sweep(self) -> None:
        """Removes what is over its time, in the job file and in the folder of pictures."""
        while not self._stopping.is_set():
            settings = self._settings
            try:
                for job_id in await asyncio.to_thread(self._store.expire, settings.results_limit_bytes):
                    self._over(job_id, Status.TIMED_OUT)
                await asyncio.to_thread(self._pictures.expire, settings.pictures_keep_s, settings.pictures_limit_bytes)
            except (StorageUnavailable, OSError) as exc:
                log.error("nothing can be removed", extra={"reason": str(exc)})  # noqa: TRY400
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), SWEEP_S)

    async def _start_webhooks(self) -> None:
        while not self._stopping.is_set():
            self._is_over.clear()
            with contextlib.suppress(StorageUnavailable):  # the sweep says so
                for record in await asyncio.to_thread(self._store.due_webhooks):
                    if record.id not in self._webhooks:
                        self._webhooks[record.id] = asyncio.create_task(self._tell_webhook(record))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_over.wait(), SWEEP_S)

    async def _tell_webhook(self, record: Record) -> None:
        """Posts the job to its webhook, which must answer 200; after WEBHOOK_TRIES that is that."""
        tries = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(WEBHOOK_TRIES),
            wait=tenacity.wait_fixed(WEBHOOK_WAIT_S),
            retry=tenacity.retry_if_exception_type(httpx.HTTPError),
            reraise=True,
        )
        try:
            described = await asyncio.to_thread(self.describe, record)
            async with httpx.AsyncClient(timeout=WEBHOOK_TIMEOUT_S) as client:
                async for attempt in tries:
                    with attempt:
                        await _post(client, str(record.request.webhook), described)
        except (httpx.HTTPError, httpx.InvalidURL, NotFound) as exc:
            log.warning("webhook not told", extra={"job_id": record.id, "reason": type(exc).__name__})
        try:
            await asyncio.to_thread(self._store.webhook_done, record.id)
        except StorageUnavailable as exc:
            log.error("webhook may be told again", extra={"job_id": record.id, "reason": exc.message})  # noqa: TRY400
        else:
            del self._webhooks[record.id]


async def _post(client: httpx.AsyncClient, address: str, described: dict[str, Any]) -> None:
    answer = await client.post(address, json=described)
    if answer.status_code != 200:
        raise httpx.HTTPError(f"it answered {answer.status_code}")


def step(progress: Progress) -> dict[str, int]:
    """Returns progress as callers see it."""
    return {"step": progress.value, "steps": progress.maximum}


def _status(outcome: dict[str, Any] | GenerationError) -> Status:
    match outcome:
        case JobCancelled():
            return Status.CANCELLED
        case JobTimeout():
            return Status.TIMED_OUT
        case GenerationError():
            return Status.FAILED
    return Status.COMPLETED


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (exc := task.exception()):
        log.critical("a loop of the server ended", exc_info=exc)
