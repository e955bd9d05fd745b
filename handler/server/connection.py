"""Connections of the HTTP server: uvicorn's, with bounds on what a client sends, how long it takes, how many there are.

A client needs no key to open a connection, so these bounds come before everything else.
"""

import asyncio
import collections
import logging
import resource
import time
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from handler.server.error_responses import error_response
from handler.server.errors import BadRequest, RequestRejected, RequestTimeout, TooManyConnections

HEADER_BYTES = 16_384  # request line and headers together
SLICE_BYTES = 1_024  # parsed at a time, because other connections wait meanwhile
HEADER_TIMEOUT_S = 10.0  # from the first byte, or from the start of the connection
LINGER_S = 2.0  # for the rest of a body that no one reads, so that the client can read the response
WRITE_TIMEOUT_S = 30.0  # for a client that does not read the response
MAX_CONNECTIONS = 1_000
FILES_PER_CONNECTION = 4  # the connection, the picture that it sends, and as much again for the server's own work
BACKLOG = 128  # connections that are accepted at once, before any of them is counted

log = logging.getLogger(__name__)


def raise_file_limit() -> None:
    """Raises the limit of open files as far as this process may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """Returns how many connections may be open at once."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, files // FILES_PER_CONNECTION)


class Turns:
    """Parses one slice in each turn of the event loop, however many connections have one, so that no one waits."""

    def __init__(self) -> None:
        self._waiting: collections.deque[Callable[[], None]] = collections.deque()

    def wait(self, parse: Callable[[], None]) -> None:
        """Calls `parse` after those that wait already."""
        self._waiting.append(parse)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        parse = self._waiting.popleft()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
        parse()


class Connection(H11Protocol):
    """One connection. If there are too many, the one that has waited longest for its client is closed."""

    def __init__(self, *args: Any, turns: Turns, **more: Any) -> None:
        """`turns` is shared by all connections of a server; the rest is uvicorn's."""
        super().__init__(*args, **more)
        self._turns = turns

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that `pause_writing` is called for any response that is not read
        self._waits_since_s = time.monotonic()
        self._unparsed = bytearray()
        self._write_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._wait_for_client(HEADER_TIMEOUT_S)
        if len(self.connections) > limit():
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unparsed.clear()
        for timer in (self._read_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unparsed += data
        if len(self._unparsed) == len(data):
            self._parse()

    def on_response_complete(self) -> None:
        self._waits_since_s = time.monotonic()
        if self.conn.their_state is h11.SEND_BODY:
            self._wait_for_client(LINGER_S)
        super().on_response_complete()
        if self._has_begun:  # the next request came along with this one
            self._wait_for_client(HEADER_TIMEOUT_S)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Called by uvicorn for what h11 does not accept."""
        self._refuse(BadRequest(f"not an HTTP request, or one with more than {HEADER_BYTES} bytes of headers"))

    def _should_upgrade(self) -> bool:
        return False  # there are no WebSockets

    def _parse(self) -> None:
        """Parses the next slice, and then lets other connections have their turn."""
        if self.transport.is_closing():
            return
        part = bytes(self._unparsed[:SLICE_BYTES])
        del self._unparsed[:SLICE_BYTES]
        if self._read_timer is None:
            self._wait_for_client(HEADER_TIMEOUT_S)
        super().data_received(part)
        if self.conn.their_state is not h11.IDLE and self.conn.our_state is not h11.DONE:
            self._stop_waiting()
        if self._unparsed:
            self.transport.pause_reading()
            self._turns.wait(self._parse)
        elif not self.flow.read_paused:
            self.transport.resume_reading()

    def _wait_for_client(self, timeout_s: float) -> None:
        self._stop_waiting()
        self._read_timer = self.loop.call_later(timeout_s, self._on_timeout)

    def _stop_waiting(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _on_timeout(self) -> None:
        if self._has_begun:
            self._refuse(RequestTimeout(f"headers did not arrive within {HEADER_TIMEOUT_S:g} s"))
        else:
            self.transport.abort()

    @property
    def _has_begun(self) -> bool:
        """Whether a part of the headers is here."""
        return self.conn.our_state is h11.IDLE and bool(self.conn.trailing_data[0])

    @property
    def _is_waiting(self) -> bool:
        return self.conn.their_state in {h11.IDLE, h11.SEND_BODY} or self.flow.write_paused

    def _make_room(self) -> None:
        others = [other for other in self.connections if isinstance(other, Connection) and other is not self]
        waiting = [other for other in others if other._is_waiting and not other.transport.is_closing()]
        if waiting:
            min(waiting, key=lambda other: other._waits_since_s).transport.abort()
        elif not any(other.transport.is_closing() for other in others):
            self._refuse(TooManyConnections("too many connections, retry the request"))

    def _refuse(self, error: RequestRejected) -> None:
        """Sends the error unless a response has begun, and closes the connection."""
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.abort()
            return
        response = error_response(error)
        response.headers["Connection"] = "close"
        for event in (
            h11.Response(status_code=response.status_code, headers=response.raw_headers),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:
            self.cycle.disconnected = True  # the application must send nothing more
            self.cycle.message_event.set()
        self.transport.close()
        log.info("request rejected", extra={"status": response.status_code, "code": error.code})
