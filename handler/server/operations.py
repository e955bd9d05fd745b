"""Routes for operating the server, and its web page."""

import asyncio
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from handler.errors import ComfyUnavailable, ModelMissing, NoGpu, StorageUnavailable
from handler.job.buckets import picture_origins
from handler.server.error_responses import ErrorResponse
from handler.server.errors import BadRequest
from handler.server.openapi import GENERAL, Docs, error_docs
from handler.server.service import ServiceOf

PAGE = Path(__file__).with_name("page")
CANNOT_DRAW = (ModelMissing, NoGpu, ComfyUnavailable, StorageUnavailable)
PING_DOCS: Docs = {
    200: {"description": "ready"},
    204: {"description": "starting"},
    **error_docs(*CANNOT_DRAW, BadRequest),
}
METRICS_DOCS: Docs = {200: {"description": "metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}}

router = APIRouter()


@router.head("/ping", include_in_schema=False)
@router.get("/ping", response_class=Response, responses=PING_DOCS)
async def ping(service: ServiceOf) -> Response:
    """Whether the worker can draw now: 200, 204 while it or ComfyUI starts, or 503 and the reason if it cannot."""
    readiness = service.readiness
    if (error := readiness.error) is not None:
        return ErrorResponse(503, error.code, error.message)
    return Response(status_code=200 if readiness.is_up else 204)


@router.get("/metrics", response_class=Response, responses=METRICS_DOCS | error_docs(*GENERAL))
async def metrics(service: ServiceOf) -> Response:
    """Counters in the text format of Prometheus."""
    return Response(await asyncio.to_thread(service.metrics.text), media_type="text/plain; version=0.0.4")


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def page(service: ServiceOf) -> Response:
    """The web page. Its styles and scripts are under /page/."""
    buckets = " ".join(picture_origins(service.settings))
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data: {buckets}; "
        f"connect-src 'self' {buckets}; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    )
    return HTMLResponse((PAGE / "index.html").read_bytes(), headers={"Content-Security-Policy": policy})
