"""What clients do to connections, over real sockets."""

import asyncio
import contextlib
import gc
import logging
import resource
import socket
import time

import anyio
import pytest
import requests
from calls import until

from handler.server import connection, request_body, serve

POST = b"POST /v2/x/run HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
GET = b"GET /ping HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@pytest.fixture
def connect(serve_painted, monkeypatch, caplog):
    """Opens connections to a server with short time limits: `connect(first bytes)`. No request may log a traceback."""
    for module, name in (
        (connection, "HEADER_TIMEOUT_S"),
        (connection, "LINGER_S"),
        (connection, "WRITE_TIMEOUT_S"),
        (request_body, "TIMEOUT_S"),
    ):
        monkeypatch.setattr(module, name, 0.4)
    url, service, painter = serve_painted()
    port = int(url.rsplit(":", 1)[1])
    with contextlib.ExitStack() as opened:

        def connect(content=b""):
            client = opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            client.sendall(content)
            return client

        connect.url, connect.service, connect.painter = url, service, painter
        yield connect
    assert [record.message for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR] == []


def answer(client):
    """Returns what the server sends until it closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65_536):
            received += part
    return received


def pings(connect):
    return requests.get(f"{connect.url}/ping", timeout=5).status_code in {200, 204}


@pytest.mark.parametrize(
    "start", [b"GET /", GET + b"X: ", GET, b"GET / HTTP/1.1\r\nX"], ids=["path", "value", "many headers", "name"]
)
def test_endless_headers_end_the_connection(connect, start):
    """As soon as they exceed the limit, however they go on."""
    client = connect(start)
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 50_000_000:
            client.sendall(b"a: b\r\n" * 10_000 if start == GET else b"a" * 60_000)
            sent += 60_000
    assert sent < 5_000_000
    assert pings(connect)


def test_headers_that_arrive_at_once_are_bounded_too(connect):
    """Otherwise, one read of the socket brings 60,000 headers."""
    assert answer(connect(GET + b"a:\r\n" * 60_000 + b"\r\n"))[:12] in {b"HTTP/1.1 400", b""}
    assert answer(connect(GET + b"a:" + b"b" * 15_000 + b"\r\nConnection: close\r\n\r\n")).startswith(b"HTTP/1.1 2")


def test_connections_do_not_wait_for_their_clients(connect):
    """Silent ones, slow headers, slow bodies, and more of a body than anyone reads."""
    silent = connect()
    late = connect(GET + b"Connection: keep-alive\r\n\r\n" + GET)
    slow_header = connect(GET + b"X: ")
    slow_body = connect(POST + b"Content-Length: 100\r\n\r\n{")
    unread = connect(b"POST /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n")
    assert answer(silent) == b""
    assert b"HTTP/1.1 408" in answer(late)
    header, body = answer(slow_header), answer(slow_body)
    assert header.startswith(b"HTTP/1.1 408")
    assert b'"request_timeout"' in header
    assert body.startswith(b"HTTP/1.1 408")
    assert b'"request_timeout"' in body
    assert answer(unread).startswith(b"HTTP/1.1 404")


def test_a_drop_at_a_time_is_too_slow(connect):
    """What counts is when the whole is there."""
    for client in (connect(GET + b"X: "), connect(POST + b"Content-Length: 100000\r\n\r\n")):
        end_s = time.monotonic() + 10
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < end_s:
                client.sendall(b"a")
                time.sleep(0.05)
        assert time.monotonic() < end_s


def test_a_response_that_is_not_read_ends_the_connection(connect):
    """Neither a large response nor thousands of small ones stay in memory."""
    large = connect(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 1000)
    until(lambda: _is_reset(large))


def _is_reset(client):
    try:
        client.sendall(GET + b"\r\n")
    except ConnectionError:
        return True
    return False


def test_garbage_after_a_response_logs_nothing(connect):
    """The response is complete, and its request turns out to be wrong."""
    head = b"POST /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    client = connect(head + b"1\r\nx\r\n")
    assert client.recv(12) == b"HTTP/1.1 404"
    client.sendall(b"zzzz\r\n")
    answer(client)
    assert answer(connect(POST + b"Transfer-Encoding: chunked\r\n\r\nzzzz\r\n")).startswith(b"HTTP/1.1 400")
    upgrade = b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n"
    assert connect(GET + upgrade).recv(10) == b"HTTP/1.1 2"


def test_clients_that_wait_make_room_for_others(connect, monkeypatch):
    """Each new connection closes the one that has sent nothing for longest, so that the server stays reachable."""
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 10)
    monkeypatch.setattr(connection, "HEADER_TIMEOUT_S", 60)
    clients = [connect() for _ in range(40)]
    assert pings(connect)
    for client in clients[:30]:
        assert answer(client) == b""
    assert clients[-1].send(GET)


def test_too_many_requests_at_once_are_refused(connect, monkeypatch):
    """If all connections wait for the server, a new one gets 503."""
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 3)
    body = b'{"input": {"prompt": "wait"}}'
    runsync = POST.replace(b"/run ", b"/runsync ") + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    busy = []
    for count in (1, 2, 3):
        busy.append(connect(runsync))
        until(lambda count=count: sum(connect.service.store.counts().values()) == count)
    refused = answer(connect(GET + b"\r\n"))
    assert refused.startswith(b"HTTP/1.1 503")
    assert b'"too_many_connections"' in refused
    connect.painter.go_on.set()
    for client in busy:
        assert client.recv(12) == b"HTTP/1.1 200"


def test_connections_leave_descriptors_for_the_server(monkeypatch):
    """With the usual limit of 1024, connections that are accepted at once do not use up what the server needs."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    assert connection.limit() + connection.BACKLOG < 1024 / 2
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert connection.limit() == connection.MAX_CONNECTIONS
    raised = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda *limits: raised.append(limits))
    serve.raise_file_limit()
    assert raised == [(resource.RLIMIT_NOFILE, (4096, 4096))]


def test_slices_of_many_connections_take_turns():
    """Ten connections with much to parse: between two slices, the loop does everything else that is due."""
    order = []

    async def run():
        loop, turns = asyncio.get_running_loop(), connection.Turns()

        def parse():
            order.append("slice")
            if order.count("slice") < 100:
                turns.wait(parse)

        def other():
            order.append("other")
            if order.count("slice") < 100:
                loop.call_soon(other)

        for _ in range(10):
            turns.wait(parse)
        loop.call_soon(other)
        while order.count("slice") < 100:
            await asyncio.sleep(0)

    asyncio.run(run())
    assert "slice slice" not in " ".join(order[:150])


def test_ping_needs_no_thread(client, monkeypatch):
    """Threads may be busy with hostile bodies."""
    monkeypatch.setattr(anyio.to_thread, "run_sync", None)
    monkeypatch.setattr(asyncio, "to_thread", None)
    assert client.get("/ping").status_code in {200, 204}
    monkeypatch.undo()


@pytest.mark.usefixtures("settled")
def test_what_the_server_consists_of_is_no_garbage_to_look_for(make):
    """With it, a full collection takes 60 ms of CPU time, and one hostile body is enough to start one."""
    make()
    until(lambda: gc.get_freeze_count() > 50_000)
