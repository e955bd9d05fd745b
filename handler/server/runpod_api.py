"""RunPod's job API."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi import Path as UrlPart

from handler.errors import InvalidInput
from handler.job.reply import Shape
from handler.server import events
from handler.server.errors import Conflict, NotFound, QueueFull
from handler.server.health import Health, JobCounts, Purged, WorkerCounts
from handler.server.job_record import JobRecord, JobRequest, Status
from handler.server.job_status import progress_of, status_of
from handler.server.openapi import CHANGING, GENERAL, SUBMITTING, error_docs, json_body
from handler.server.protocol import (
    RUN_REQUESTS,
    Accepted,
    Job,
    JobId,
    RunRequest,
    Stream,
    StreamItem,
)
from handler.server.request_body import RunRequestOf
from handler.server.service import Service, ServiceOf

RUNSYNC_KEEP_S = 60.0  # as at RunPod
WAIT_MS = 90_000
MAX_WAIT_MS = 300_000
STREAM_WAIT_MS = 1_000  # RunPod's clients ask again at once

RUN_BODY = json_body({"$ref": f"#/components/schemas/{RunRequest.__name__}"}, RUN_REQUESTS)

WaitOf = Annotated[int, Query(ge=1000, le=MAX_WAIT_MS, description="maximum time to wait, in ms")]


async def _endpoint(endpoint: Annotated[str, UrlPart(description="any name", examples=["local"])]) -> None:
    """Documents the part of the URL that RunPod's clients fill in. This server has one endpoint, whatever its name."""


router = APIRouter(dependencies=[Depends(_endpoint)])


@router.post("/run", openapi_extra=RUN_BODY, responses=error_docs(*SUBMITTING))
async def run(service: ServiceOf, request: RunRequestOf) -> Accepted:
    """Queues a job and responds with its id. Its result is at /status."""
    job_id = await _submit(service, request, service.settings.results_keep_s)
    return Accepted(id=job_id, status=Status.IN_QUEUE)


@router.post(
    "/runsync",
    openapi_extra=RUN_BODY,
    responses=error_docs(*SUBMITTING, NotFound),
    response_model_exclude_none=True,
)
async def runsync(service: ServiceOf, request: RunRequestOf, wait: WaitOf = WAIT_MS) -> Job:
    """Queues a job and responds when it has finished, or with its status after `wait` ms; ask /status then."""
    job_id = await _submit(service, request, RUNSYNC_KEEP_S, "sync-")
    return await _status(service, await service.dispatcher.wait(job_id, wait / 1000))


@router.post("/status/{job_id}", include_in_schema=False, response_model_exclude_none=True)  # RunPod's Go client
@router.get("/status/{job_id}", responses=error_docs(*GENERAL, NotFound), response_model_exclude_none=True)
async def status(service: ServiceOf, job_id: JobId) -> Job:
    """A job's status, and its result when it has finished. While it runs, `output` is its progress."""
    return await _status(service, await _find(service, job_id))


@router.api_route(
    "/status-sync/{job_id}",
    methods=["GET", "POST"],
    include_in_schema=False,  # as /status, for RunPod's JavaScript (GET) and Go (POST) clients
    response_model_exclude_none=True,
)
async def status_sync(service: ServiceOf, job_id: JobId, wait: WaitOf = WAIT_MS) -> Job:
    """Responds when the job has finished, or with its status after `wait` ms."""
    record = await _find(service, job_id)
    if not record.status.is_final:
        record = await service.dispatcher.wait(job_id, wait / 1000)
    return await _status(service, record)


@router.post("/stream/{job_id}", include_in_schema=False, response_model_exclude_none=True)  # RunPod's Go client
@router.get("/stream/{job_id}", responses=error_docs(*GENERAL, NotFound), response_model_exclude_none=True)
async def stream(service: ServiceOf, job_id: JobId, wait: WaitOf = STREAM_WAIT_MS) -> Stream:
    """A running job's progress since the last request, or after `wait` ms an empty list. Its result is at /status."""
    changes = await events.unread(service, job_id, wait / 1000)
    record = await _find(service, job_id)
    return Stream(status=record.status, stream=[StreamItem(output=progress_of(change)) for change in changes])


@router.post("/cancel/{job_id}", responses=error_docs(*CHANGING, NotFound))
async def cancel(service: ServiceOf, job_id: JobId) -> Accepted:
    """Cancels a queued or running job. A finished job does not change; `status` says how it ended."""
    record = await service.dispatcher.cancel(job_id)
    return Accepted(id=job_id, status=record.status)


@router.post("/retry/{job_id}", responses=error_docs(*CHANGING, NotFound, Conflict, QueueFull))
async def retry(service: ServiceOf, job_id: JobId) -> Accepted:
    """Queues a job again that has failed or timed out, under the same id."""
    await service.dispatcher.retry(job_id)
    return Accepted(id=job_id, status=Status.IN_QUEUE)


@router.post("/purge-queue", responses=error_docs(*CHANGING))
async def purge_queue(service: ServiceOf) -> Purged:
    """Cancels all queued jobs; the running one continues."""
    return Purged(removed=await service.dispatcher.purge())


@router.get("/health", responses=error_docs(*GENERAL))
async def health(service: ServiceOf) -> Health:
    """Counts of the stored jobs by state, and what the worker does now."""
    counts = await asyncio.to_thread(service.store.counts)
    retried = await asyncio.to_thread(service.store.retried)
    busy = service.dispatcher.is_busy
    jobs = JobCounts(
        completed=counts[Status.COMPLETED],
        failed=counts[Status.FAILED] + counts[Status.TIMED_OUT],
        in_progress=counts[Status.IN_PROGRESS],
        in_queue=counts[Status.IN_QUEUE],
        retried=retried,
    )
    readiness = service.readiness
    workers = WorkerCounts(
        idle=int(readiness.is_up and not busy),
        running=int(busy),
        initializing=int(not readiness.is_up and not busy and readiness.error is None),
        unhealthy=int(readiness.error is not None),
    )
    return Health(
        jobs=jobs,
        workers=workers,
        unhealthy_reason=None if readiness.error is None else str(readiness.error),
        workflow_refused=service.watch.refused,
    )


async def _submit(service: Service, request: RunRequest, keep_s: float, prefix: str = "") -> str:
    """Returns the id of the new job. As at RunPod, a job with an invalid input is accepted, and fails."""
    timeout_ms = request.policy.execution_timeout
    job = JobRequest(
        input=request.input,
        s3_config=None if request.s3_config is None else request.s3_config.model_dump(mode="json", by_alias=True),
        webhook=None if request.webhook is None else str(request.webhook),
        execution_timeout_s=None if timeout_ms is None else timeout_ms / 1000,
        ttl_s=request.policy.ttl / 1000,
    )
    try:
        return await service.dispatcher.submit(job, keep_s, prefix)
    except InvalidInput as exc:
        return await service.dispatcher.submit_failed(job, exc, keep_s, prefix)


async def _find(service: Service, job_id: str) -> JobRecord:
    return await asyncio.to_thread(service.store.get, job_id)


async def _status(service: Service, record: JobRecord) -> Job:
    running = service.dispatcher.running_job(record.id)
    progress = running.progress if running is not None else None
    return await asyncio.to_thread(status_of, record, service.pictures, Shape.of(service.settings), progress)
