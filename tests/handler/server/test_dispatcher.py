"""Jobs while the server stops, restarts, or cannot write."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from calls import JOBS, TXT2IMG, error, status, submit, until, when

from handler.errors import StorageUnavailable
from handler.server import dispatcher, results
from handler.server.job_store import JobStore


def test_a_stopped_server_lets_the_next_one_finish(make, monkeypatch):
    """A job that is running at the stop signal is neither lost nor failed."""
    monkeypatch.setattr(dispatcher, "STOP_GRACE_S", 0.1)
    client = make()
    running, waiting = submit(client, "wait"), submit(client)
    when(client, running, "IN_PROGRESS")
    client.__exit__(None, None, None)
    client = make()
    client.painter.go_on.set()
    assert when(client, running, "COMPLETED")["output"]["status"] == "success"
    assert when(client, waiting, "COMPLETED")["output"]["status"] == "success"


@pytest.fixture
def full_disk(monkeypatch):
    """`full_disk(True)`: no result and no failure can be stored; `full_disk(False)`: there is room again."""
    monkeypatch.setattr(results, "STORAGE_RETRY_S", 0.01)
    originals = {name: getattr(JobStore, name) for name in ("complete", "fail")}

    def full(*_):
        raise StorageUnavailable("the job file cannot be used: database or disk is full")

    def set_full(is_full):
        for name, original in originals.items():
            monkeypatch.setattr(JobStore, name, full if is_full else original)

    return set_full


def test_a_result_waits_for_room(client, full_disk):
    """The disk is full when a job ends, for longer than before a result was given up: it is completed afterwards."""
    full_disk(True)
    job_id = submit(client)
    until(lambda: client.painter.prompts == ["an apple"])
    time.sleep(1)
    assert status(client, job_id)["status"] == "IN_PROGRESS"
    full_disk(False)
    assert when(client, job_id, "COMPLETED")["output"]["status"] == "success"
    assert client.painter.prompts == ["an apple"]


def test_a_result_that_cannot_be_stored_is_an_error(make, full_disk):
    """If the disk stays full, waiting requests get an error at the job's deadline; with room, the job has failed."""
    client = make(job_timeout_s=1)
    for path, body in [(f"{JOBS}/runsync", {"input": {"prompt": "x"}}), (TXT2IMG, {"prompt": "x"})]:
        full_disk(True)
        assert error(client.post(path, json=body))[:2] == (503, "storage_unavailable")
        full_disk(False)
        until(lambda: not client.service.store.counts()["IN_PROGRESS"])
    assert client.service.store.counts()["FAILED"] == 2
    assert list((client.service.settings.data_dir / "pictures").iterdir()) == []
    when(client, submit(client), "COMPLETED")


def test_a_result_that_waits_for_room_can_be_cancelled(client, full_disk):
    """The caller gets 503 while not even that can be stored; with room, the job is cancelled."""
    full_disk(True)
    job_id = submit(client)
    until(lambda: client.painter.prompts == ["an apple"])
    assert error(client.post(f"{JOBS}/cancel/{job_id}"))[:2] == (503, "storage_unavailable")
    full_disk(False)
    assert when(client, job_id, "CANCELLED", "COMPLETED")["status"] == "CANCELLED"


def stop_signal(client):
    """Tells the dispatcher to stop, as a stop signal does; requests are still answered."""
    client.portal.call(client.service.dispatcher.stop)


def test_a_cancel_during_a_shutdown_is_not_undone(make):
    """A running job that a caller cancels is cancelled on disk before the answer; the next start does not run it."""
    client = make()
    job_id = submit(client, "wait")
    when(client, job_id, "IN_PROGRESS")
    stop_signal(client)
    assert client.post(f"{JOBS}/cancel/{job_id}").json() == {"id": job_id, "status": "CANCELLED"}
    client.__exit__(None, None, None)
    client = make()
    client.painter.go_on.set()
    assert status(client, job_id)["status"] == "CANCELLED"
    when(client, submit(client), "COMPLETED")
    assert client.painter.prompts == ["an apple"]


@pytest.mark.parametrize("prompt", ["wait", "queued"])
def test_a_shutdown_cancels_the_job_of_a_request_that_is_sent_again(make, prompt):
    """/txt2img answers 503; its job, running or queued, does not run at the next start."""
    client = make()
    with ThreadPoolExecutor() as pool:
        if prompt == "queued":
            when(client, submit(client, "wait"), "IN_PROGRESS")
        response = pool.submit(client.post, TXT2IMG, json={"prompt": prompt})
        while not client.service.store.counts()["IN_QUEUE" if prompt == "queued" else "IN_PROGRESS"]:
            time.sleep(0.01)
        stop_signal(client)
        expected = (503, "comfyui_unavailable", "the server is shutting down, retry the request")
        assert error(response.result(60)) == expected
        assert client.service.store.counts()["CANCELLED"] == 1


def test_a_job_that_is_just_being_taken_is_cancelled(make, monkeypatch):
    """The cancel waits until the job is either queued or running; it never falls between the two."""
    take, taken, released = JobStore.take, threading.Event(), threading.Event()

    def slow_take(store):
        record = take(store)
        if record is not None:
            taken.set()
            released.wait(60)
        return record

    monkeypatch.setattr(JobStore, "take", slow_take)
    client = make()
    with ThreadPoolExecutor() as pool:
        job_id = submit(client, "wait")
        taken.wait(60)
        cancelling = pool.submit(client.post, f"{JOBS}/cancel/{job_id}")
        time.sleep(0.2)
        assert not cancelling.done()
        released.set()
        assert cancelling.result(60).json()["status"] == "CANCELLED"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("run", {"input": {"prompt": "x"}}),
        ("runsync", {"input": {"prompt": "x"}}),
        (f"../..{TXT2IMG}", {"prompt": "x"}),
    ],
)
def test_an_input_is_checked_once(client, path, body):
    """When it is submitted, and not again when it runs."""
    assert client.post(f"{JOBS}/{path}", json=body).status_code == 200
    while not client.service.store.counts()["COMPLETED"]:
        time.sleep(0.01)
    assert client.painter.parsed == [{"prompt": "x"}]


def test_a_job_of_an_earlier_start_is_checked_again(make, monkeypatch):
    """The workflow may have changed since then."""
    monkeypatch.setattr(dispatcher, "STOP_GRACE_S", 0.1)
    client = make()
    submit(client, "wait")
    job_id = submit(client)
    client.__exit__(None, None, None)
    client = make()
    client.painter.go_on.set()
    when(client, job_id, "COMPLETED")
    assert client.painter.parsed == [{"prompt": "wait"}, {"prompt": "an apple"}]
