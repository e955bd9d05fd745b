"""Calls of the HTTP server that several tests make."""

import time

JOBS = "/v2/any-name"
TXT2IMG = "/alpha/v1/txt2img"


def submit(client, prompt="an apple", **more):
    """Returns the id of a new job."""
    response = client.post(f"{JOBS}/run", json={"input": {"prompt": prompt}, **more})
    assert response.status_code == 200, response.text
    return response.json()["id"]


def status(client, job_id):
    """Returns the job as /status has it."""
    response = client.get(f"{JOBS}/status/{job_id}")
    assert response.status_code == 200, response.text
    return response.json()


def when(client, job_id, *statuses):
    """Returns the job as soon as it has one of these statuses."""
    end_s = time.monotonic() + 60
    while (job := status(client, job_id))["status"] not in statuses:
        assert time.monotonic() < end_s, job
        time.sleep(0.01)
    return job


def error(response):
    """Returns (HTTP status, code, message) of an error, which always has the same shape."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "details"}
    return response.status_code, body["error"]["code"], body["error"]["message"]


def until(is_so):
    """Returns as soon as `is_so()` is true."""
    end_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.01)
