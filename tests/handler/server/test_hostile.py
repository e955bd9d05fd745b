"""Hostile requests, many at once, on real sockets."""

import contextlib
import logging
import random
import re
import socket
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import hostile
import pytest
import requests

STATUS = re.compile(rb"HTTP/1\.1 (\d+)")
CLIENTS = 8


def send(port, content, patience_s):
    """Sends the bytes in one or two parts, and returns the statuses of the responses."""
    received = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=patience_s) as client:
        client.sendall(content)
        if len(content) % 5:
            client.shutdown(socket.SHUT_WR)
        while part := client.recv(65_536):
            received += part
    return [int(status) for status in STATUS.findall(received)]


@pytest.mark.parametrize("count", [200, pytest.param(2_000, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_hostile_requests_break_nothing(serve_painted, caplog, count):
    """No answer with 5xx, no traceback, and the server responds to others all the while."""
    url, *_ = serve_painted()
    port = int(url.rsplit(":", 1)[1])
    waits_s, over = [], threading.Event()

    def ping():
        with requests.Session() as http:
            while not over.wait(0.02):
                begin_s = time.monotonic()
                assert http.get(f"{url}/ping", timeout=10).status_code in {200, 204}
                waits_s.append(time.monotonic() - begin_s)

    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        pinging = pool.submit(ping)
        requests_ = [hostile.request(random.Random(number)) for number in range(count)]
        answers = list(pool.map(lambda content: send(port, content, 0.5), requests_))
        over.set()
        pinging.result()
    statuses = [status for answer in answers for status in answer]
    assert [(n, answer) for n, answer in enumerate(answers) if any(status >= 500 for status in answer)] == []
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR] == []
    assert len(statuses) > count / 2
    assert requests.get(f"{url}/v2/x/health", timeout=10).json()["jobs"]["inProgress"] in {0, 1}
    worst = sorted(waits_s)
    print(
        f"{count} requests, {len(statuses)} responses, /ping median {statistics.median(worst) * 1000:.0f} ms,"
        f" p99 {worst[int(len(worst) * 0.99)] * 1000:.0f} ms, worst {worst[-1] * 1000:.0f} ms"
    )
