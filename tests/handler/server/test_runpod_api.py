"""RunPod's job API, over a scripted generator; with the real one: tests/integration/test_server.py."""

import base64
import time
from concurrent.futures import ThreadPoolExecutor

from calls import JOBS, TXT2IMG, error, status, submit, until, when
from painter import PNG


def test_a_job_is_accepted_and_its_result_asked_for(client):
    """As at RunPod, /run answers immediately; later /status has the whole reply and its times in ms."""
    answer = client.post(f"{JOBS}/run", json={"input": {"prompt": "an apple", "seed": 5}})
    assert answer.json()["status"] == "IN_QUEUE"
    job = when(client, answer.json()["id"], "COMPLETED")
    assert set(job) == {"id", "status", "delayTime", "executionTime", "output"}
    assert base64.b64decode(job["output"]["image_base64"]) == PNG
    assert job["output"]["image_url"] == job["output"]["url"]
    assert job["output"]["url"].startswith("data:image/png;base64,")
    assert (job["output"]["status"], job["output"]["seed"]) == ("success", 5)


def test_runsync_answers_with_the_result(client):
    """In one request."""
    job = client.post(f"{JOBS}/runsync", json={"input": {"prompt": "an apple"}}).json()
    assert job["status"] == "COMPLETED"
    assert job["id"].startswith("sync-")
    assert status(client, job["id"]) == job


def test_runsync_that_takes_longer_answers_with_the_status(client):
    """It answers after `wait` ms; the job continues, and /status has its result."""
    job = client.post(f"{JOBS}/runsync?wait=1000", json={"input": {"prompt": "wait"}}).json()
    assert job["status"] == "IN_PROGRESS"
    client.painter.go_on.set()
    assert when(client, job["id"], "COMPLETED")["output"]["status"] == "success"


def test_an_invalid_input_is_a_failed_job(client):
    """As at RunPod the job is accepted; its error names every fault."""
    answer = client.post(f"{JOBS}/runsync", json={"input": {"seed": True, "steps": 3}}).json()
    assert answer["status"] == "FAILED"
    assert answer["error"].startswith("invalid_input: prompt is required; seed must be an integer")
    assert 'unknown field "steps"' in answer["error"]
    assert (answer["delayTime"], answer["executionTime"]) == (0, 0)


def test_an_invalid_input_fails_at_once(make):
    """It does not wait for the worker or for a place in the queue; /retry fails it again."""
    client = make(queue_limit=1)
    when(client, submit(client, "wait"), "IN_PROGRESS")
    queued = submit(client)
    answer = client.post(f"{JOBS}/run", json={"input": {"prompt": ""}}).json()
    assert answer["status"] == "IN_QUEUE"
    failed = status(client, answer["id"])
    assert failed["status"] == "FAILED"
    assert client.get(f"{JOBS}/health").json()["jobs"]["failed"] == 1
    assert error(client.post(f"{JOBS}/retry/{answer['id']}"))[:2] == (429, "queue_full")
    client.painter.go_on.set()
    when(client, queued, "COMPLETED")
    assert client.post(f"{JOBS}/retry/{answer['id']}").json()["status"] == "IN_QUEUE"
    assert when(client, answer["id"], "FAILED")["error"] == failed["error"]
    assert client.painter.prompts == ["wait", "an apple"]


def test_a_crash_reveals_nothing(client):
    """The error has no details; the reason is in the log."""
    answer = client.post(f"{JOBS}/runsync", json={"input": {"prompt": "crash"}}).json()
    assert answer["error"] == "internal: unexpected error, see the worker log"


def test_what_is_not_there_is_not_found(client):
    """Jobs, pictures and routes alike."""
    for method, path in [
        ("GET", f"{JOBS}/status/none"),
        ("GET", f"{JOBS}/stream/none"),
        ("POST", f"{JOBS}/cancel/none"),
        ("POST", f"{JOBS}/retry/none"),
        ("GET", "/alpha/v1/file/alpha_1_000000.png"),
        ("GET", "/alpha/v1/file/..%2f..%2fjobs.sqlite3"),
        ("GET", "/nothing"),
    ]:
        assert error(client.request(method, path))[:2] == (404, "not_found"), path
    assert error(client.get(f"{JOBS}/run"))[:2] == (405, "method_not_allowed")


def test_a_waiting_job_is_cancelled_at_once(client):
    """And never runs."""
    first, second = submit(client, "wait"), submit(client, "never")
    assert client.post(f"{JOBS}/cancel/{second}").json() == {"id": second, "status": "CANCELLED"}
    client.painter.go_on.set()
    when(client, first, "COMPLETED")
    assert client.painter.prompts == ["wait"]
    assert status(client, second)["error"] == "cancelled: the job was cancelled"


