"""Webhooks, posted to a server on loopback."""

import time

import pytest
from aiohttp import web
from calls import JOBS, submit, when
from loopback import LoopbackServer

from handler.server import webhooks


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
