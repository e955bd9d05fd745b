"""The HTTP boundary: RunPod's job API, the alpha API, the page. Translates, never decides."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi import Path as UrlPart
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi_offline import FastAPIOffline

import handler
from handler.errors import ComfyUnavailable, Conflict, GenerationError, JobCancelled, NotFound
from handler.server import body, openapi, refusals
from handler.server.access import LOOPBACK, HostCheck, KeyCheck, is_loopback
from handler.server.dispatcher import Dispatcher, step
from handler.server.job_store import JobRequest, JobStore, Record, Status
from handler.server.metrics import Metrics
from handler.server.picture_store import PictureFolder
from handler.settings import Settings

PAGE = Path(__file__).with_name("page.html")
SYNC_KEEP_S = 60.0  # RunPod's
WAIT_MS = 90_000
WAIT_LIMIT_MS = 300_000
ALPHA_TTL_S = 3600.0
DISCONNECT_POLL_S = 0.5
YEAR_S = 31_536_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """What the routes stand on.

    Attributes:
        check: raises InvalidInput where a job's input is not one.
        prepare: starts ComfyUI and loads the models; runs in a thread of its own.
        stop: ends ComfyUI.
    """

    settings: Settings
    dispatcher: Dispatcher
    store: JobStore
    pictures: PictureFolder
    metrics: Metrics
    check: Callable[[object], object]
    prepare: Callable[[], None]
    stop: Callable[[], None]
    input_schema: dict[str, Any]


def make_app(service: Service) -> FastAPI:
    """Returns the ASGI application; its lifespan takes jobs and ends ComfyUI."""
    settings = service.settings

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.dispatcher.running():
            warming = asyncio.create_task(_warm(app, service))
            yield
            service.dispatcher.stop()
            warming.cancel()
        await asyncio.to_thread(service.stop)

    app = FastAPIOffline(
        title="layerdiffuse-alpha",
        version=handler.__version__,
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_parameters={"defaultModelsExpandDepth": -1},
    )
    app.state.service = service
    app.state.ping_status = 204
    app.include_router(jobs, prefix="/v2/{endpoint}", tags=["RunPod's job API"])
    app.include_router(alpha, prefix="/alpha/v1", tags=["alpha API"])
    app.include_router(operations, tags=["operations"])
    refusals.install(app)
    openapi.install(app, service.input_schema)
    keys = settings.keys()
    if keys:
        app.add_middleware(KeyCheck, keys=keys)
    elif is_loopback(settings.listen_host):
        own = [settings.public_url.host] if settings.public_url and settings.public_url.host else []
        app.add_middleware(HostCheck, names=[*LOOPBACK, *own])
    return app


async def _warm(app: FastAPI, service: Service) -> None:
    try:
        await asyncio.to_thread(service.prepare)
    except GenerationError as exc:
        log.error("not ready for jobs", extra={"code": exc.code, "reason": exc.message})  # noqa: TRY400
        app.state.ping_status = 503
    else:
        app.state.ping_status = 200


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(_service)]
BodyOf = Annotated[dict[str, Any], Depends(body.read)]
RequestOf = Annotated[JobRequest, Depends(body.job_request)]


def _endpoint(endpoint: Annotated[str, UrlPart(description="any name", examples=["local"])]) -> None:
    """Lets /docs show the name that a client of RunPod puts there; this server has one endpoint, whatever its name."""


jobs = APIRouter(dependencies=[Depends(_endpoint)])
alpha = APIRouter()
operations = APIRouter()


@jobs.post("/run", **openapi.RUN)
async def run(service: ServiceOf, request: RequestOf) -> Response:
    """Accepts a job and answers at once with its id; ask for the result at /status."""
    job_id = await service.dispatcher.submit(request, service.settings.results_keep_s)
    return JSONResponse({"id": job_id, "status": Status.IN_QUEUE})


@jobs.post("/runsync", **openapi.RUNSYNC)
async def runsync(
    service: ServiceOf, request: RequestOf, wait: Annotated[int, Query(ge=1000, le=WAIT_LIMIT_MS)] = WAIT_MS
) -> Response:
    """Accepts a job and answers when it is over, or after `wait` ms with its status; ask at /status then."""
    job_id = await service.dispatcher.submit(request, SYNC_KEEP_S, "sync-")
    record = await service.dispatcher.wait(job_id, wait / 1000)
    return await _described(service, record)


@jobs.get("/status/{job_id}", **openapi.STATUS)
async def status(service: ServiceOf, job_id: str) -> Response:
    """How a job stands: its result when it is over; while it runs, `output` says which step it is at."""
    return await _described(service, await _find(service, job_id))


@jobs.get("/stream/{job_id}", **openapi.STREAM)
async def stream(service: ServiceOf, job_id: str) -> Response:
    """The steps that a running job has made since this was last asked. The result is at /status."""
    record = await _find(service, job_id)
    unread = [] if record.status.is_final else service.dispatcher.unread(job_id)
    return JSONResponse({"status": record.status, "stream": [{"output": step(progress)} for progress in unread]})


@jobs.post("/cancel/{job_id}", **openapi.CANCEL)
async def cancel(service: ServiceOf, job_id: str) -> Response:
    """Cancels a job that waits or runs. One that is over stays as it is, and the answer says so."""
    await _find(service, job_id)
    await service.dispatcher.cancel(job_id)
    record = await service.dispatcher.wait(job_id, service.settings.job_timeout_s) or await _find(service, job_id)
    return JSONResponse({"id": job_id, "status": record.status})


@jobs.post("/retry/{job_id}", **openapi.RETRY)
async def retry(service: ServiceOf, job_id: str) -> Response:
    """Runs a job again that has failed or timed out, under its old id."""
    record = await _find(service, job_id)
    if not await service.dispatcher.retry(job_id):
        raise Conflict(f"only a job that is FAILED or TIMED_OUT can be retried, this one is {record.status}")
    return JSONResponse({"id": job_id, "status": Status.IN_QUEUE})


@jobs.post("/purge-queue", **openapi.PURGE)
async def purge_queue(service: ServiceOf) -> Response:
    """Cancels all jobs that wait; the one that runs goes on."""
    return JSONResponse({"removed": await service.dispatcher.purge(), "status": "completed"})


@jobs.get("/health", **openapi.HEALTH)
async def health(service: ServiceOf) -> Response:
    """How many jobs are in which state, of those whose results are still kept, and what the worker does."""
    counts = await asyncio.to_thread(service.store.counts)
    retried = await asyncio.to_thread(service.store.retried)
    busy = service.dispatcher.is_busy
    return JSONResponse(
        {
            "jobs": {
                "completed": counts[Status.COMPLETED],
                "failed": counts[Status.FAILED] + counts[Status.TIMED_OUT],
                "inProgress": counts[Status.IN_PROGRESS],
                "inQueue": counts[Status.IN_QUEUE],
                "retried": retried,
            },
            "workers": {"idle": int(not busy), "running": int(busy)},
        }
    )


@alpha.post("/txt2img", **openapi.TXT2IMG)
async def txt2img(service: ServiceOf, request: Request, raw: BodyOf) -> Response:
    """Draws a picture and answers with its address. Whoever hangs up cancels the job."""
    service.check(raw)
    dispatcher = service.dispatcher
    job_id = await dispatcher.submit(JobRequest(raw, ttl_s=ALPHA_TTL_S), SYNC_KEEP_S, "alpha-")
    record = await _wait_for_caller(request, dispatcher, job_id)
    if record is None or not record.status.is_final:
        await dispatcher.cancel(job_id)
        raise ComfyUnavailable("the server stops, send the request again")
    outcome = record.outcome or {}
    if record.status is not Status.COMPLETED:
        return refusals.answer_to_failed(outcome["error"])
    url = outcome["url"] or f"{_base_url(request, service.settings)}/alpha/v1/file/{outcome['filename']}"
    facts = {"filename": outcome["filename"], **outcome["random_values"], "info": json.dumps(outcome["info"])}
    return JSONResponse({"url": url, **facts})


@alpha.head("/file/{filename}", include_in_schema=False)
@alpha.get("/file/{filename}", **openapi.FILE)
async def file(service: ServiceOf, request: Request, filename: str) -> Response:
    """A picture that /txt2img, or a job, has made."""
    found = await asyncio.to_thread(service.pictures.find, filename)
    if found is None:
        raise NotFound("no picture has this name, or it is no longer kept")
    answer = FileResponse(found.path, media_type="image/png", stat_result=found.stat)
    whose = "private" if service.settings.keys() else "public"
    answer.headers["Cache-Control"] = f"{whose}, max-age={YEAR_S}, immutable"
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if answer.headers["etag"] in known or "*" in known:
        kept = {name: answer.headers[name] for name in ("etag", "cache-control", "last-modified")}
        return Response(status_code=304, headers=kept)
    return answer


@operations.get("/ping", **openapi.PING)
async def ping(request: Request) -> Response:
    """Whether the worker is warm: 204 while it starts, 200 from then on, 503 where it could not start."""
    return Response(status_code=request.app.state.ping_status)


@operations.get("/metrics", **openapi.METRICS)
async def metrics(service: ServiceOf) -> Response:
    """Counters in the text format of Prometheus."""
    return Response(await asyncio.to_thread(service.metrics.text), media_type="text/plain; version=0.0.4")


@operations.get("/", include_in_schema=False)
async def page() -> Response:
    """The page that people click."""
    policy = "default-src 'none'; img-src blob: data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    headers = {"Content-Security-Policy": policy + "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"}
    return HTMLResponse(PAGE.read_bytes(), headers=headers)


async def _find(service: Service, job_id: str) -> Record:
    record = await asyncio.to_thread(service.store.get, job_id)
    if record is None:
        raise NotFound("no job has this id, or its result is no longer kept")
    return record


async def _described(service: Service, record: Record | None) -> Response:
    if record is None:
        raise NotFound("the result of this job is no longer kept")
    return JSONResponse(await asyncio.to_thread(service.dispatcher.describe, record))


async def _wait_for_caller(request: Request, dispatcher: Dispatcher, job_id: str) -> Record | None:
    """Returns the job when it is over or the server stops; a job that nobody waits for is cancelled."""
    while True:
        record = await dispatcher.wait(job_id, DISCONNECT_POLL_S)
        if record is None or record.status.is_final or dispatcher.is_stopping:
            return record
        if await request.is_disconnected():
            await dispatcher.cancel(job_id)
            raise JobCancelled("the caller has hung up")


def _base_url(request: Request, settings: Settings) -> str:
    return str(settings.public_url or request.base_url).rstrip("/")
