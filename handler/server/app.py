"""The ASGI application: routes, access, errors and the life of the worker behind them."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline

import handler
from handler.server import alpha_api, error_responses, openai_api, openapi, operations, runpod_api
from handler.server.access import LOOPBACK, HostCheck, KeyCheck, OriginCheck, PlainPaths, origin_of
from handler.server.address import is_loopback
from handler.server.request_log import RequestLog
from handler.server.service import Service


def make_app(service: Service) -> FastAPI:
    """Returns the application; its lifespan runs jobs, and stops ComfyUI at the end."""
    settings = service.settings

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        readiness = service.readiness
        async with service.dispatcher.running(service.background, readiness):
            preparation = service.background.start(readiness.follow())
            watch = service.background.start(service.watch.run(lambda: openapi.forget(app)))
            settling = asyncio.create_task(asyncio.to_thread(_settle, app))
            yield
            settling.cancel()
            gc.unfreeze()
            watch.cancel()
            service.dispatcher.stop()
            preparation.cancel()

    app = FastAPIOffline(
        title="layerdiffuse-alpha",
        version=handler.__version__,
        description=openapi.DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": str(settings.public_url or "/"), "description": "this server"}],
        openapi_tags=openapi.TAGS,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_parameters={"defaultModelsExpandDepth": -1},
    )
    app.state.service = service
    app.include_router(runpod_api.router, prefix="/v2/{endpoint}", tags=["RunPod's job API"])
    app.include_router(alpha_api.router, prefix="/alpha/v1", tags=["alpha API"])
    app.include_router(openai_api.router, prefix="/v1", tags=["OpenAI's image API"])
    app.include_router(operations.router, tags=["operations"])
    app.mount("/page", StaticFiles(directory=operations.PAGE))
    error_responses.install(app)
    openapi.install(app, service.input_schemas)
    keys = settings.keys()
    if keys:
        app.add_middleware(KeyCheck, keys=keys, signer=service.signer)
    elif is_loopback(settings.listen_host):
        own = [settings.public_url.host] if settings.public_url and settings.public_url.host else []
        app.add_middleware(HostCheck, names=[*LOOPBACK, *own])
    origins = settings.origins()
    own_origin = [origin_of(settings.public_url)] if settings.public_url else []
    app.add_middleware(OriginCheck, origins=[*origins, *own_origin])
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(RequestLog)
    app.add_middleware(PlainPaths)  # outermost: everything else sees the path that is served
    return app


def _settle(app: FastAPI) -> None:
    """Does what requests should not wait for, in a thread.

    The first description of the API takes 0.2 s. So does a collection of all garbage, and one hostile body is enough to
    start it; from now on it skips what is in memory already, and takes less than a millisecond.
    """
    app.openapi()
    gc.collect()
    gc.freeze()
