"""The alpha API: one request, one response, and the picture under its own URL."""

import asyncio
import json

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from handler.errors import ComfyUnavailable, GenerationError, JobCancelled
from handler.job.formats import MEDIA_TYPES, media_type
from handler.server.dispatcher import Dispatcher
from handler.server.errors import JobFailed, NotFound
from handler.server.job_record import JobRecord, JobRequest
from handler.server.openapi import GENERAL, SUBMITTING, Docs, error_docs, json_body
from handler.server.protocol import INPUT, Txt2ImgReply
from handler.server.request_body import JsonObjectOf
from handler.server.service import Service, ServiceOf

KEEP_S = 60.0
TTL_S = 3600.0
YEAR_S = 31_536_000

TXT2IMG_BODY = json_body({"type": "object"}, {"a picture": INPUT})
PICTURE = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()}
FILE_DOCS: Docs = {
    200: {"description": "the picture", "content": PICTURE},
    206: {"description": "the bytes that `Range` asks for", "content": PICTURE},
    304: {"description": "the caller already has the picture (`If-None-Match`)"},
    416: {"description": "`Range` is outside the picture"},
}

router = APIRouter()


@router.post(
    "/txt2img", openapi_extra=TXT2IMG_BODY, responses=error_docs(*SUBMITTING, *GenerationError.__subclasses__())
)
async def txt2img(service: ServiceOf, request: Request, body: JsonObjectOf) -> Txt2ImgReply:
    """Generates a picture and responds with its URL. Closing the connection cancels the job."""
    if (error := service.readiness.error) is not None:
        raise error
    job = JobRequest(body, ttl_s=TTL_S, is_sent_as_base64=False)
    job_id = await service.dispatcher.submit(job, KEEP_S, "alpha-")
    request.state.job_id = job_id
    record = await _wait(service.dispatcher, job_id, request)
    if not record.status.is_final:
        await service.dispatcher.cancel(job_id)
        raise ComfyUnavailable("the server is shutting down, retry the request")
    outcome = record.outcome
    if outcome is None:
        raise JobFailed(record.error or "")
    url = outcome.url or f"{_base_url(request, service)}/alpha/v1/file/{outcome.filename}"
    return Txt2ImgReply(url=url, filename=outcome.filename, info=json.dumps(outcome.info), **outcome.random_values)


@router.head("/file/{filename}", include_in_schema=False)
@router.get("/file/{filename}", response_class=Response, responses=FILE_DOCS | error_docs(*GENERAL, NotFound))
async def file(service: ServiceOf, request: Request, filename: str) -> Response:
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


def _base_url(request: Request, service: Service) -> str:
    return str(service.settings.public_url or request.base_url).rstrip("/")
