"""Stores how jobs ended, also if the disk is full for a while."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from handler.errors import ComfyCrashed, ComfyUnavailable, GenerationError, JobCancelled, JobTimeout, StorageUnavailable
from handler.job.picture import Outcome
from handler.server import kept_pictures
from handler.server.job_store import CANCELLED, JobStore
from handler.server.kept_pictures import KeptPictures
from handler.server.picture_store import PictureStore
from handler.server.running_job import RunningJob

STORAGE_RETRY_S = 1.0
ENDS_WITH_US = (JobCancelled, ComfyCrashed, ComfyUnavailable)  # while the server stops, these are not failures

log = logging.getLogger(__name__)


class Results:
    """Stores the result of one job at a time. Its methods belong to one event loop."""

    def __init__(self, store: JobStore, pictures: PictureStore, stopping: asyncio.Event) -> None:
        """`stopping`: set when the server stops."""
        self._store = store
        self._pictures = pictures
        self._stopping = stopping
        self._unsaved_id: str | None = None

    def check(self, job_id: str) -> None:
        """Raises StorageUnavailable if the job has failed, and not even that could be stored yet."""
        if job_id == self._unsaved_id:
            raise StorageUnavailable("the result of this job could not be stored")

    def keeper(self, job_id: str) -> KeptPictures:
        """Returns what keeps the finished pictures of a job until it ends."""
        return KeptPictures(self._store.database, self._pictures, job_id)

    async def complete(self, running: RunningJob, encoded: Sequence[bytes | None], outcome: Outcome) -> None:
        """Stores a result; while there is no room for it, it waits in memory.

        Args:
            running: the job.
            encoded: its pictures; None for those that are in a bucket.
            outcome: how it ended.

        Raises:
            StorageUnavailable: there was no room until the job's deadline.
            JobCancelled: the job was cancelled meanwhile.
        """
        while True:
            try:
                return await asyncio.to_thread(self._complete, running, encoded, outcome)
            except StorageUnavailable as exc:
                error = exc
            log.error("result not stored yet", extra={"job_id": running.id, "reason": error.message})
            try:
                await asyncio.to_thread(running.deadline.sleep, STORAGE_RETRY_S)
            except (JobTimeout, JobCancelled) as exc:
                await asyncio.to_thread(self._delete, outcome)
                raise (error if isinstance(exc, JobTimeout) else exc) from None

    async def fail(self, job_id: str, error: GenerationError, on_unsaved: Callable[[], None]) -> None:
        """Stores why a job has no result, as soon as there is room, or until the server stops.

        Args:
            on_unsaved: called while there is no room.
        """
        while True:
            try:
                await asyncio.to_thread(self._fail, job_id, error)
            except StorageUnavailable as exc:
                log.error("failure not stored yet", extra={"job_id": job_id, "reason": exc.message})  # noqa: TRY400
            else:
                self._unsaved_id = None
                return
            self._unsaved_id = job_id
            on_unsaved()
            if self._stopping.is_set():
                log.critical("result lost, the job runs again at the next start", extra={"job_id": job_id})
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), STORAGE_RETRY_S)

    async def put_back(self, job_id: str) -> bool:
        """Queues a running job again, and returns whether it is; it then runs later, or after the next start."""
        try:
            await asyncio.to_thread(self._store.put_back, job_id)
        except StorageUnavailable as exc:
            log.error("job not queued again", extra={"job_id": job_id, "reason": exc.message})  # noqa: TRY400
            return self._stopping.is_set()  # the next start queues it all the same, as its second attempt
        log.info("job queued again", extra={"job_id": job_id})
        return True

    def _fail(self, job_id: str, error: GenerationError) -> None:
        self._store.fail(job_id, error)
        with contextlib.suppress(StorageUnavailable):  # the cleanup tries again
            kept_pictures.delete_unneeded(self._store.database, self._pictures)

    def _complete(self, running: RunningJob, encoded: Sequence[bytes | None], outcome: Outcome) -> None:
        for picture, content in zip(outcome.pictures, encoded, strict=True):
            if content is not None and self._pictures.find(picture.filename) is None:  # kept ones are there
                self._pictures.put(picture.filename, content)
        if running.is_cancelled or not self._store.complete(running.id, outcome):
            self._delete(outcome)
            raise CANCELLED

    def _delete(self, outcome: Outcome) -> None:
        for picture in outcome.pictures:
            self._pictures.delete(picture.filename)
