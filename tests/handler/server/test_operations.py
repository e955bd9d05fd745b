"""The routes for operating the server, and its pages."""

import threading
import time

import pytest
from calls import submit, when

from handler.errors import ComfyUnavailable


def test_ping_tells_whether_the_worker_is_warm(make):
    """204 while it starts, then 200."""
    gate = threading.Event()
    client = make(prepare=lambda: gate.wait(10))
    assert client.get("/ping").status_code == 204
    gate.set()
    while client.get("/ping").status_code == 204:
        time.sleep(0.01)
    assert client.get("/ping").status_code == 200


def test_ping_tells_that_the_worker_could_not_start(make):
    """A load balancer then takes another."""

    def prepare():
        raise ComfyUnavailable("ComfyUI ended while starting, exit status 1")

    client = make(prepare=prepare)
    while client.get("/ping").status_code == 204:
        time.sleep(0.01)
    assert client.get("/ping").status_code == 503


def test_metrics_count_jobs_and_seconds(client):
    """Accepted, by outcome, and seconds by stage."""
    when(client, submit(client), "COMPLETED")
    when(client, submit(client, "fail once"), "FAILED")
    lines = client.get("/metrics").text.splitlines()
    for line in (
        "alpha_jobs_accepted_total 2.0",
        'alpha_jobs_finished_total{outcome="completed"} 1.0',
        'alpha_jobs_finished_total{outcome="failed"} 1.0',
        'alpha_stage_seconds_count{stage="Sampler"} 1.0',
    ):
        assert line in lines


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_need_no_other_host(client, path):
    """They work without the internet."""
    page = client.get(path)
    assert page.status_code == 200
    assert all(part.startswith("www.w3.org") for part in page.text.split("https://")[1:])
    assert "//cdn" not in page.text
