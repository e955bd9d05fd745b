"""What the server says about itself while ComfyUI is killed, or a weight file is missing.

ComfyUI is a child that speaks its protocol.
"""

import os
import shutil
import signal
import time

import fake_comfyui
import psutil
from server import ROOT, Server

CHECKPOINT = "checkpoints/tiny_sdxl.safetensors"
MISSING = f"models/{CHECKPOINT} missing or unreadable in MODELS_DIR, WEIGHTS_DIRS and HF_CACHE_DIR"


def comfyui_of(server):
    """Returns the process id of the server's ComfyUI, once there is one."""
    end_s = time.monotonic() + 20
    while True:
        for child in psutil.Process(server.process.pid).children():
            if "--port" in child.cmdline():
                return child.pid
        assert time.monotonic() < end_s
        time.sleep(0.05)


def until_ping(server, status):
    end_s = time.monotonic() + 30
    while server.http.get(f"{server.url}/ping", timeout=10).status_code != status:
        assert time.monotonic() < end_s
        time.sleep(0.02)


def metric(server, name):
    lines = server.http.get(f"{server.url}/metrics", timeout=10).text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def test_ping_health_and_metrics_follow_comfyui(tmp_path):
    """Killed in the warm-up, it is warm all the same; killed while idle, it is restarted at once, or given up."""
    fake_comfyui.install(tmp_path / "comfyui", graphs=["die"], starts=["", "", "", "die", "die", "die"])
    with Server(tmp_path / "data", COMFYUI_DIR=str(tmp_path / "comfyui"), WARM_UP="fast") as server:
        assert (metric(server, "alpha_comfyui_up"), metric(server, "alpha_comfyui_restarts_total")) == (1, 1)

        os.kill(comfyui_of(server), signal.SIGKILL)
        until_ping(server, 204)
        until_ping(server, 200)
        assert (metric(server, "alpha_comfyui_up"), metric(server, "alpha_comfyui_restarts_total")) == (1, 2)
        assert server.result(server.run())["status"] == "COMPLETED"

        os.kill(comfyui_of(server), signal.SIGKILL)
        until_ping(server, 503)
        assert metric(server, "alpha_comfyui_up") == 0
        waiting = server.run()
        time.sleep(0.5)
        assert server.status(waiting)["status"] == "IN_QUEUE"
        assert server.http.get(f"{server.jobs}/health").json()["workers"]["unhealthy"] == 1


def test_jobs_wait_for_a_weight_file(tmp_path):
    """It vanishes between two jobs: no job fails, also after a restart; /ping and /health name it, the log once."""
    models = shutil.copytree(ROOT / "models", tmp_path / "models")
    fake_comfyui.install(tmp_path / "comfyui")
    places = {"COMFYUI_DIR": str(tmp_path / "comfyui"), "MODELS_DIR": str(models), "WARM_UP": "off"}
    with (tmp_path / "log").open("w+") as log, Server(tmp_path / "data", **places) as server:
        (models / CHECKPOINT).unlink()
        waiting = [server.run() for _ in range(3)]
        until_ping(server, 503)
        assert [server.status(job_id)["status"] for job_id in waiting] == ["IN_QUEUE"] * 3
        assert server.http.get(f"{server.url}/ping").json()["error"]["message"] == MISSING
        assert server.http.get(f"{server.jobs}/health").json()["unhealthyReason"] == f"model_missing: {MISSING}"

        server.stop()
        server.output = log
        server.start(503)
        time.sleep(0.5)
        assert [server.status(job_id)["status"] for job_id in waiting] == ["IN_QUEUE"] * 3
        shutil.copy2(ROOT / "models" / CHECKPOINT, models / CHECKPOINT)
        assert [server.result(job_id)["status"] for job_id in waiting] == ["COMPLETED"] * 3
        assert server.http.get(f"{server.jobs}/health").json()["unhealthyReason"] is None
        log.seek(0)
        assert sum(CHECKPOINT in line and "INFO" not in line for line in log) == 1
