"""When the RunPod worker takes jobs and sends results: the real SDK against the control plane.

ComfyUI is a child that speaks its protocol and fails as planned.
"""

import asyncio
import json
import os
import signal
import subprocess
import time

import fake_comfyui
import pytest
from aiohttp import web
from control_plane import ControlPlane
from server import PROGRAM, TINY

SMALL = {"prompt": "x", "width": 64, "height": 64}
CUDA = "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"


class SlowControlPlane(ControlPlane):
    """Acknowledges the first result only when the second one has arrived, or after 10 s.

    Attributes:
        events: what has happened: "taken", "empty" or "refused" for a request for a job, "result", "acknowledged".
        is_down: whether it refuses requests for a job.
    """

    def __init__(self):
        super().__init__()
        self.events, self.is_down = [], False

    async def _done(self, request):
        response, is_first = await super()._done(request), "result" not in self.events
        if json.loads(await request.read()).get("status") == "IN_PROGRESS":
            return response
        self.events.append("result")
        end_s = time.monotonic() + 10
        while is_first and self.events.count("result") < 2 and time.monotonic() < end_s:
            await asyncio.sleep(0.01)
        self.events.append("acknowledged")
        return response

    async def _take(self, request):
        if self.is_down:
            self.events.append("refused")
            return web.Response(status=500)
        response = await super()._take(request)
        self.events.append("taken" if response.status == 200 else "empty")
        return response


@pytest.fixture
def worker(tmp_path):
    """Starts a worker on a fake ComfyUI: `worker(runpod, graphs=[...])` returns the process and ComfyUI's plan."""
    made = []

    def make(runpod, **plan):
        plan_file = fake_comfyui.install(tmp_path / "comfyui", **plan)
        own = {"COMFYUI_DIR": str(tmp_path / "comfyui"), "WARM_UP": "off"}
        environment = os.environ | TINY | runpod.environment | own
        made.append(subprocess.Popen([PROGRAM, "worker"], env=environment, start_new_session=True, cwd="/"))
        return made[-1], plan_file

    yield make
    for process in made:
        process.kill()
        process.wait()


def test_a_result_is_sent_while_the_next_job_is_drawn(worker):
    """RunPod does not acknowledge the first result before it has the second; a third job is not taken meanwhile."""
    with SlowControlPlane() as runpod:
        for job_id in ("first", "second", "third"):
            runpod.submit(job_id, SMALL)
        worker(runpod, decoding_s=0.5)
        assert [runpod.result(30)[0] for _ in range(3)] == ["first", "second", "third"]
    assert runpod.taken == ["first", "second", "third"]
    first_end = runpod.events.index("acknowledged")
    assert sorted(runpod.events[:first_end]) == ["result", "result", "taken", "taken"]
    assert runpod.events[:2] == ["taken", "taken"]  # the second job when the first one was nearly done


def test_runpod_is_not_asked_without_a_pause(worker):
    """It may answer at once without a job, or have an outage."""
    with SlowControlPlane() as runpod:
        runpod.poll_s = 0
        worker(runpod)
        for answer, least, most in (("empty", 3, 12), ("refused", 1, 3)):
            while answer not in runpod.events:
                time.sleep(0.05)
            runpod.events.clear()
            time.sleep(2 if answer == "refused" else 1)
            assert least <= runpod.events.count(answer) <= most
            runpod.is_down = True


def test_a_job_is_not_taken_before_the_last_one_is_nearly_done(worker):
    """Another worker could draw it; a job that was taken before a stop signal is drawn."""
    with ControlPlane() as runpod:
        process, plan = worker(runpod, graphs=["slow", "slow", "slow"])
        for job_id in ("first", "second", "third"):
            runpod.submit(job_id, SMALL)
        while not json.loads(plan.read_text())["seen"][1:]:
            time.sleep(0.05)
        time.sleep(1)
        assert runpod.taken == ["first"]
        assert runpod.result(30)[0] == "first"
        process.send_signal(signal.SIGTERM)
        assert runpod.result(30)[0] == "second"
        assert process.wait(30) == 0
    assert runpod.taken == ["first", "second"]


def test_a_job_that_was_taken_is_left_to_another_worker(worker):
    """The GPU breaks when the first job is nearly done: the second one is taken by then, and must not fail."""
    with ControlPlane() as runpod:
        process, _ = worker(runpod, graphs=[f"late {CUDA}"] * 2)
        for job_id in ("first", "second", "third"):
            runpod.submit(job_id, SMALL)
        job_id, posted, _ = runpod.result(30)
        assert (job_id, posted["stopPod"]) == ("first", True)
        assert process.wait(30) == 1
        assert runpod.results.empty()
    assert runpod.taken == ["first", "second"]
