"""Faults around a job on the real ComfyUI: each ends in a clear error, and the next job works."""

import asyncio
import time

import pytest
from test_jobs import works

from handler.deadline import Deadline
from handler.errors import JobTimeout, OutOfMemory
from handler.job.runner import Job, Runner

LONG = {"prompt": "x", "seed": 1, "width": 512, "height": 512, "num_inference_steps": 60}


async def after_first_step(handle, act):
    """Starts a long job, calls `act` with its task once it samples, returns the task."""
    task = asyncio.create_task(handle({"id": "long", "input": LONG}))
    await asyncio.sleep(1.5)
    assert not task.done()
    act(task)
    return task


def test_comfyui_killed_in_a_job(comfyui, generator, small, planned_fault):
    """SIGKILL while it samples the second picture of three: only that one is drawn again, with the same pixels."""
    request = generator.parse(small | {"seed": 20, "num_images": 3})
    before, _ = Runner(generator).run(Job("before", request), Deadline(100))
    killed_pid = comfyui.pid
    planned_fault(sample=["", "kill"])
    after, outcome = Runner(generator).run(Job("killed", request), Deadline(100))
    assert comfyui.pid not in (None, killed_pid)
    assert after == before
    assert [picture.info["attempts"] for picture in outcome.pictures] == [1, 2, 1]
    assert [picture.random_values["seed"] for picture in outcome.pictures] == [20, 21, 22]


def test_memory_is_freed_for_a_second_attempt(comfyui, generator, small, planned_fault):
    """An out-of-memory error of torch in ComfyUI: the job runs again; if it repeats, the error says what to do."""
    pid = comfyui.pid
    planned_fault(sample=["out of memory"])
    assert generator.generate(generator.parse(small | {"seed": 9}), Deadline(60)).info["attempts"] == 2
    planned_fault(sample=["out of memory", "out of memory"])
    with pytest.raises(OutOfMemory, match="KSampler ran out of memory: ask for a smaller picture"):
        generator.generate(generator.parse(small | {"seed": 8}), Deadline(60))
    assert comfyui.pid == pid


@pytest.mark.soak
@pytest.mark.parametrize("place", ["sample", "validate", "done"])
def test_a_fault_that_sticks_restarts_comfyui(comfyui, generator, small, planned_fault, place):
    """A CUDA error in a node, while a graph is checked (HTTP 500), or in the thread that runs graphs."""
    generator.generate(generator.parse(small | {"seed": 11}), Deadline(60))
    restarts = comfyui.restarts()
    planned_fault(**{place: ["cuda"]})
    assert generator.generate(generator.parse(small | {"seed": 12}), Deadline(60)).info["attempts"] == 2
    assert comfyui.restarts() == restarts + 1
    assert not comfyui.unfit.is_set()


def test_a_job_that_takes_too_long(comfyui, generator, handle, small):
    """At its deadline the run is interrupted; the error comes soon after, and ComfyUI is not restarted."""
    pid = comfyui.pid
    before = time.monotonic()
    with pytest.raises(JobTimeout, match="longer than 2 s"):
        generator.generate(generator.parse(LONG), Deadline(2))
    assert time.monotonic() - before < 8
    assert comfyui.pid == pid
    assert works(handle, small)


def test_a_cancelled_job_is_removed(comfyui, handle, small):
    """CancelledError, with which the SDK stops a job, interrupts the run and is raised again; then ComfyUI is idle."""
    pid = comfyui.pid

    async def cancel_it():
        task = await after_first_step(handle, lambda task: task.cancel())
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_it())
    queue = comfyui.client(Deadline(10))._api._json("GET", "/queue")
    assert queue == {"queue_running": [], "queue_pending": []}
    assert comfyui.pid == pid
    assert works(handle, small)


def test_the_event_loop_stays_free(handle, small):
    """While a job runs, the SDK's loop is never blocked for long, so it can take stop signals."""

    async def watch():
        task = asyncio.create_task(handle({"id": "x", "input": small | {"width": 256, "height": 256, "seed": 4321}}))
        longest_s = 0.0
        while not task.done():
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest_s = max(longest_s, time.monotonic() - before)
        return longest_s

    assert asyncio.run(watch()) < 1.0
