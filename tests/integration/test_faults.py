"""Faults around a job on the real ComfyUI: each ends in a clear error, and the next job works."""

import asyncio
import os
import signal
import threading
import time

import pytest
from test_jobs import job, picture, works

from handler.deadline import Deadline
from handler.errors import JobTimeout

LONG = {"prompt": "x", "seed": 1, "width": 512, "height": 512, "num_inference_steps": 60}


async def after_first_step(handle, act):
    """Starts a long job, calls `act` with its task once it samples, returns the task."""
    task = asyncio.create_task(handle({"id": "long", "input": LONG}))
    await asyncio.sleep(1.5)
    assert not task.done()
    act(task)
    return task


def test_comfyui_killed_in_a_job(comfyui, handle, small):
    """If ComfyUI is killed, the job fails within seconds; ComfyUI is restarted, and the next picture is the same."""
    before = job(handle, small)
    killed_pid = comfyui.pid

    async def kill_in_a_job():
        task = await after_first_step(handle, lambda _: os.kill(killed_pid, signal.SIGKILL))
        started_s = time.monotonic()
        return await task, time.monotonic() - started_s

    reply, seconds = asyncio.run(kill_in_a_job())
    assert reply["error"].startswith("comfyui_unavailable: ")
    assert seconds < 10
    after = job(handle, small)
    assert comfyui.pid not in (None, killed_pid)
    assert picture(after) == picture(before)
    assert picture(job(handle, small | {"seed": 8})) != picture(before)


def test_comfyui_killed_between_jobs(comfyui, handle, small):
    """If ComfyUI is killed while idle, the next job restarts it and succeeds."""
    os.kill(comfyui.pid, signal.SIGKILL)
    time.sleep(0.5)
    assert works(handle, small)


def test_comfyui_hangs_in_a_job(comfyui, generator, handle, small):
    """If ComfyUI hangs, the job ends soon after its deadline, and the next job gets a new ComfyUI."""
    hung_pid = comfyui.pid
    threading.Timer(1.0, os.kill, (hung_pid, signal.SIGSTOP)).start()
    before = time.monotonic()
    with pytest.raises(JobTimeout):
        generator.generate(generator.parse(LONG), Deadline(3))
    assert time.monotonic() - before < 12
    assert comfyui.pid != hung_pid
    assert works(handle, small)


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
    queue = comfyui.client(Deadline(10))._json("GET", "/queue")
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
