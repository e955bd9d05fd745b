"""The progress of a job as it happens."""

import asyncio
from collections.abc import AsyncIterator

from handler.job.progress import JobProgress, Stage
from handler.server import job_list
from handler.server.job_record import JobRecord
from handler.server.job_status import progress_of
from handler.server.protocol import Progress
from handler.server.service import Service

POLL_S = 0.25  # in memory
QUEUE_POLLS = 4  # between two looks at the queue, which is on disk


async def changes(service: Service, job_id: str) -> AsyncIterator[Progress | JobRecord]:
    """Yields each change of a job's progress, and the job when it has finished; ends when the server stops.

    Raises:
        NotFound: the id is unknown, or the result has expired.
        StorageUnavailable: the job has finished, but its result could not be stored.
    """
    finished = asyncio.create_task(service.dispatcher.wait(job_id))
    last: Progress | None = None
    polls = 0
    try:
        while not finished.done():
            progress = last
            running = service.dispatcher.running_job(job_id)
            if running is not None:
                progress = progress_of(running.progress)
            elif polls % QUEUE_POLLS == 0:
                position = await asyncio.to_thread(job_list.position, service.store.database, job_id)
                if position is not None:
                    progress = Progress(stage=Stage.QUEUED, position=position)
            polls += 1
            if progress is not None and progress != last:
                last = progress
                yield progress
            await asyncio.wait([finished], timeout=POLL_S)
        record = finished.result()
        if record.status.is_final:
            yield record
    finally:
        finished.cancel()


async def unread(service: Service, job_id: str, wait_s: float) -> list[JobProgress]:
    """Returns a job's progress since the last call, as soon as there is some.

    The list is empty after `wait_s`, or if the job has finished.

    Raises:
        NotFound: the id is unknown, or the result has expired.
        StorageUnavailable: the job has finished, but its result could not be stored.
    """
    finished = asyncio.create_task(service.dispatcher.wait(job_id, wait_s))
    try:
        while True:
            running = service.dispatcher.running_job(job_id)
            found = running.read_progress() if running is not None else []
            if found:
                return found
            if finished.done():
                finished.result()
                return []
            await asyncio.wait([finished], timeout=POLL_S)
    finally:
        finished.cancel()
