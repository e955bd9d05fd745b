"""Routes for operating the server, and its web page."""

import asyncio
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from handler.server.openapi import GENERAL, Docs, error_docs
from handler.server.service import ServiceOf

PAGE = Path(__file__).with_name("page.html")
PING_DOCS: Docs = {
    200: {"description": "ready"},
    204: {"description": "starting"},
    503: {"description": "cannot draw; the log has the reason"},
}
METRICS_DOCS: Docs = {200: {"description": "metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}}

router = APIRouter()


@router.head("/ping", include_in_schema=False)
@router.get("/ping", response_class=Response, responses=PING_DOCS)
async def ping(service: ServiceOf) -> Response:
    """Whether the worker can draw now: 200, 204 while it or ComfyUI starts, or 503 if it cannot."""
    readiness = service.readiness
    return Response(status_code=503 if readiness.error else 200 if readiness.is_up else 204)


@router.get("/metrics", response_class=Response, responses=METRICS_DOCS | error_docs(*GENERAL))
async def metrics(service: ServiceOf) -> Response:
    """Counters in the text format of Prometheus."""
    return Response(await asyncio.to_thread(service.metrics.text), media_type="text/plain; version=0.0.4")


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def page() -> Response:
    """The web page."""
    policy = "default-src 'none'; img-src blob: data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    headers = {"Content-Security-Policy": policy + "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"}
    return HTMLResponse(PAGE.read_bytes(), headers=headers)
