"""Webhooks, posted to a server on loopback."""

import contextlib
import socket
import threading
import time

import pytest
from aiohttp import web
from calls import JOBS, error, submit, until, when
from loopback import LoopbackServer

from handler.server import webhooks
from handler.server.job_record import JobRequest


class Hook(LoopbackServer):
    """A webhook that answers with these statuses, one after another."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.received = []

    def routes(self):
        return [web.post("/", self.listen)]

    async def listen(self, request):
        self.received.append(await request.json())
        return web.Response(status=self.statuses[min(len(self.received), len(self.statuses)) - 1])


@pytest.mark.parametrize(("statuses", "expected"), [((200,), 1), ((500, 200), 2), ((404, 302, 500, 200), 3)])
def test_a_webhook_is_posted_until_it_answers_200(make, monkeypatch, statuses, expected):
    """At most three times, with what /status answers."""
    monkeypatch.setattr(webhooks, "WEBHOOK_WAIT_S", 0.05)
    client = make()
    with Hook(*statuses) as hook:
        job_id = submit(client, webhook=f"http://{hook.address}/")
        job = when(client, job_id, "COMPLETED")
        time.sleep(0.6)
        assert hook.received == [job] * expected


def test_the_webhook_of_an_invalid_input_is_posted(client):
    """The job is over as soon as it is accepted."""
    with Hook(200) as hook:
        answer = client.post(f"{JOBS}/run", json={"input": {}, "webhook": f"http://{hook.address}/"}).json()
        job = when(client, answer["id"], "FAILED")
        end_s = time.monotonic() + 60
        while not hook.received:
            assert time.monotonic() < end_s
            time.sleep(0.01)
        assert hook.received == [job]


def test_a_webhook_that_is_not_posted_yet_is_posted_after_a_restart(make, monkeypatch):
    """A stop between two attempts loses nothing."""
    monkeypatch.setattr(webhooks, "WEBHOOK_WAIT_S", 60)
    client = make()
    with Hook(500, 200) as hook:
        job = when(client, submit(client, webhook=f"http://{hook.address}/"), "COMPLETED")
        while not hook.received:
            time.sleep(0.01)
        client.__exit__(None, None, None)
        make()
        end_s = time.monotonic() + 60
        while len(hook.received) < 2:
            assert time.monotonic() < end_s
            time.sleep(0.01)
        assert hook.received == [job, job]


def test_a_job_that_is_retried_while_its_webhook_is_posted_is_posted_again(make, monkeypatch):
    """The webhook gets the first result, then the second."""
    monkeypatch.setattr(webhooks, "WEBHOOK_WAIT_S", 0.5)
    client = make()
    with Hook(500, 200) as hook:
        job_id = submit(client, "fail once", webhook=f"http://{hook.address}/")
        failed = when(client, job_id, "FAILED")
        client.post(f"{JOBS}/retry/{job_id}")
        completed = when(client, job_id, "COMPLETED")
        end_s = time.monotonic() + 60
        while len(hook.received) < 3:
            assert time.monotonic() < end_s
            time.sleep(0.01)
        assert hook.received == [failed, failed, completed]


@contextlib.contextmanager
def receiver(start, part=b""):
    """Yields the URL of a webhook that sends `start`, then `part` without end; and how many bytes it has sent."""
    sent = []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                sent.append(0)
                with client, contextlib.suppress(OSError):
                    client.recv(65_536)
                    client.sendall(start)
                    while part and sent[-1] < 200_000_000:
                        sent[-1] += client.send(part)
                    while client.recv(65_536):
                        pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/", sent
        listener.shutdown(socket.SHUT_RDWR)


def due(client):
    return client.service.store.due_webhooks()


@pytest.mark.parametrize(
    ("start", "part", "attempts"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65_536, 1),
        (b"HTTP/1.1 500 No\r\n\r\n", b"x" * 65_536, 3),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65_536, 3),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 10_000, 3),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 3),
        (b"", b"", 3),
    ],
    ids=["endless body", "endless body of an error", "endless header", "endless headers", "endless 100", "silence"],
)
def test_a_webhook_cannot_fill_the_memory_or_last(make, monkeypatch, start, part, attempts):
    """Only the status is read, within bounds of size and time."""
    monkeypatch.setattr(webhooks, "WEBHOOK_WAIT_S", 0.01)
    monkeypatch.setattr(webhooks, "WEBHOOK_TIMEOUT_S", 0.3)
    client = make()
    with receiver(start, part) as (url, sent):
        when(client, submit(client, webhook=url), "COMPLETED")
        until(lambda: not due(client))
        assert len(sent) == attempts
        assert max(sent) < 100_000_000 if b"100" in part else max(sent) < 20_000_000


@pytest.mark.parametrize(
    "host", ["xn--n3h.example", "a..b", f"{'a' * 64}.example", ".", "xn--.example", "\u2764.example"]
)
def test_a_webhook_whose_host_cannot_be_used_is_refused(client, host):
    """When the job is submitted, because later its caller would not see the error."""
    answer = client.post(f"{JOBS}/run", json={"input": {"prompt": "x"}, "webhook": f"http://{host}/"})
    assert error(answer)[:2] == (400, "bad_request")
    assert error(answer)[2].startswith("webhook: ")


def test_a_stored_webhook_whose_host_cannot_be_used_is_given_up(client):
    """An earlier version accepted it."""
    job = JobRequest({"prompt": "x"}, webhook="http://xn--n3h.example/")
    client.portal.call(client.service.dispatcher.submit, job, 60.0, "old-")
    until(lambda: client.service.store.counts()["COMPLETED"] == 1 and not due(client))


def test_receivers_that_do_not_answer_wait_for_each_other(make, monkeypatch):
    """Each post has a picture in memory, so only a few run at once; the others follow."""
    monkeypatch.setattr(webhooks, "WEBHOOK_TIMEOUT_S", 0.2)
    monkeypatch.setattr(webhooks, "WEBHOOK_WAIT_S", 0.01)
    monkeypatch.setattr(webhooks, "POSTS_AT_ONCE", 2)
    post_once, counts = webhooks.Webhooks._post_once, [0]

    async def counted(*arguments):
        counts.append(counts[-1] + 1)
        try:
            await post_once(*arguments)
        finally:
            counts.append(counts[-1] - 1)

    monkeypatch.setattr(webhooks.Webhooks, "_post_once", counted)
    client = make()
    with receiver(b"") as (slow, _), Hook(200) as hook:
        for _ in range(6):
            submit(client, webhook=slow)
        submit(client, webhook=f"http://{hook.address}/")
        until(lambda: hook.received)
        until(lambda: not due(client))
    assert max(counts) == 2
