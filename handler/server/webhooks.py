"""Posts finished jobs to the webhooks that their callers named."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

import httpx
import tenacity

from handler import proxies
from handler.errors import GenerationError, StorageUnavailable
from handler.job.reply import Shape
from handler.server import background
from handler.server.background import Background
from handler.server.errors import NotFound
from handler.server.job_record import JobRecord
from handler.server.job_status import status_of
from handler.server.job_store import JobStore
from handler.server.picture_store import PictureStore
from handler.server.signing import WebhookSigner
from handler.settings import Settings

WEBHOOK_TRIES = 3
WEBHOOK_WAIT_S = 10.0
WEBHOOK_TIMEOUT_S = 30.0  # from the name's resolution to the status
POSTS_AT_ONCE = 8  # each has a picture in memory
STORAGE_RETRY_S = 5.0

log = logging.getLogger(__name__)


class Webhooks:
    """Posts the webhooks that are due in the job store. Its methods belong to one event loop."""

    def __init__(self, store: JobStore, pictures: PictureStore, settings: Settings) -> None:
        self._store = store
        self._pictures = pictures
        self._shape = Shape.of(settings)
        self._signer = WebhookSigner.of(settings)
        self._job_finished = asyncio.Event()
        self._posts: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(POSTS_AT_ONCE)

    def job_finished(self) -> None:
        """Looks for due webhooks, because a job has finished."""
        self._job_finished.set()

    @contextlib.asynccontextmanager
    async def running(self, background: Background) -> AsyncIterator[None]:
        """Posts webhooks during the block. Those that are not done at its end remain due for the next start."""
        loop = background.start(self._post_due())
        try:
            yield
        finally:
            tasks = [loop, *self._posts.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _post_due(self) -> None:
        while True:
            self._job_finished.clear()
            try:
                due = await asyncio.to_thread(self._store.due_webhooks)
            except StorageUnavailable as exc:
                log.error("cannot read due webhooks", extra={"reason": exc.message})  # noqa: TRY400
                await asyncio.sleep(STORAGE_RETRY_S)
                continue
            for record in due:
                if record.id not in self._posts:
                    self._posts[record.id] = background.start(self._post(record))
            await self._job_finished.wait()

    async def _post(self, record: JobRecord) -> None:
        """Posts the job until the webhook responds with 200; gives up after WEBHOOK_TRIES attempts."""
        tries = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(WEBHOOK_TRIES),
            wait=tenacity.wait_fixed(WEBHOOK_WAIT_S),
            retry=tenacity.retry_if_exception_type(httpx.HTTPError),
            reraise=True,
        )
        try:
            async with proxies.async_client(timeout=WEBHOOK_TIMEOUT_S) as client:
                async for attempt in tries:
                    with attempt:
                        async with self._slots:
                            await self._post_once(client, record)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, proxies.BadProxy, NotFound, GenerationError) as exc:
            reason = f"{type(exc).__name__}: {exc}".removesuffix(": ")
            log.warning("webhook failed", extra={"job_id": record.id, "reason": reason})
        try:
            await asyncio.to_thread(self._store.webhook_done, record)
        except StorageUnavailable as exc:
            log.error("webhook may be sent again", extra={"job_id": record.id, "reason": exc.message})  # noqa: TRY400
            del self._posts[record.id]
        else:
            del self._posts[record.id]
            self._job_finished.set()  # it may have been retried, and have another result by now

    async def _post_once(self, client: httpx.AsyncClient, record: JobRecord) -> None:
        """Posts the job and reads only the response's status; raises httpx.HTTPError if that is not 200."""
        job = await asyncio.to_thread(status_of, record, self._pictures, self._shape)
        body = job.model_dump_json(by_alias=True, exclude_none=True).encode()
        # A job that is retried has another result, so it is another message.
        message_id = f"{record.id}-{int(1000 * (record.finished_s or 0))}"
        headers = {"Content-Type": "application/json", **self._signer.headers(message_id, body, time.time())}
        try:
            async with (
                asyncio.timeout(WEBHOOK_TIMEOUT_S),
                client.stream("POST", str(record.request.webhook), content=body, headers=headers) as response,
            ):
                status = response.status_code
        except TimeoutError as exc:
            raise httpx.TimeoutException(f"no status within {WEBHOOK_TIMEOUT_S:g} s") from exc
        if status != 200:
            raise httpx.HTTPError(f"status {status}")
