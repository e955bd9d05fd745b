"""Progress as server-sent events, over a scripted generator."""

import json

import httpx
import pytest
from calls import error, submit, when


def read(lines):
    """Returns the next event, as (name, data); comments, which keep the connection open, are skipped."""
    name = None
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            return name, json.loads(line.removeprefix("data: "))
    return None


@pytest.fixture
def served(serve_painted):
    url, service, painter = serve_painted()
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client, service, painter


def test_a_job_is_followed_from_the_queue_to_its_pictures(served):
    """Its place in the queue, each step, and the same URLs that txt2img responds with, which work."""
    client, _, painter = served
    before = submit(client, "wait")
    when(client, before, "IN_PROGRESS")
    between = submit(client, "an apple")
    job_id = submit(client, input={"prompt": "steps", "seed": 10, "num_images": 2})
    with client.stream("GET", f"/alpha/v1/jobs/{job_id}/events") as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        lines = response.iter_lines()
        name, queued = read(lines)
        assert (name, queued["stage"], queued["position"]) == ("progress", "queued", 2)
        for other in (between, before):
            client.post(f"/v2/local/cancel/{other}")
        seen = [queued]
        while seen[-1]["step"] < 2:
            seen.append(read(lines)[1])
        assert seen[-1] == {"stage": "sampling", "step": 2, "steps": 20, "image": 1, "images": 1}
        painter.go_on.set()
        while (event := read(lines))[0] == "progress":
            pass
        name, done = event
        assert (name, done["stage"], done["status"]) == ("done", "done", "COMPLETED")
        assert client.get(done["output"]["images"][1]["url"]).content == painter.png
        assert read(lines) is None


def test_a_finished_job_is_one_event(served):
    """Also a failed one, with its error."""
    client, _, painter = served
    painter.go_on.set()
    job_id = submit(client, "crash")
    for _ in range(2):
        with client.stream("GET", f"/alpha/v1/jobs/{job_id}/events") as response:
            events = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]
        assert events[-1]["status"] == "FAILED"
        assert events[-1]["error"].startswith("internal: ")
    assert len(events) == 1


def test_an_unknown_job_is_an_error(client):
    """Before the response begins."""
    assert error(client.get("/alpha/v1/jobs/none/events"))[:2] == (404, "not_found")


def test_a_stop_ends_the_events(serve_painted):
    """The job is not done, and the client can ask again after the next start."""
    url, service, _ = serve_painted()
    with httpx.Client(base_url=url, timeout=60) as client:
        job_id = submit(client, "wait")
        with client.stream("GET", f"/alpha/v1/jobs/{job_id}/events") as response:
            lines = response.iter_lines()
            assert read(lines)[0] == "progress"
            service.dispatcher.stop()
            assert all(event != "event: done" for event in lines)
