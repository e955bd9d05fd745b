"""Puts the HTTP server together and runs it."""

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import cast

import uvicorn

from handler.errors import InternalError, StorageUnavailable
from handler.job import fitness, preparation, profiles
from handler.job.buckets import Buckets
from handler.job.generate import Generator
from handler.job.runner import Runner
from handler.server import queue_profile
from handler.server.app import make_app
from handler.server.background import Background
from handler.server.cleanup import cancel_abandoned, delete_unnamed, expire_pictures
from handler.server.clock import steady
from handler.server.connection import BACKLOG, HEADER_BYTES, Connection, Turns, raise_file_limit
from handler.server.dispatcher import Dispatcher
from handler.server.job_store import JobStore
from handler.server.metrics import Metrics
from handler.server.picture_store import PictureStore
from handler.server.readiness import Readiness
from handler.server.service import Service
from handler.server.signing import UrlSigner
from handler.server.workflow_watch import WorkflowWatch
from handler.settings import Settings

REQUESTS_STOP_S = 3  # after a stop signal, for requests that are being handled
STOP_LIMIT_S = 7.5  # for everything; container engines kill after ten seconds
EXIT_CRASHED = 1
KEEP_ALIVE_S = 75  # longer than the 60 s of load balancers, which may reuse a connection until then

log = logging.getLogger(__name__)


class CannotListen(Exception):
    """The address is taken, is not this machine's, or is not allowed for this user."""


def serve(generator: Generator, settings: Settings) -> None:
    """Serves until a stop signal.

    Raises:
        StorageUnavailable: DATA_DIR cannot be used, or another server uses it.
        CannotListen: the system refuses the address.
        InternalError: a background task crashed.
    """
    raise_file_limit()
    now = steady()
    pictures = PictureStore(settings.data_dir / "pictures", now)
    with _lock(settings.data_dir / "lock"), _listening(settings) as listener:
        expire_pictures(pictures, settings)
        store = JobStore(settings.data_dir / "jobs.sqlite3", settings.queue_limit, now)
        try:
            delete_unnamed(store, pictures)
            cancel_abandoned(store)
            queue_profile.keep(generator, store, settings)
            metrics = Metrics()
            metrics.watch("alpha_queue_length", "Queued jobs.", store.queued)
            comfyui = generator.comfyui
            metrics.watch_counter("alpha_comfyui_restarts", "Restarts of ComfyUI.", comfyui.restarts)
            metrics.watch("alpha_comfyui_up", "Whether ComfyUI takes graphs.", lambda: comfyui.is_ready)
            buckets = Buckets(settings)
            buckets.begin_check()
            dispatcher = Dispatcher(store, Runner(generator, buckets), pictures, settings, metrics)
            service = Service(
                settings=settings,
                background=Background(),
                dispatcher=dispatcher,
                store=store,
                pictures=pictures,
                metrics=metrics,
                readiness=Readiness(
                    partial(preparation.prepare, generator),
                    lambda: fitness.check_weights(settings, generator.workflow),
                    comfyui,
                ),
                signer=UrlSigner.of(settings),
                input_schema=generator.input_schema,
                input_schemas=generator.input_schemas,
                watch=WorkflowWatch(
                    settings.workflows_dir, lambda: profiles.reload(settings, generator.workflow), generator.use
                ),
            )
            host, port, *_ = listener.getsockname()
            log.info(
                "listening", extra={"address": f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"}
            )
            Server(service).run(sockets=[listener])
        finally:
            store.close()


class Server(uvicorn.Server):
    """Stops at a stop signal, or when a background task has crashed.

    The dispatcher is stopped at once, because requests that wait for a job end only then.
    """

    def __init__(self, service: Service) -> None:
        self._dispatcher = service.dispatcher
        self._background = service.background
        logging.getLogger("uvicorn.error").addFilter(_is_not_logged_by_us)
        super().__init__(
            uvicorn.Config(
                make_app(service),
                http=cast(type[asyncio.Protocol], partial(Connection, turns=Turns())),
                ws="none",
                backlog=BACKLOG,
                h11_max_incomplete_event_size=HEADER_BYTES,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=REQUESTS_STOP_S,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn in the event loop's thread."""
        self._stop_dispatcher(128 + sig)
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; returns whether to stop."""
        if self._background.has_crashed and not self.should_exit:
            self._stop_dispatcher(EXIT_CRASHED)
            self.should_exit = True
        return await super().on_tick(counter)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until it is stopped; raises InternalError if that was because of a crash."""
        super().run(sockets)
        if self._background.has_crashed:
            raise InternalError("a background task crashed, see the log")

    def _stop_dispatcher(self, status: int) -> None:
        """Also ends the process with `status` if threads keep it alive for too long."""
        self._dispatcher.stop()
        limit = threading.Timer(STOP_LIMIT_S, _leave, [status])
        limit.daemon = True
        limit.start()


def _leave(status: int) -> None:
    log.error("not everything ended in time, leaving")  # nothing is lost: each job is on disk
    os._exit(status)


def _is_not_logged_by_us(record: logging.LogRecord) -> bool:
    return record.getMessage() != "Invalid HTTP request received."


def _listening(settings: Settings) -> socket.socket:
    """Returns the socket that listens on LISTEN_HOST and PORT; `::` is every address, IPv4 and IPv6."""
    host, port = settings.listen_host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as exc:
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror
        hint = "; ports below 1024 are for root, set PORT" if isinstance(exc, PermissionError) else ""
        raise CannotListen(f"cannot listen on {host}:{port}: {reason}{hint}") from exc


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Ensures that this is the folder's only server; the system releases the lock however the server ends."""
    try:
        lock = path.open("w")
    except OSError as exc:
        raise StorageUnavailable(f"DATA_DIR cannot be written: {exc.strerror}") from exc
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StorageUnavailable("another server uses DATA_DIR") from exc
        except OSError as exc:
            raise StorageUnavailable(f"DATA_DIR cannot be locked: {exc.strerror}") from exc
        yield
