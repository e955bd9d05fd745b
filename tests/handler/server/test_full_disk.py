"""A DATA_DIR that is really full: a small disk of its own."""

import os
import time

import pytest
from calls import JOBS, error, status, submit, until, when

from handler.server import cleanup, results

EXPIRED = "alpha_1_abcdef.png"


@pytest.fixture
def disk(small_disk, monkeypatch):
    monkeypatch.setattr(results, "STORAGE_RETRY_S", 0.05)
    return small_disk


def test_a_job_that_ends_on_a_full_disk_is_stored_when_there_is_room(make, disk):
    """With its picture, and drawn once; so are those behind it, which were accepted before."""
    client = make(data_dir=disk.folder)
    job_ids = [submit(client, "wait"), submit(client), submit(client, "an owl")]
    when(client, job_ids[0], "IN_PROGRESS")
    disk.fill()
    client.painter.go_on.set()
    time.sleep(0.5)
    assert [status(client, job_id)["status"] for job_id in job_ids] == ["IN_PROGRESS", "IN_QUEUE", "IN_QUEUE"]
    response = client.post(f"{JOBS}/run", json={"input": {"prompt": "one more"}})
    assert error(response)[:2] == (503, "storage_unavailable")
    disk.free()
    for job_id in job_ids:
        output = when(client, job_id, "COMPLETED")["output"]
        assert client.get(f"/alpha/v1/file/{output['filename']}").content == client.painter.png
    assert client.painter.prompts == ["wait", "an apple", "an owl"]


def test_a_cancellation_on_a_full_disk_is_stored_when_there_is_room(make, disk):
    """Its caller gets 503 until then; the next job works."""
    client = make(data_dir=disk.folder)
    job_id = submit(client, "wait")
    when(client, job_id, "IN_PROGRESS")
    disk.fill()
    assert error(client.post(f"{JOBS}/cancel/{job_id}"))[:2] == (503, "storage_unavailable")
    disk.free()
    when(client, job_id, "CANCELLED")
    when(client, submit(client), "COMPLETED")


def test_expired_pictures_make_room(make, disk, monkeypatch):
    """They are deleted although the job file cannot be written, and jobs are accepted again."""
    monkeypatch.setattr(cleanup, "CLEANUP_S", 0.1)
    client = make(data_dir=disk.folder)
    when(client, submit(client), "COMPLETED")
    client.service.pictures.put(EXPIRED, bytes(200_000))
    disk.fill()
    response = client.post(f"{JOBS}/run", json={"input": {"prompt": "x"}})
    assert error(response)[:2] == (503, "storage_unavailable")
    os.utime(client.service.pictures.find(EXPIRED).path, (0, 0))
    until(lambda: client.service.pictures.find(EXPIRED) is None)
    when(client, submit(client), "COMPLETED")
