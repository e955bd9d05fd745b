"""Progress that the RunPod worker reports, over a scripted job."""

import asyncio
import itertools
import threading
import time

import pytest

from handler import serverless
from handler.job.picture import Outcome, PictureFacts
from handler.job.progress import JobProgress, Stage
from handler.settings import Settings

JOB = {"id": "1", "input": {}}
UPDATE_S = 0.2  # instead of a second


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Shortens the waiting times, so that the tests are fast."""
    assert serverless.UPDATE_S >= 1.0
    monkeypatch.setattr(serverless, "UPDATE_S", UPDATE_S)
    monkeypatch.setattr(serverless, "UPDATE_GRACE_S", 0.5)


class Scripted:
    """A runner whose job reports 60 steps in `lasts_s` seconds."""

    def __init__(self, lasts_s):
        self.lasts_s = lasts_s

    def parse(self, *_):
        return None

    def run(self, job, deadline, on_progress):
        for step in range(1, 61):
            on_progress(JobProgress(Stage.SAMPLING, step, 60))
            deadline.sleep(self.lasts_s / 60)
        on_progress(JobProgress(Stage.DECODING, 60, 60))
        deadline.sleep(2 * UPDATE_S)
        deadline.left_s()
        return [b"\x89PNG\r\n\x1a\n"], Outcome((PictureFacts("alpha_1_abcdef.png", {"seed": 7}, {}),))


def handled(send, lasts_s, cancel_after_s=None):
    """Returns when the handler returned, on the monotonic clock."""

    async def main():
        task = asyncio.create_task(serverless.make_handler(Scripted(lasts_s), Settings(), send)(JOB))
        if cancel_after_s is not None:
            await asyncio.sleep(cancel_after_s)
            task.cancel()
        try:
            assert "error" not in await task
        finally:
            returned.append(time.monotonic())
        await asyncio.sleep(2 * UPDATE_S)  # for updates that should not be sent any more

    returned = []
    asyncio.run(main())
    return returned[0]


def test_progress_is_sent_at_most_once_a_second_and_never_after_the_result():
    """Each update is newer than the one before; none is sent while the picture is decoded."""
    sent = []

    async def send(job, progress):
        sent.append((time.monotonic(), job, progress))

    returned_s = handled(send, lasts_s=3.5 * UPDATE_S)
    times_s, jobs, updates = zip(*sent, strict=True)
    steps = [progress.step for progress in updates]
    assert len(sent) >= 2
    assert all(later - earlier > 0.9 * UPDATE_S for earlier, later in itertools.pairwise(times_s))
    assert times_s[-1] < returned_s
    assert steps == sorted(set(steps))
    assert {progress.stage for progress in updates} == {Stage.SAMPLING}
    assert jobs[0] == JOB


def test_an_update_in_flight_arrives_before_the_result():
    """The handler waits for it."""
    began, arrived = [], []

    async def send(job, progress):
        began.append(time.monotonic())
        await asyncio.sleep(0.9)  # longer than the job lasts
        arrived.append(time.monotonic())

    returned_s = handled(send, lasts_s=0.2)
    assert len(arrived) == len(began) > 0
    assert arrived[-1] <= returned_s


def test_a_server_that_hangs_costs_the_time_of_grace():
    """Then the update is given up, and the result is sent."""
    started_s = time.monotonic()

    async def send(job, progress):
        await asyncio.Event().wait()

    assert handled(send, lasts_s=0.3) - started_s < 0.3 + serverless.UPDATE_GRACE_S + 1.5


def test_a_failed_update_does_not_fail_the_job(caplog):
    """It is logged."""

    async def send(job, progress):
        raise RuntimeError("no connection")

    handled(send, lasts_s=0.3)
    assert [record.getMessage() for record in caplog.records if record.name == serverless.__name__] == [
        "progress not sent"
    ]


def test_a_cancelled_job_sends_nothing_more():
    """The SDK cancels the handler's task."""
    sent = []

    async def send(job, progress):
        sent.append(time.monotonic())

    with pytest.raises(asyncio.CancelledError):
        handled(send, lasts_s=10, cancel_after_s=1.5 * UPDATE_S)
    assert len(sent) <= 2
    assert threading.active_count() < 20
