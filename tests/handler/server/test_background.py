"""Tasks in the background that raise what no one expected: the server stops, so that it is started again."""

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import requests
from calls import until
from painter import painted_service

from handler.errors import InternalError
from handler.server import serve
from handler.server.job_record import Status
from handler.server.job_store import JobStore
from handler.server.readiness import Readiness
from handler.server.results import Results
from handler.server.webhooks import Webhooks
from handler.server.workflow_watch import WorkflowWatch
from handler.settings import Settings


def crash(*_):
    raise RuntimeError("unexpected")


async def crash_later(*_):
    crash()


def submit(url, **more):
    """Returns the id of a new job."""
    body = {"input": {"prompt": "an apple"}, **more}
    return requests.post(f"{url}/v2/x/run", json=body, timeout=10).json()["id"]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """`start()` returns the URL of a server, the result of its `run`, and the service behind it."""
    monkeypatch.setattr(serve, "_leave", lambda _: None)  # it would end the process that runs the tests
    with ThreadPoolExecutor() as pool, contextlib.ExitStack() as running:

        def start():
            service, _ = painted_service(Settings(profile="tiny", data_dir=tmp_path))
            server, listener = serve.Server(service), socket.create_server(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            run = pool.submit(server.run, [listener])
            running.callback(service.store.close)
            running.callback(wait, [run])
            running.callback(setattr, server, "should_exit", True)
            return url, run, service

        yield start


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        (JobStore, "take"),
        (JobStore, "expire"),
        (JobStore, "due_webhooks"),
        (WorkflowWatch, "check"),
        (Readiness, "follow"),
    ],
)
def test_a_task_that_dies_ends_the_server(start, monkeypatch, owner, method):
    """Jobs, cleanup, webhooks, workflow, warm-up: `run` raises, which is exit status 1 of the program."""
    monkeypatch.setattr(owner, method, crash_later if method == "follow" else crash)
    _, run, _ = start()
    with pytest.raises(InternalError, match="a background task crashed, see the log"):
        run.result(20)


def test_a_job_that_ends_the_server_twice_fails(start, monkeypatch):
    """It runs once more after the next start, then it has failed and other jobs run."""
    complete, poison = Results.complete, []

    async def crash_over_the_first(results, running, *result):
        poison.append(running.id)
        return crash() if running.id == poison[0] else await complete(results, running, *result)

    monkeypatch.setattr(Results, "complete", crash_over_the_first)
    url, run, service = start()
    submit(url)
    for _ in range(2):
        with pytest.raises(InternalError):
            run.result(20)
        url, run, service = start()
    behind = submit(url)
    until(lambda: service.store.get(behind).status is Status.COMPLETED)
    assert service.store.get(poison[0]).error == "internal: the worker died 2 times while it ran this job"
    assert requests.get(f"{url}/ping", timeout=10).status_code == 200


def test_a_request_that_waits_for_the_job_is_answered(start, monkeypatch):
    """The caller is neither kept waiting nor cut off."""
    monkeypatch.setattr(Results, "complete", crash_later)
    url, run, _ = start()
    begin_s = time.monotonic()
    answer = requests.post(f"{url}/alpha/v1/txt2img", json={"prompt": "x"}, timeout=20)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "comfyui_unavailable")
    assert time.monotonic() - begin_s < 2
    with pytest.raises(InternalError):
        run.result(20)


def test_a_webhook_s_crash_ends_nothing(start, monkeypatch, caplog):
    """It is about one job of one caller; it is logged, and posted after the next start."""
    monkeypatch.setattr(Webhooks, "_post_once", crash_later)
    url, run, service = start()
    submit(url, webhook="http://127.0.0.1/")
    until(lambda: "background task crashed" in caplog.text)
    time.sleep(0.3)
    assert not run.done()
    assert requests.get(f"{url}/ping", timeout=10).status_code == 200
    assert len(service.store.due_webhooks()) == 1
