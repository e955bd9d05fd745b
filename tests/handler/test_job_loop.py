"""How a worker reports results while RunPod's side has trouble."""

import asyncio
import json

import aiohttp
import pydantic_core
import pytest
import tenacity
from aiohttp import web
from loopback import LoopbackServer


class Receiver(LoopbackServer):
    """Answers reports as planned: a status, "hang" or "cut"; 200 when the plan is over."""

    def __init__(self, *plan):
        self.plan, self.bodies = list(plan), []

    def routes(self):
        return [web.post("/done", self._done)]

    async def _done(self, request):
        self.bodies.append(await request.text())
        answer = self.plan.pop(0) if self.plan else 200
        if answer == "hang":
            while request.transport is not None:  # until the worker hangs up
                await asyncio.sleep(0.02)
        if answer == "cut":
            request.transport.abort()
        return web.Response(status=answer if isinstance(answer, int) else 500)


@pytest.fixture
def report(monkeypatch):
    """Reports to a receiver, without pauses between the tries."""
    from handler import job_loop  # here, because importing the SDK takes over a second in each test process

    monkeypatch.setattr(job_loop, "REPORT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(job_loop, "REPORT_WAIT", tenacity.wait_none())

    async def post(receiver):
        async with aiohttp.ClientSession() as session:
            await job_loop.report(session, f"http://{receiver.address}/done", b"{}", "job")

    return lambda receiver: asyncio.run(post(receiver))


def test_a_result_is_reported_through_an_outage(report):
    """Errors of the server, cut connections and an answer that never comes: the same result arrives in the end."""
    plan = [500, "cut", "hang", 503, 429]
    with Receiver(*plan) as receiver:
        report(receiver)
    assert receiver.bodies == ["{}"] * (len(plan) + 1)


@pytest.mark.parametrize(("plan", "tries"), [([400], 1), ([404], 1), ([500] * 20, 8), (["hang"] * 20, 8)])
def test_a_report_is_given_up(report, plan, tries):
    """At once if it is refused, which another try does not change, and otherwise after some tries."""
    with Receiver(*plan) as receiver, pytest.raises(aiohttp.ClientError):
        report(receiver)
    assert len(receiver.bodies) == tries


def test_a_reply_is_sent_but_not_printed():
    """The SDK formats each reply for a debug log, even if that is off."""
    from handler.job_loop import Unprinted  # as above

    reply = Unprinted({"image_base64": "x" * 1000, "seed": 7})
    assert str({"output": reply}) == "{'output': <reply with image_base64, seed>}"
    assert pydantic_core.to_json({"output": reply}) == json.dumps({"output": reply}, separators=(",", ":")).encode()
