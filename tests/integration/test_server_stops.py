"""Jobs survive a stop and a kill of `layerdiffuse-alpha serve`; with -m soak also on the real ComfyUI."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fake_comfyui
import pytest
import requests
from server import SMALL, Server


@pytest.fixture(params=["stand-in", pytest.param("ComfyUI", marks=pytest.mark.soak)])
def serve(request, tmp_path):
    """Starts a server: `serve(graphs=["slow"])`."""
    servers = []

    def serve(**plan):
        own = {}
        if request.param == "stand-in":
            fake_comfyui.install(tmp_path / "comfyui", **plan)
            own = {"COMFYUI_DIR": str(tmp_path / "comfyui"), "WARM_UP": "off"}
        servers.append(Server(tmp_path / "data", **own))
        servers[-1].start()
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()
        server.http.close()


def test_no_job_is_lost_when_the_server_is_killed(serve):
    """After kill -9 amid 20 jobs, ComfyUI ends and leaves no files; the next start draws all 20 pictures."""
    server = serve()
    jobs = [server.run(seed=number) for number in range(20)]
    while server.http.get(f"{server.jobs}/health").json()["jobs"]["completed"] < 5:
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


def test_finished_pictures_survive_a_kill(serve):
    """After kill -9 while the third of four is drawn, the next start draws two, with the seeds chosen before."""
    server = serve(graphs=["", "", "slow"])
    job_id = server.run(num_images=4, num_inference_steps=20)
    folder = server.data_dir / "pictures"
    while server.status(job_id).get("output", {}).get("image") != 3:
        time.sleep(0.02)
    time.sleep(0.5)  # until the second one is stored
    server.kill()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(before) == 2
    server.start()
    output = server.result(job_id)["output"]
    seeds = [image["seed"] for image in output["images"]]
    assert seeds == [output["seed"] + number for number in range(4)]
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(after) == {image["filename"] for image in output["images"]}
    assert {name: after[name] for name in before} == before
    assert set(before) == {image["filename"] for image in output["images"][:2]}


def test_a_stop_signal_ends_the_server_and_loses_nothing(serve):
    """It stops within ten seconds; a waiting caller gets an answer, and the job runs after the next start."""
    server = serve(graphs=["slow"])
    job_id = server.run(num_inference_steps=40, width=256, height=256)
    while server.status(job_id)["status"] != "IN_PROGRESS":
        time.sleep(0.02)
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
