"""The routes for operating the server, and its pages."""

import threading
import time

import pytest
from calls import JOBS, error, submit, when

import handler
from handler.errors import ModelMissing, StorageUnavailable
from handler.server import readiness


def until(client, status):
    end_s = time.monotonic() + 10
    while client.get("/ping").status_code != status:
        assert time.monotonic() < end_s
        time.sleep(0.01)


def workers(client):
    """Returns the worker's state: the one count of /health that is not 0."""
    (state,) = [state for state, count in client.get(f"{JOBS}/health").json()["workers"].items() if count]
    return state


def test_ping_tells_whether_the_worker_is_warm(make):
    """204 while it starts, then 200; jobs wait until then."""
    gate = threading.Event()
    client = make(prepare=lambda: gate.wait(10))
    job_id = submit(client)
    assert client.get("/ping").status_code == 204
    assert workers(client) == "initializing"
    assert client.get(f"{JOBS}/status/{job_id}").json()["status"] == "IN_QUEUE"
    gate.set()
    until(client, 200)
    when(client, job_id, "COMPLETED")
    assert workers(client) == "idle"


def test_a_worker_that_cannot_start_keeps_its_queue(make, monkeypatch):
    """/ping is 503, a job waits, /txt2img has the reason at once; when the fault is repaired, the job runs."""
    monkeypatch.setattr(readiness, "RETRY_S", 0.05)
    broken = threading.Event()
    broken.set()

    def prepare():
        if broken.is_set():
            raise StorageUnavailable("the folder for temporary files cannot be used: No space left on device")

    client = make(prepare=prepare)
    until(client, 503)
    job_id = submit(client)
    assert workers(client) == "unhealthy"
    reason = "the folder for temporary files cannot be used: No space left on device"
    for response in (client.post("/alpha/v1/txt2img", json={"prompt": "x"}), client.get("/ping")):
        assert error(response) == (503, "storage_unavailable", reason)
    assert client.get(f"{JOBS}/health").json()["unhealthyReason"] == f"storage_unavailable: {reason}"
    assert client.get(f"{JOBS}/status/{job_id}").json()["status"] == "IN_QUEUE"
    broken.clear()
    when(client, job_id, "COMPLETED")
    assert client.get("/ping").status_code == 200


def test_a_job_fails_if_only_its_own_weights_are_missing(client):
    """Those of another workflow than the default; the next job runs."""
    assert when(client, submit(client, "without weights"), "FAILED")["error"].startswith("model_missing: ")
    when(client, submit(client), "COMPLETED")


def test_a_job_that_cannot_be_put_back_fails(make, monkeypatch):
    """The weights and the disk vanish together, as with a volume: the job ends all the same."""

    def vanished(*_):
        raise ModelMissing("models/checkpoints/x.safetensors missing")

    def full(*_):
        raise StorageUnavailable("database or disk is full")

    client = make(check_weights=vanished)
    monkeypatch.setattr(client.service.store, "put_back", full)
    when(client, submit(client, "without weights"), "FAILED")
    assert client.get("/ping").status_code == 503


def test_ping_follows_comfyui(client):
    """204 while it is restarted, 503 once it is given up, and no job is taken then."""
    until(client, 200)
    comfyui = client.service.readiness.comfyui
    comfyui.is_ready = False
    assert client.get("/ping").status_code == 204
    comfyui.unfit_reason = "ComfyUI ended: it was killed by SIGKILL"
    comfyui.unfit.set()
    assert client.get("/ping").status_code == 503
    job_id = submit(client)
    time.sleep(0.3)
    assert client.get(f"{JOBS}/status/{job_id}").json()["status"] == "IN_QUEUE"
    comfyui.unfit.clear()
    comfyui.is_ready = True
    when(client, job_id, "COMPLETED")


def test_metrics_count_jobs_and_seconds(client):
    """Accepted, by outcome, and seconds by stage."""
    when(client, submit(client), "COMPLETED")
    when(client, submit(client, "fail once"), "FAILED")
    lines = client.get("/metrics").text.splitlines()
    for line in (
        "alpha_jobs_accepted_total 2.0",
        'alpha_jobs_finished_total{outcome="completed"} 1.0',
        'alpha_jobs_finished_total{outcome="failed"} 1.0',
        'alpha_job_errors_total{code="node_failed"} 1.0',
        'alpha_stage_seconds_count{stage="Sampler"} 1.0',
        f'alpha_build_info{{version="{handler.__version__}"}} 1.0',
    ):
        assert line in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_need_no_other_host(client, path):
    """They work without the internet."""
    page = client.get(path)
    assert page.status_code == 200
    assert all(part.startswith("www.w3.org") for part in page.text.split("https://")[1:])
    assert "//cdn" not in page.text
