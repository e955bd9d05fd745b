"""What the log says about requests."""

import io
import json
import logging
import socket
import sys
import threading
import time
import warnings

import pytest
from calls import JOBS, TXT2IMG, submit, until, when

from handler import logs


@pytest.fixture
def lines(monkeypatch):
    """Returns the JSON objects that have been logged; every line must be one."""
    root, stderr = logging.getLogger(), io.StringIO()
    before, level = root.handlers, root.level
    for module, name in ((sys, "excepthook"), (threading, "excepthook")):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(sys, "stderr", stderr)
    root.handlers = []  # pytest's stay as they are
    logs.configure("INFO", "json")
    yield lambda: [json.loads(line) for line in stderr.getvalue().splitlines()]
    root.handlers = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def picked(line):
    return {name: line[name] for name in ("level", "method", "route", "status", "code", "job_id") if name in line}


def test_each_error_is_one_line(make, lines):
    """With route, status and code, and the job's id if there is one; answers without an error log nothing."""
    client = make(api_keys="k")
    client.get(f"{JOBS}/health")
    client.headers["Authorization"] = "Bearer k"
    client.get("/nothing")
    client.get(f"{JOBS}/status/unknown")
    client.delete(f"{JOBS}/run")
    client.post(f"{JOBS}/run", json=[])
    client.post(f"{JOBS}/purge-queue", headers={"Origin": "https://evil.example"})
    client.get(f"{JOBS}/health")
    client.post(TXT2IMG, json={"prompt": "crash"})
    client.app.state.service.store.close()
    client.get(f"{JOBS}/health")
    logged = [line for line in lines() if line["event"].startswith("request ")]
    job_id = logged[-2].pop("job_id")
    assert job_id.startswith("alpha-")
    status = "/status/{job_id}"
    assert [picked(line) for line in logged] == [
        {"level": "INFO", "method": "GET", "route": f"{JOBS}/health", "status": 401, "code": "unauthorized"},
        {"level": "INFO", "method": "GET", "route": "/nothing", "status": 404, "code": "not_found"},
        {"level": "INFO", "method": "GET", "route": status, "status": 404, "code": "not_found", "job_id": "unknown"},
        {
            "level": "INFO",
            "method": "DELETE",
            "route": "/run",
            "status": 405,
            "code": "method_not_allowed",
        },
        {"level": "INFO", "method": "POST", "route": "/run", "status": 400, "code": "bad_request"},
        {"level": "INFO", "method": "POST", "route": f"{JOBS}/purge-queue", "status": 403, "code": "foreign_origin"},
        {"level": "WARNING", "method": "POST", "route": "/txt2img", "status": 500, "code": "internal"},
        {
            "level": "WARNING",
            "method": "GET",
            "route": "/health",
            "status": 503,
            "code": "storage_unavailable",
        },
    ]
    failed = next(line for line in lines() if line["event"] == "job failed")
    assert failed["job_id"] == job_id
    assert "RuntimeError" in failed["exception"]


def test_an_unexpected_exception_is_one_line(make, lines, monkeypatch):
    """With its traceback, and the caller gets 500 without it."""
    client = make()
    monkeypatch.setattr(client.service.store, "counts", lambda: 1 / 0)
    assert client.get(f"{JOBS}/health").status_code == 500
    (line,) = [line for line in lines() if line["level"] == "ERROR"]
    assert picked(line)["code"] == "internal"
    assert "ZeroDivisionError" in line["exception"]


def test_a_body_that_breaks_off_is_one_line(serve_painted, lines):
    """At INFO: it is nothing that the operator can do anything about."""
    url, *_ = serve_painted()
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as client:
        head = b"POST /v2/x/run HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        client.sendall(head + b"Content-Length: 100\r\n\r\n{")
        time.sleep(0.1)
    until(lambda: any(line["event"] == "request rejected" for line in lines()))
    (line,) = [line for line in lines() if line["event"] != "listening" and line["logger"].startswith("handler.server")]
    assert picked(line) == {
        "level": "INFO",
        "method": "POST",
        "route": "/run",
        "status": 499,
        "code": "cancelled",
    }
    assert not any("exception" in line for line in lines())


def test_what_is_not_http_is_one_line(serve_painted, lines):
    """uvicorn's own line, without a status, is not repeated."""
    url, *_ = serve_painted()
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400")
    logged = [line for line in lines() if line["level"] != "INFO" or line["logger"].startswith("handler.server")]
    assert [(line["event"], line["status"], line["code"]) for line in logged] == [
        ("request rejected", 400, "bad_request")
    ]


def test_prompts_are_not_logged(make, lines):
    """Neither of jobs that work, nor of those that fail or are refused."""
    client = make()
    for prompt in ("a secret", "crash"):
        when(client, submit(client, prompt), "COMPLETED", "FAILED")
    client.post(f"{JOBS}/run", json={"input": {"prompt": "a secret", "seed": "a secret", "a secret": 1}})
    client.post(TXT2IMG, json={"prompt": "a secret" * 1000})
    client.post(f"{JOBS}/run?prompt=secret", content=b'{"input": secret', headers={"Content-Type": "application/json"})
    assert len(lines()) >= 4
    assert "secret" not in str([line for line in lines() if line["logger"] != "httpx2" and "exception" not in line])


def test_lines_of_a_job_have_its_id(lines):
    """Also those of parts that do not know the job."""
    with logs.of_job("a-job"):
        logging.getLogger("anything").warning("event", extra={"reason": "x"})
    logging.getLogger("anything").warning("event")
    assert [line.get("job_id") for line in lines()] == ["a-job", None]


def test_what_nothing_catches_is_a_line_too(lines):
    """An exception of a thread, a warning of a library; a thread that ends itself is neither."""
    for end in (lambda: 1 / 0, sys.exit):
        thread = threading.Thread(target=end)
        thread.start()
        thread.join()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", stacklevel=1)
    exception, warning = lines()
    assert (exception["event"], "ZeroDivisionError" in exception["exception"]) == ("program failed", True)
    assert (warning["logger"], "old" in warning["event"]) == ("py.warnings", True)
