"""Jobs survive a stop and a kill of `layerdiffuse-alpha serve`."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from server import SMALL


def test_no_job_is_lost_when_the_server_is_killed(server):
    """After kill -9 amid 20 jobs, ComfyUI ends and leaves no files; the next start draws all 20 pictures."""
    before = server.http.get(f"{server.jobs}/health").json()["jobs"]["completed"]
    jobs = [server.run(seed=number) for number in range(20)]
    while server.http.get(f"{server.jobs}/health").json()["jobs"]["completed"] < before + 5:
        time.sleep(0.02)
    comfyui = server.comfyui()
    command = comfyui.cmdline()
    scratch = Path(command[command.index("--output-directory") + 1]).parent
    assert scratch.is_dir()
    server.kill()
    comfyui.wait(10)
    assert not scratch.exists()
    server.start()
    results = [server.result(job_id) for job_id in jobs]
    assert [result["status"] for result in results] == ["COMPLETED"] * 20
    assert [result["output"]["seed"] for result in results] == list(range(20))


def test_a_stop_signal_ends_the_server_and_loses_nothing(server):
    """It stops within ten seconds; a waiting caller gets an answer, and the job runs after the next start."""
    job_id = server.run(num_inference_steps=40, width=256, height=256)
    with ThreadPoolExecutor() as pool:
        envelope = {"input": {"prompt": "a red apple", **SMALL}}
        sync = pool.submit(requests.post, f"{server.jobs}/runsync", json=envelope, timeout=60)
        alpha = pool.submit(requests.post, f"{server.url}/alpha/v1/txt2img", json=envelope["input"], timeout=60)
        while server.http.get(f"{server.jobs}/health").json()["jobs"]["inQueue"] < 2:
            time.sleep(0.02)
        assert server.status(job_id)["status"] == "IN_PROGRESS"
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 12
        assert sync.result().json()["status"] == "IN_QUEUE"
        assert alpha.result().status_code == 503
    server.start()
    assert server.result(job_id)["status"] == "COMPLETED"
    assert server.result(sync.result().json()["id"])["status"] == "COMPLETED"
