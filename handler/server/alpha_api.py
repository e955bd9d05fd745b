"""The alpha API: one request, one response, and the picture under its own URL."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi import Path as UrlPart
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from handler.errors import GenerationError
from handler.job import reply
from handler.job.formats import MEDIA_TYPES, media_type
from handler.job.picture import Outcome
from handler.server import events, job_list
from handler.server.errors import NotFound
from handler.server.job_record import JobRecord, Status
from handler.server.openapi import GENERAL, SUBMITTING, Docs, error_docs, json_body
from handler.server.protocol import FILENAME, INPUT, JobDone, JobId, Progress, Txt2ImgReply
from handler.server.request_body import JsonObjectOf
from handler.server.service import Service, ServiceOf
from handler.server.waiting import draw, picture_url

YEAR_S = 31_536_000

TXT2IMG_BODY = json_body({"type": "object"}, {"a picture": INPUT})
PICTURE = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()}
FILE_DOCS: Docs = {
    200: {"description": "the picture", "content": PICTURE},
    206: {"description": "the bytes that `Range` asks for", "content": PICTURE},
    304: {"description": "the caller already has the picture (`If-None-Match`)"},
    416: {"description": "`Range` is outside the picture"},
}

EVENT_DOCS: Docs = error_docs(*GENERAL, NotFound)

router = APIRouter()


async def _job(service: ServiceOf, job_id: JobId) -> JobRecord:
    """Finds the job before the response begins, so that an unknown one is an error."""
    return await asyncio.to_thread(service.store.get, job_id)


Filename = Annotated[str, UrlPart(description="the picture's name, from a reply", examples=[FILENAME])]
JobOf = Annotated[JobRecord, Depends(_job)]


@router.post(
    "/txt2img",
    openapi_extra=TXT2IMG_BODY,
    responses=error_docs(*SUBMITTING, *GenerationError.__subclasses__()),
    response_model_exclude_none=True,
)
async def txt2img(service: ServiceOf, request: Request, body: JsonObjectOf) -> Txt2ImgReply:
    """Generates pictures and responds with their URLs. Closing the connection cancels the job."""
    return _reply(service, request, await draw(service, request, body))


@router.get("/jobs/{job_id}/events", response_class=EventSourceResponse, responses=EVENT_DOCS)
async def job_events(service: ServiceOf, request: Request, record: JobOf) -> AsyncIterator[ServerSentEvent]:
    """A job's progress as server-sent events: `progress` with each change, and `done` when it has finished."""
    async for change in events.changes(service, record.id):
        if isinstance(change, Progress):
            yield ServerSentEvent(event="progress", data=change.model_dump(mode="json", exclude_none=True))
        else:
            outcome = change.outcome
            done = JobDone(
                status=change.status,
                error=change.error,
                output=None if outcome is None else _reply(service, request, outcome),
            )
            yield ServerSentEvent(event="done", data=done.model_dump(mode="json", exclude_none=True))


def _reply(service: Service, request: Request, outcome: Outcome) -> Txt2ImgReply:
    first = outcome.first
    urls = [picture_url(service, request, picture) for picture in outcome.pictures]
    images = [{"url": url} | reply.picture_entry(each) for url, each in zip(urls, outcome.pictures, strict=True)]
    return Txt2ImgReply(
        url=urls[0],
        filename=first.filename,
        info=json.dumps(first.info),
        images=images if outcome.is_list else None,
        missing=[reply.missing_entry(each) for each in outcome.missing] or None,
        **first.random_values,
    )


@router.get("/jobs", responses=error_docs(*GENERAL))
async def jobs(
    service: ServiceOf, status: Status | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 20
) -> job_list.JobList:
    """The jobs that were submitted last, newest first, without their results."""
    return await asyncio.to_thread(job_list.newest, service.store.database, limit, status)


@router.head("/file/{filename}", include_in_schema=False)
@router.get("/file/{filename}", response_class=Response, responses=FILE_DOCS | error_docs(*GENERAL, NotFound))
async def file(service: ServiceOf, request: Request, filename: Filename) -> Response:
    """A picture that /txt2img or a job has generated."""
    found = await asyncio.to_thread(service.pictures.find, filename)
    if found is None:
        raise NotFound("unknown filename or expired picture")
    response = FileResponse(found.path, media_type=media_type(filename), stat_result=found.stat)
    visibility = "private" if service.settings.keys() else "public"
    response.headers["Cache-Control"] = f"{visibility}, max-age={YEAR_S}, immutable"
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if response.headers["etag"] in known or "*" in known:
        kept = {name: response.headers[name] for name in ("etag", "cache-control", "last-modified")}
        return Response(status_code=304, headers=kept)
    return response