def test_a_running_job_is_cancelled(client):
    """It is removed from the worker before the answer."""
    job_id = submit(client, "wait")
    when(client, job_id, "IN_PROGRESS")
    assert client.post(f"{JOBS}/cancel/{job_id}").json() == {"id": job_id, "status": "CANCELLED"}


def test_a_finished_job_is_not_cancelled(client):
    """The answer says what it is."""
    job_id = submit(client)
    when(client, job_id, "COMPLETED")
    assert client.post(f"{JOBS}/cancel/{job_id}").json()["status"] == "COMPLETED"


def test_a_failed_job_is_retried(client):
    """Under its id; a completed one is not."""
    job_id = submit(client, "fail once")
    assert when(client, job_id, "FAILED")["error"] == "node_failed: KSampler: out of memory"
    assert client.post(f"{JOBS}/retry/{job_id}").json() == {"id": job_id, "status": "IN_QUEUE"}
    when(client, job_id, "COMPLETED")
    assert error(client.post(f"{JOBS}/retry/{job_id}"))[:2] == (409, "conflict")


def test_purging_empties_the_queue(client):
    """A request that waits for one of the jobs ends."""
    first = submit(client, "wait")
    when(client, first, "IN_PROGRESS")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.post, f"{JOBS}/runsync", json={"input": {"prompt": "never"}})
        submit(client, "never")
        while client.get(f"{JOBS}/health").json()["jobs"]["inQueue"] < 2:
            time.sleep(0.01)
        assert client.post(f"{JOBS}/purge-queue").json() == {"removed": 2, "status": "completed"}
        assert waiting.result(60).json()["status"] == "CANCELLED"
    assert client.get(f"{JOBS}/health").json() == {
        "jobs": {"completed": 0, "failed": 0, "inProgress": 1, "inQueue": 0, "retried": 0},
        "workers": {"idle": 0, "running": 1, "initializing": 0, "unhealthy": 0},
        "unhealthyReason": None,
        "workflowRefused": None,
    }


def test_a_full_queue_says_when_to_come_back(make):
    """429 and Retry-After, on every route that accepts jobs."""
    client = make(queue_limit=1)
    when(client, submit(client, "wait"), "IN_PROGRESS")
    submit(client)
    for path, body in [
        ("run", {"input": {"prompt": "x"}}),
        ("runsync", {"input": {"prompt": "x"}}),
        (f"../..{TXT2IMG}", {"prompt": "x"}),
    ]:
        answer = client.post(f"{JOBS}/{path}", json=body)
        assert error(answer)[:2] == (429, "queue_full")
        assert int(answer.headers["Retry-After"]) > 0


def test_a_job_that_runs_too_long_times_out(client):
    """By its own policy."""
    job_id = submit(client, "wait", policy={"executionTimeout": 1000})
    job = when(client, job_id, "TIMED_OUT")
    assert job["error"] == "timeout: the job took longer than 1 s"
    assert 900 < job["executionTime"] < 60_000  # milliseconds; another thread may have the core


def test_progress_is_in_status_and_in_stream(client):
    """/status returns the last step every time, /stream returns each step once."""
    job_id = submit(client, "steps")
    until(lambda: status(client, job_id).get("output", {}).get("step") == 2)
    chunks = client.get(f"{JOBS}/stream/{job_id}").json()
    first = {"stage": "sampling", "step": 1, "steps": 20, "image": 1, "images": 1}
    assert chunks["stream"] == [{"output": first}, {"output": first | {"step": 2}}]
    begin_s = time.monotonic()
    assert client.get(f"{JOBS}/stream/{job_id}").json() == {"status": "IN_PROGRESS", "stream": []}
    assert time.monotonic() - begin_s > 0.9  # clients ask again at once
    client.painter.go_on.set()
    when(client, job_id, "COMPLETED")
    assert client.get(f"{JOBS}/stream/{job_id}").json() == {"status": "COMPLETED", "stream": []}


def test_a_result_without_its_picture_is_gone(client, tmp_path):
    """If a picture was deleted to make room, its job's result is gone too, and the answer says so."""
    job_id = submit(client)
    when(client, job_id, "COMPLETED")
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    reason = "the picture of this job has expired"
    assert error(client.get(f"{JOBS}/status/{job_id}")) == (404, "not_found", reason)
