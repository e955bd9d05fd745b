"""Deletes what has expired."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

from handler.errors import JobTimeout, StorageUnavailable
from handler.server import kept_pictures
from handler.server.job_record import AWAITED, Status
from handler.server.job_store import CANCELLED, JobStore
from handler.server.picture_store import PictureStore
from handler.settings import Settings

CLEANUP_S = 5.0

log = logging.getLogger(__name__)


async def clean_up(
    store: JobStore, pictures: PictureStore, settings: Settings, on_timed_out: Callable[[str], None]
) -> None:
    """Deletes expired results and pictures every CLEANUP_S, until it is cancelled.

    Args:
        on_timed_out: called with the id of each job that was queued longer than its time to live.
    """
    while True:
        await asyncio.to_thread(expire_pictures, pictures, settings)
        with _logged("kept pictures"):
            await asyncio.to_thread(kept_pictures.delete_unneeded, store.database, pictures)
        with _logged("results"):
            for job_id in await asyncio.to_thread(store.expire, settings.results_limit_bytes):
                log.warning(
                    "job failed", extra={"job_id": job_id, "code": JobTimeout.code, "reason": "queued too long"}
                )
                on_timed_out(job_id)
        await asyncio.sleep(CLEANUP_S)


def expire_pictures(pictures: PictureStore, settings: Settings) -> None:
    """Deletes expired pictures. Comes before anything else: it needs no room on a full disk, and the job store does."""
    with _logged("pictures"):
        pictures.expire(settings.pictures_keep_s, settings.pictures_limit_bytes)


def delete_unnamed(store: JobStore, pictures: PictureStore) -> None:
    """Deletes the picture that was written, but not yet stored with its job, when the last program died."""
    if store.interrupted_s is not None:  # no other job has run since
        with _logged("pictures"):
            pictures.delete_since(store.interrupted_s, kept_pictures.filenames(store.database))


def cancel_abandoned(store: JobStore) -> None:
    """Cancels the jobs of requests that waited when the last program died, because their callers are gone."""
    with _logged("abandoned jobs"):
        with store.database.transaction() as db:
            rows = db.execute("SELECT id FROM jobs WHERE id GLOB ? AND status = ?", (f"{AWAITED}*", Status.IN_QUEUE))
            ids = [row["id"] for row in rows]
        for job_id in ids:
            store.fail(job_id, CANCELLED)
            log.info("job cancelled, its caller is gone", extra={"job_id": job_id})


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    try:
        yield
    except (StorageUnavailable, OSError) as exc:
        log.error("cleanup failed", extra={"what": what, "reason": str(exc)})  # noqa: TRY400
