"""The ASGI application: routes, access, errors and the life of the worker behind them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

import handler
from handler.errors import GenerationError
from handler.server import alpha_api, error_responses, openapi, operations, runpod_api
from handler.server.access import LOOPBACK, HostCheck, KeyCheck, is_loopback
from handler.server.service import Service

log = logging.getLogger(__name__)


def make_app(service: Service) -> FastAPI:
    """Returns the application; its lifespan runs jobs, and stops ComfyUI at the end."""
    settings = service.settings

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.dispatcher.running():
            warm_up = asyncio.create_task(_warm_up(app, service))
            yield
            service.dispatcher.stop()
            warm_up.cancel()
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
    app.include_router(runpod_api.router, prefix="/v2/{endpoint}", tags=["RunPod's job API"])
    app.include_router(alpha_api.router, prefix="/alpha/v1", tags=["alpha API"])
    app.include_router(operations.router, tags=["operations"])
    error_responses.install(app)
    openapi.install(app, service.input_schema)
    keys = settings.keys()
    if keys:
        app.add_middleware(KeyCheck, keys=keys)
    elif is_loopback(settings.listen_host):
        own = [settings.public_url.host] if settings.public_url and settings.public_url.host else []
        app.add_middleware(HostCheck, names=[*LOOPBACK, *own])
    return app


async def _warm_up(app: FastAPI, service: Service) -> None:
    try:
        await asyncio.to_thread(service.prepare)
    except GenerationError as exc:
        log.error("warm-up failed", extra={"code": exc.code, "reason": exc.message})  # noqa: TRY400
        app.state.ping_status = 503
    else:
        app.state.ping_status = 200
