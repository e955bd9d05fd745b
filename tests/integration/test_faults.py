"""What goes wrong around a job on the real ComfyUI: each ends in a clear error, and the next job works."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_jobs import job, picture, works

from handler.comfyui.process import ComfyProcess
from handler.deadline import Deadline
from handler.errors import JobTimeout
from handler.job.generate import Generator
from handler.job.profiles import load
from handler.job.runner import Runner

LONG = {"prompt": "x", "seed": 1, "width": 512, "height": 512, "num_inference_steps": 60}


@pytest.fixture(scope="module")
def victim(settings):
    process = ComfyProcess(settings)
    yield process
    process.stop()


@pytest.fixture
def own_comfyui(victim):
    """A ComfyUI of these tests' own, to be killed."""
    victim.client(Deadline(120))
    return victim


async def after_first_step(handle, act):
    """Starts a long job, calls `act` with its task once it samples, returns the task."""
    task = asyncio.create_task(handle({"id": "long", "input": LONG}))
    await asyncio.sleep(1.5)
    assert not task.done()
    act(task)
    return task


def test_comfyui_killed_in_a_job(own_comfyui, settings, small):
    """SIGKILL of ComfyUI: the job ends in an error within seconds; the next finds it started again, pixels equal."""
    from handler.serverless import make_handler

    handle = make_handler(Runner(Generator(load(settings), own_comfyui, settings)), settings)
    before = job(handle, small)
    killed_pid = own_comfyui.pid

    async def kill_in_a_job():
        task = await after_first_step(handle, lambda _: os.kill(killed_pid, signal.SIGKILL))
        started_s = time.monotonic()
        return await task, time.monotonic() - started_s

    reply, seconds = asyncio.run(kill_in_a_job())
    assert reply["error"].startswith("comfyui_unavailable: ")
    assert seconds < 10
    after = job(handle, small)
    assert own_comfyui.pid not in (None, killed_pid)
    assert picture(after) == picture(before)
    assert picture(job(handle, small | {"seed": 8})) != picture(before)


def test_comfyui_killed_between_jobs(own_comfyui, settings, small):
    """Killed while idle, it is started again by the next job, which succeeds."""
    from handler.serverless import make_handler

    handle = make_handler(Runner(Generator(load(settings), own_comfyui, settings)), settings)
    os.kill(own_comfyui.pid, signal.SIGKILL)
    time.sleep(0.5)
    assert works(handle, small)


def test_comfyui_hangs_in_a_job(own_comfyui, settings, small):
    """A ComfyUI that is stopped, not dead: the job ends soon after its deadline, the next finds a fresh ComfyUI."""
    from handler.serverless import make_handler

    generator = Generator(load(settings), own_comfyui, settings)
    hung_pid = own_comfyui.pid
    threading.Timer(1.0, os.kill, (hung_pid, signal.SIGSTOP)).start()
    before = time.monotonic()
    with pytest.raises(JobTimeout):
        generator.generate(generator.parse(LONG), Deadline(3))
    assert time.monotonic() - before < 12
    assert own_comfyui.pid != hung_pid
    assert works(make_handler(Runner(generator), settings), small)


def test_a_job_that_takes_too_long(comfyui, settings, handle, small):
    """At its deadline the run is interrupted: the error comes soon after, and ComfyUI is not started again for it."""
    pid = comfyui.pid
    generator = Generator(load(settings), comfyui, settings)
    before = time.monotonic()
    with pytest.raises(JobTimeout, match="longer than 2 s"):
        generator.generate(generator.parse(LONG), Deadline(2))
    assert time.monotonic() - before < 8
    assert comfyui.pid == pid
    assert works(handle, small)


def test_a_cancelled_job_is_taken_off(comfyui, handle, small):
    """CancelledError, by which the SDK stops a job, interrupts the run and is raised again; ComfyUI is idle then."""
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
    """While a job runs, the SDK's loop can take stop signals: it is never blocked for long."""

    async def watch():
        task = asyncio.create_task(handle({"id": "x", "input": small | {"width": 256, "height": 256, "seed": 4321}}))
        longest_s = 0.0
        while not task.done():
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest_s = max(longest_s, time.monotonic() - before)
        return longest_s

    assert asyncio.run(watch()) < 1.0


def test_comfyui_ends_when_the_worker_is_killed(settings):
    """SIGKILL of the worker leaves no ComfyUI behind, and nothing of it on disk."""
    program = (
        "from handler.comfyui.process import ComfyProcess\n"
        "from handler.settings import Settings\n"
        "from handler.deadline import Deadline\n"
        "comfyui = ComfyProcess(Settings(profile='tiny', device='cpu'))\n"
        "comfyui.client(Deadline(120))\n"
        "print(comfyui.pid, flush=True)\n"
        "import time; time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as worker:
        pid = int(worker.stdout.readline())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        scratch = Path(command[command.index(b"--output-directory") + 1].decode()).parent
        assert scratch.is_dir()
        worker.kill()
    end_s = time.monotonic() + 10
    while time.monotonic() < end_s and is_running(pid):
        time.sleep(0.1)
    assert not is_running(pid)
    assert not scratch.exists()


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return stat.read().split(") ")[1][0] != "Z"
    except OSError:
        return False
