"""Draws pictures for a request that waits for them."""

import asyncio
from typing import Any

from fastapi import Request

from handler.errors import ComfyUnavailable, JobCancelled
from handler.job.picture import Outcome, PictureFacts
from handler.server.access import FILES_PATH
from handler.server.dispatcher import Dispatcher
from handler.server.errors import JobFailed
from handler.server.job_record import AWAITED, JobRecord, JobRequest
from handler.server.service import Service

KEEP_S = 60.0
TTL_S = 3600.0


async def draw(service: Service, request: Request, job_input: dict[str, Any]) -> Outcome:
    """Returns how the job ended. Closing the connection cancels it.

    Raises:
        JobFailed, LayerdiffuseError: no picture could be drawn; the message says why.
    """
    if (error := service.readiness.error) is not None:
        raise error
    job = JobRequest(job_input, ttl_s=TTL_S, is_sent_as_base64=False)
    job_id = await service.dispatcher.submit(job, KEEP_S, AWAITED)
    request.state.job_id = job_id
    record = await _wait(service.dispatcher, job_id, request)
    if not record.status.is_final:
        await service.dispatcher.cancel(job_id)
        raise ComfyUnavailable("the server is shutting down, retry the request")
    if record.outcome is None:
        raise JobFailed(record.error or "")
    return record.outcome


def picture_url(service: Service, request: Request, picture: PictureFacts) -> str:
    """Returns the URL of a picture in its bucket, or on this server, signed if others need a key."""
    if picture.url is not None:
        return picture.url
    base = str(service.settings.public_url or request.base_url).rstrip("/")
    query = f"?{service.signer.query(picture.filename)}" if service.settings.keys() else ""
    return f"{base}{FILES_PATH}{picture.filename}{query}"


async def _wait(dispatcher: Dispatcher, job_id: str, request: Request) -> JobRecord:
    """Returns the job when it has finished or the server stops.

    Raises:
        JobCancelled: the client disconnected, and the job was cancelled.
    """
    finished = asyncio.create_task(dispatcher.wait(job_id))
    disconnected = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait([finished, disconnected], return_when=asyncio.FIRST_COMPLETED)
        if finished.done():
            return finished.result()
    finally:
        finished.cancel()
        disconnected.cancel()
    await dispatcher.cancel(job_id)
    raise JobCancelled("client disconnected")


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
