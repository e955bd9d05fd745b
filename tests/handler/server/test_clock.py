"""The system's clock is set while the server runs."""

import time

import pytest
from calls import JOBS, submit, when

from handler.server.picture_store import PictureStore


@pytest.mark.parametrize("jump_s", [1200.0, 90_000.0, -90_000.0])
def test_times_do_not_follow_the_systems_clock(make, monkeypatch, jump_s):
    """Durations stay right, results, pictures and queued jobs do not expire early, and jobs keep their time."""
    client = make()
    jumped_s = 0.0
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jumped_s)
    done = submit(client)
    filename = when(client, done, "COMPLETED")["output"]["filename"]
    running = submit(client, "wait")
    when(client, running, "IN_PROGRESS")
    queued = submit(client, "the next one", policy={"executionTimeout": 60_000, "ttl": 60_000})
    jumped_s = jump_s
    service = client.service
    assert service.store.expire(service.settings.results_limit_bytes) == []
    service.pictures.expire(service.settings.pictures_keep_s, service.settings.pictures_limit_bytes)
    client.painter.go_on.set()
    for job_id in (running, queued):
        job = when(client, job_id, "COMPLETED", "FAILED", "TIMED_OUT")
        assert job["status"] == "COMPLETED"
        assert 0 <= job["executionTime"] < 60_000
        assert 0 <= job["delayTime"] < 60_000
    assert client.get(f"{JOBS}/status/{done}").status_code == 200
    assert client.get(f"/alpha/v1/file/{filename}").status_code == 200


def test_pictures_expire_by_the_servers_clock(tmp_path):
    """Not by the system's, which sets the time of a new file."""
    now_s = time.time() - 90_000
    pictures = PictureStore(tmp_path, lambda: now_s)
    pictures.put("alpha_1_abcdef.png", b"PNG")
    now_s += 61
    pictures.expire(60, 1000)
    assert pictures.find("alpha_1_abcdef.png") is None
