"""Stop signals: everything is over within eight seconds, and no job is lost, failed or drawn for no one.

ComfyUI is a child that speaks its protocol and fails as planned.
"""

import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import fake_comfyui
import psutil
import pytest
import requests
from server import Server

STOP_S = 8.0
STARTED_S = 1.0  # a job is under way


def also(signum):
    return pytest.param(signum, marks=pytest.mark.soak)


@pytest.fixture
def serve(tmp_path):
    """Starts a server on a fake ComfyUI: `serve(graphs=[...])`."""
    servers = []

    def serve(**plan):
        fake_comfyui.install(tmp_path / "comfyui", **plan)
        servers.append(Server(tmp_path / "data", COMFYUI_DIR=str(tmp_path / "comfyui"), WARM_UP="off"))
        servers[-1].start()
        return servers[-1]

    yield serve
    for server in servers:
        server.kill()


def comfyui_of(server):
    return next(child for child in psutil.Process(server.process.pid).children() if "--port" in child.cmdline())


def until_it_is(server, job_id, status):
    end_s = time.monotonic() + 10
    while server.status(job_id)["status"] != status:
        assert time.monotonic() < end_s
        time.sleep(0.02)


def stopped(server, *signums, also=()):
    """Returns the seconds that the server and its ComfyUI take to end after the signals."""
    comfyui = comfyui_of(server)
    started_s = time.monotonic()
    for signum in signums:
        for pid in (*also, server.process.pid):
            os.kill(pid, signum)
    try:
        server.process.wait(30)
        comfyui.wait(1)
    finally:
        server.http.close()
    return time.monotonic() - started_s


@pytest.mark.parametrize("signum", [signal.SIGTERM, *(also(signum) for signum in (signal.SIGINT, signal.SIGHUP))])
def test_a_signal_to_the_whole_group_fails_no_job(serve, signum):
    """After a signal to ComfyUI as well, as `systemctl stop` and Ctrl+C send it, the running job finishes in time."""
    server = serve(graphs=["slow"])
    job_id = server.run()
    until_it_is(server, job_id, "IN_PROGRESS")
    assert stopped(server, signum, also=[comfyui_of(server).pid]) < STOP_S
    server.start()
    job = server.result(job_id)
    assert job["status"] == "COMPLETED"
    assert json.loads(job["output"]["info"])["attempts"] == 1


@pytest.mark.soak
def test_a_job_whose_comfyui_ends_with_us_is_no_failure(serve):
    """ComfyUI is killed in the same moment: the job waits for the next start."""
    server = serve(graphs=["slow"])
    job_id = server.run()
    until_it_is(server, job_id, "IN_PROGRESS")
    server.process.send_signal(signal.SIGTERM)
    comfyui_of(server).kill()
    server.process.wait(30)
    server.start()
    assert server.result(job_id)["status"] == "COMPLETED"


@pytest.mark.parametrize("signum", [signal.SIGHUP, *(also(signum) for signum in (signal.SIGINT, signal.SIGTERM))])
def test_a_hung_comfyui_does_not_delay_a_stop(serve, signum):
    """It hangs in a job, which then runs at the next start."""
    server = serve(graphs=["hang"])
    job_id = server.run()
    until_it_is(server, job_id, "IN_PROGRESS")
    time.sleep(STARTED_S)
    assert stopped(server, signum) < STOP_S
    server.start()
    assert server.result(job_id)["status"] == "COMPLETED"


def test_a_body_that_stalls_does_not_delay_a_stop(serve):
    """Nor does a connection that sends nothing."""
    server = serve()
    head = f"POST /v2/x/run HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as stalled:
        stalled.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        with socket.create_connection(("127.0.0.1", server.port)):
            time.sleep(0.2)
            assert stopped(server, signal.SIGTERM) < STOP_S


def test_a_cancel_just_before_a_stop_is_kept(serve):
    """The job that was cancelled does not run at the next start, whatever the answer was."""
    server = serve(graphs=["slow"])
    job_id = server.run()
    until_it_is(server, job_id, "IN_PROGRESS")
    with ThreadPoolExecutor() as pool:
        cancelled = pool.submit(requests.post, f"{server.jobs}/cancel/{job_id}", timeout=30)
        until_it_is(server, job_id, "CANCELLED")
        assert stopped(server, signal.SIGTERM) < STOP_S
        assert cancelled.result().json()["status"] == "CANCELLED"
    server.start()
    assert server.status(job_id)["status"] == "CANCELLED"


def test_a_picture_for_a_caller_who_is_gone_is_not_drawn(serve):
    """/txt2img answers 503 at the signal; its job is cancelled, as it is at the start after a kill."""
    server = serve(graphs=["slow", "slow"])
    body = {"prompt": "x", "width": 64, "height": 64}

    def draw():
        return requests.post(f"{server.url}/alpha/v1/txt2img", json=body, timeout=30)

    def health():
        return server.http.get(f"{server.jobs}/health").json()["jobs"]

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(draw)
        while not health()["inProgress"]:
            time.sleep(0.02)
        assert stopped(server, signal.SIGTERM) < STOP_S
        assert waiting.result().status_code == 503
        server.start()
        assert (health()["inQueue"], health()["inProgress"], health()["completed"]) == (0, 0, 0)
        waiting = [pool.submit(draw) for _ in range(2)]
        while health()["inProgress"] + health()["inQueue"] < 2:
            time.sleep(0.02)
        job_id = server.run()
        server.kill()
        assert all(isinstance(one.exception(), requests.ConnectionError) for one in waiting)
    server.start()
    assert server.result(job_id)["status"] == "COMPLETED"
    assert (health()["inQueue"], health()["inProgress"], health()["completed"]) == (0, 0, 1)
