"""The worker as a program, with the SDK's real loop, local API and --test_input."""

import base64
import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import fake_comfyui
import pytest
import requests
from control_plane import ControlPlane
from server import PROGRAM, ROOT, TINY, run

from handler.job.png import check_png

START_STAGES = ["process", "imports", "comfyui_ready", "weights_read", "patched", "on_device", "warm"]


def start(*arguments, stderr=None, **environment):
    return subprocess.Popen(
        [PROGRAM, *arguments], env=os.environ | TINY | environment, start_new_session=True, cwd="/", stderr=stderr
    )


def end(process):
    """Kills it and the processes that the SDK forked; ComfyUI ends with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def children(pid):
    """Returns the process ids of all descendants of `pid`."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [int(child) for child in found] + [grand for child in found for grand in children(child)]


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("comfyui", ["stand-in", pytest.param("ComfyUI", marks=pytest.mark.soak)])
def test_a_test_input_prints_a_completed_job(tmp_path, comfyui):
    """--test_input runs one job through the SDK and prints its result as the last line, in the API's shape.

    The models folder is empty, and the volume has the weights. ComfyUI, or one that speaks its protocol.
    """
    (tmp_path / "models").mkdir()
    job = '{"input": {"prompt": "a red apple", "seed": 7, "width": 64, "height": 64}}'
    folders = {"MODELS_DIR": str(tmp_path / "models"), "WEIGHTS_DIRS": str(ROOT / "models")}
    if comfyui == "stand-in":
        fake_comfyui.install(tmp_path / "comfyui")
        folders |= {"COMFYUI_DIR": str(tmp_path / "comfyui")}
    done = run("worker", "--test_input", job, **folders)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["id"], result["status"]) == ("local_test", "COMPLETED")
    check_png(base64.b64decode(result["output"]["image_base64"]), 64, 64)


def test_a_bad_test_input_names_every_fault():
    """One error lists all three faults, ComfyUI is not started, and the exit status is 1."""
    done = run("--test_input", '{"input": {"seed": true, "steps": 3}}', COMFYUI_DIR="/nowhere")
    assert done.returncode == 1
    result = json.loads(done.stdout.splitlines()[1])
    assert result["status"] == "FAILED"
    assert result["error"].startswith("invalid_input: prompt is required; seed must be an integer")
    assert 'unknown field "steps"' in result["error"]


def test_wrong_use_is_one_line_on_standard_error():
    """The whole program, with all that it imports; more cases in tests/handler/cli/test_wrong_use.py."""
    done = run()
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("layerdiffuse-alpha: no jobs to take: pass --test_input")


def test_torch_is_not_in_the_workers_environment():
    """torch cannot be imported, because the SDK would then open a CUDA context in this process."""
    python = ROOT / ".venv" / "bin" / "python"
    done = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError: No module named 'torch'" in done.stderr


def test_the_sdk_loop(tmp_path):
    """RunPod's protocol from start to SIGTERM: warm-up before the first job, results, errors, a stop, the end.

    Its log says how long each stage of the start took.

    One worker for all of it, since each start takes ComfyUI's ten seconds.
    """
    small = {"prompt": "a red apple", "seed": 7, "width": 64, "height": 64, "num_inference_steps": 4}
    log = tmp_path / "log"
    with ControlPlane() as runpod, log.open("w") as stderr:
        runpod.submit("good", small)
        began_s = time.monotonic()
        worker = start("worker", stderr=stderr, LOG_FORMAT="json", **runpod.environment)
        try:
            job_id, posted, size_bytes = runpod.result()
            assert job_id == "good"
            assert posted["output"]["status"] == "success"
            assert size_bytes < 10_000_000
            started = next(json.loads(line) for line in log.read_text().splitlines() if '"event": "started"' in line)
            assert list(started["seconds"]) == START_STAGES
            assert '"event": "weights read ahead"' in log.read_text()
            moments_s = list(started["seconds"].values())
            assert 0 < moments_s[0] < moments_s[1]  # ComfyUI boots while the SDK is imported
            assert moments_s[1:] == sorted(moments_s[1:])
            assert moments_s[-1] < time.monotonic() - began_s + 0.02
            check_png(base64.b64decode(posted["output"]["image_base64"]), 64, 64)
            # Warm: the checkpoint was loaded before the job came.
            assert "Checkpoint" not in json.loads(posted["output"]["info"])["seconds"]

            runpod.submit("bad", {"prompt": 3})
            job_id, posted, _ = runpod.result()
            assert (job_id, list(posted)) == ("bad", ["error"])
            assert posted["error"].startswith("invalid_input: prompt must be a string")

            runpod.submit("stopped", {"prompt": "x", "width": 512, "height": 512, "num_inference_steps": 60})
            time.sleep(2)
            progress = [progress for job_id, progress in runpod.progress if job_id == "stopped"]
            assert {"loading", "sampling"} >= {each["stage"] for each in progress} != set()
            runpod.stop("stopped")
            runpod.submit("after", small)
            job_id, posted, _ = runpod.result(30)
            assert job_id == "after"
            assert posted["output"]["seed"] == 7

            family = [worker.pid, *children(worker.pid)]
            runpod.submit("drained", {**small, "width": 256, "height": 256, "num_inference_steps": 30})
            time.sleep(1)
            runpod.submit("for another worker", small)
            worker.send_signal(signal.SIGTERM)
            job_id, posted, _ = runpod.result(30)
            assert job_id == "drained"
            assert "for another worker" not in runpod.taken  # neither while a job ran nor after the stop signal
            assert posted["output"]["status"] == "success"
            assert worker.wait(30) == 0
            assert all(is_gone(pid) for pid in family)
            with pytest.raises(queue.Empty):
                runpod.result(0)
        finally:
            end(worker)


def test_the_local_api(tmp_path):
    """The SDK's API server answers /runsync; SIGTERM ends it and ComfyUI, here one that speaks its protocol.

    A workflow that is saved meanwhile is used for the next job.
    """
    fake_comfyui.install(tmp_path / "comfyui")
    workflow = shutil.copytree(ROOT / "workflows", tmp_path / "workflows") / "txt2img_alpha.json"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/runsync"
    server = start(
        "--rp_serve_api",
        "--rp_api_host",
        "127.0.0.1",
        "--rp_api_port",
        str(port),
        COMFYUI_DIR=str(tmp_path / "comfyui"),
        WORKFLOWS_DIR=str(workflow.parent),
    )
    try:
        wait_for(port, server)
        body = {"input": {"prompt": "a red apple", "seed": 7, "width": 64, "height": 64}}
        answer = requests.post(url, json=body, timeout=60).json()
        assert answer["status"] == "COMPLETED"
        assert answer["output"]["image_url"].startswith("data:image/png;base64,")
        answer = requests.post(url, json={"input": {"seed": True}}, timeout=60).json()
        assert answer["status"] == "FAILED"
        assert answer["error"].startswith("invalid_input: ")
        (tmp_path / "edited.json").write_text(workflow.read_text("utf-8").replace('"steps": 20', '"steps": 3'), "utf-8")
        (tmp_path / "edited.json").replace(workflow)
        end_s = time.monotonic() + 20
        while json.loads(requests.post(url, json=body, timeout=60).json()["output"]["info"])["steps"] != 3:
            assert time.monotonic() < end_s
            time.sleep(0.2)
        family = [server.pid, *children(server.pid)]
        server.terminate()
        server.wait(30)
        assert all(is_gone(pid) for pid in family)
    finally:
        end(server)


def wait_for(port, server):
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        assert server.poll() is None
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError("the server did not come up in 60 s")
