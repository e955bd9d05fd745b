"""Routes for operating the server, and its web page."""

import asyncio
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from handler.server.openapi import GENERAL, Docs, error_docs
from handler.server.service import ServiceOf

PAGE = Path(__file__).with_name("page.html")
PING_DOCS: Docs = {
    200: {"description": "ready"},
    204: {"description": "starting"},
    503: {"description": "could not start"},
}
METRICS_DOCS: Docs = {200: {"description": "metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}}

router = APIRouter()


@router.get("/ping", response_class=Response, responses=PING_DOCS)
async def ping(request: Request) -> Response:
    """Whether the worker is ready: 204 while it starts, then 200, or 503 if it could not start."""
    return Response(status_code=request.app.state.ping_status)


@router.get("/metrics", response_class=Response, responses=METRICS_DOCS | error_docs(*GENERAL))
async def metrics(service: ServiceOf) -> Response:
    """Counters in the text format of Prometheus."""
    return Response(await asyncio.to_thread(service.metrics.text), media_type="text/plain; version=0.0.4")


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """The web page."""
    policy = "default-src 'none'; img-src blob: data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    headers = {"Content-Security-Policy": policy + "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"}
    return HTMLResponse(PAGE.read_bytes(), headers=headers)
