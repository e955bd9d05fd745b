"""The HTTP routes over a worker whose generator is scripted; with the real one: tests/integration/test_server.py."""

import base64
import dataclasses
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiohttp import web
from fastapi.testclient import TestClient
from loopback import LoopbackServer
from painter import PNG, painted_service

from handler.errors import ComfyUnavailable, StorageUnavailable
from handler.server import dispatcher as dispatching
from handler.server import webhooks
from handler.server.app import make_app
from handler.server.job_store import JobStore
from handler.settings import Settings

JOBS = "/v2/any-name"


@pytest.fixture
def make(tmp_path):
    """Makes a client of a server with these settings: `make(queue_limit=…)`."""
    opened = []

    def make(prepare=lambda: None, buckets=None, **more):
        service, painter = painted_service(
            Settings(profile="tiny", data_dir=tmp_path, job_timeout_s=20, **more), buckets
        )
        service = dataclasses.replace(service, prepare=prepare)
        client = TestClient(make_app(service), base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
        client.__enter__()
        client.painter = painter
        opened.append((client, service.store))
        return client

    yield make
    for client, store in opened:
        client.painter.go_on.set()
        client.__exit__(None, None, None)
        store.close()


@pytest.fixture
def client(make):
    return make()


def submit(client, prompt="an apple", **more):
    answer = client.post(f"{JOBS}/run", json={"input": {"prompt": prompt}, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def status(client, job_id):
    answer = client.get(f"{JOBS}/status/{job_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def when(client, job_id, *statuses):
    """Returns the job as soon as it is in one of these statuses."""
    end_s = time.monotonic() + 10
    while (job := status(client, job_id))["status"] not in statuses:
        assert time.monotonic() < end_s, job
        time.sleep(0.01)
    return job


def error(answer):
    """Returns (HTTP status, code, message) of an error, whose shape is always the same."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "details"}
    return answer.status_code, body["error"]["code"], body["error"]["message"]


def test_a_job_is_accepted_and_its_result_asked_for(client):
    """As at RunPod: /run answers at once, /status in time with the whole reply and its times in ms."""
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
    """After `wait` ms; the job goes on, and /status has its result."""
    job = client.post(f"{JOBS}/runsync?wait=1000", json={"input": {"prompt": "wait"}}).json()
    assert job["status"] == "IN_PROGRESS"
    client.painter.go_on.set()
    assert when(client, job["id"], "COMPLETED")["output"]["status"] == "success"


def test_a_bad_input_is_a_failed_job(client):
    """As at RunPod the job is accepted; its error names every fault."""
    answer = client.post(f"{JOBS}/runsync", json={"input": {"seed": True, "steps": 3}}).json()
    assert answer["status"] == "FAILED"
    assert answer["error"].startswith("invalid_input: prompt is required; seed must be an integer")
    assert 'unknown field "steps"' in answer["error"]


def test_a_crash_tells_nothing(client):
    """The job fails with a word; the reason is in the log."""
    answer = client.post(f"{JOBS}/runsync", json={"input": {"prompt": "crash"}}).json()
    assert answer["error"] == "internal: unexpected error, see the worker log"


@pytest.mark.parametrize("path", [f"{JOBS}/run", f"{JOBS}/runsync", "/alpha/v1/txt2img"])
@pytest.mark.parametrize(
    ("content", "content_type", "expected"),
    [
        (b"", "application/json", (400, "bad_request")),
        (b"{", "application/json", (400, "bad_request")),
        (b"\xff\xfe", "application/json", (400, "bad_request")),
        (b"[]", "application/json", (400, "bad_request")),
        (b'{"input": {"prompt": NaN}}', "application/json", (400, "bad_request")),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "application/json", (400, "bad_request")),
        (b'{"a":' * 100_000, "application/json", (400, "bad_request")),
        (b'{"input": ' + b"9" * 5000 + b"}", "application/json", (400, "bad_request")),
        (b'{"x": "' + b"x" * 1_000_000 + b'"}', "application/json", (413, "body_too_large")),
        (b'{"input": {"prompt": "x"}}', "text/plain", (415, "unsupported_media_type")),
        (b'{"input": {"prompt": "x"}}', "", (415, "unsupported_media_type")),
    ],
)
def test_a_body_that_is_no_request_is_refused(client, path, content, content_type, expected):
    """No JSON object, too large, too deep, or of a type that a form of another site could send."""
    answer = client.post(path, content=content, headers={"Content-Type": content_type})
    assert error(answer)[:2] == expected
    assert client.painter.prompts == []


@pytest.mark.parametrize(
    ("envelope", "fault"),
    [
        ({}, "input: Field required"),
        ({"input": {}, "webhook": "file:///etc/passwd"}, "webhook: URL scheme should be"),
        ({"input": {}, "webhook": 7}, "webhook"),
        ({"input": {}, "policy": {"executionTimeout": "5000"}}, "policy.executionTimeout: Input should be a valid int"),
        ({"input": {}, "policy": {"ttl": 5}}, "policy.ttl: Input should be greater"),
        ({"input": {}, "policy": []}, "policy"),
    ],
)
def test_a_wrong_envelope_names_its_fault(client, envelope, fault):
    """What stands around the input is checked at once."""
    code, name, message = error(client.post(f"{JOBS}/run", json=envelope))
    assert (code, name) == (400, "bad_request")
    assert message.startswith(fault)


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
    """It is taken off the worker, and the answer waits for that."""
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
    """Whoever waits for one of the jobs is told."""
    first = submit(client, "wait")
    when(client, first, "IN_PROGRESS")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.post, f"{JOBS}/runsync", json={"input": {"prompt": "never"}})
        submit(client, "never")
        while client.get(f"{JOBS}/health").json()["jobs"]["inQueue"] < 2:
            time.sleep(0.01)
        assert client.post(f"{JOBS}/purge-queue").json() == {"removed": 2, "status": "completed"}
        assert waiting.result(5).json()["status"] == "CANCELLED"
    assert client.get(f"{JOBS}/health").json() == {
        "jobs": {"completed": 0, "failed": 0, "inProgress": 1, "inQueue": 0, "retried": 0},
        "workers": {"idle": 0, "running": 1},
    }


def test_a_full_queue_says_when_to_come_back(make):
    """429 and Retry-After, on every route that accepts jobs."""
    client = make(queue_limit=1)
    when(client, submit(client, "wait"), "IN_PROGRESS")
    submit(client)
    for path, body in [
        ("run", {"input": {"prompt": "x"}}),
        ("runsync", {"input": {"prompt": "x"}}),
        ("../../alpha/v1/txt2img", {"prompt": "x"}),
    ]:
        answer = client.post(f"{JOBS}/{path}", json=body)
        assert error(answer)[:2] == (429, "queue_full")
        assert int(answer.headers["Retry-After"]) > 0


def test_a_job_that_runs_too_long_times_out(client):
    """By its own policy."""
    job_id = submit(client, "wait", policy={"executionTimeout": 1000})
    job = when(client, job_id, "TIMED_OUT")
    assert job["error"] == "timeout: the job took longer than 1 s"
    assert 900 < job["executionTime"] < 5000


def test_progress_is_in_status_and_in_stream(client):
    """Status has the last step as often as it is asked, stream each step once."""
    job_id = submit(client, "steps")
    while "output" not in (job := status(client, job_id)):
        time.sleep(0.01)
    assert job["output"]["steps"] == 20
    chunks = client.get(f"{JOBS}/stream/{job_id}").json()
    assert chunks["stream"] == [{"output": {"step": 1, "steps": 20}}, {"output": {"step": 2, "steps": 20}}]
    assert client.get(f"{JOBS}/stream/{job_id}").json() == {"status": "IN_PROGRESS", "stream": []}
    client.painter.go_on.set()
    when(client, job_id, "COMPLETED")
    assert client.get(f"{JOBS}/stream/{job_id}").json() == {"status": "COMPLETED", "stream": []}


class Hook(LoopbackServer):
    """Somebody's webhook, which answers with these statuses, one after another."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.told = []

    def routes(self):
        return [web.post("/", self.listen)]

    async def listen(self, request):
        self.told.append(await request.json())
        return web.Response(status=self.statuses[min(len(self.told), len(self.statuses)) - 1])


@pytest.mark.parametrize(("statuses", "expected"), [((200,), 1), ((500, 200), 2), ((404, 302, 500, 200), 3)])
def test_a_webhook_is_told_until_it_answers_200(make, monkeypatch, statuses, expected):
    """Three times at most, with what /status answers."""
    monkeypatch.setattr(webhooks, "WEBHOOK_WAIT_S", 0.05)
    client = make()
    with Hook(*statuses) as hook:
        job_id = submit(client, webhook=f"http://{hook.address}/")
        job = when(client, job_id, "COMPLETED")
        time.sleep(0.6)
        assert hook.told == [job] * expected


def test_the_alpha_api_answers_with_an_address_that_works(client):
    """One flat request, one answer; the picture is where it says."""
    answer = client.post("/alpha/v1/txt2img", json={"prompt": "an apple", "seed": 5}).json()
    assert set(answer) == {"url", "filename", "seed", "info"}
    assert answer["url"] == f"http://127.0.0.1:8000/alpha/v1/file/{answer['filename']}"
    assert json.loads(answer["info"])["seed"] == answer["seed"] == 5
    picture = client.get(answer["url"])
    assert (picture.content, picture.headers["Content-Type"]) == (PNG, "image/png")


def test_the_address_is_the_one_that_callers_see(make):
    """PUBLIC_URL stands in for the address of the request, behind a proxy for example."""
    client = make(public_url="https://pictures.example.com/")
    answer = client.post("/alpha/v1/txt2img", json={"prompt": "an apple"}).json()
    assert answer["url"] == f"https://pictures.example.com/alpha/v1/file/{answer['filename']}"


class Shelf:
    """A bucket that every job's picture goes to; over S3's protocol: test_storage.py."""

    def __init__(self):
        self.kept = {}
        self.configs = []

    def of_job(self, s3_config):
        self.configs.append(s3_config)
        return self

    def put(self, filename, png):
        self.kept[filename] = png
        return f"https://shelf.example/{filename}"


def test_a_picture_in_a_bucket_is_known_by_its_url(make, tmp_path):
    """Both APIs name it; nothing stays here, and /status still has it after a restart."""
    shelf = Shelf()
    client = make(buckets=shelf)
    answer = client.post("/alpha/v1/txt2img", json={"prompt": "an apple"}).json()
    assert answer["url"] == f"https://shelf.example/{answer['filename']}"
    job_id = submit(client, s3Config={"bucketName": "mine"})
    output = when(client, job_id, "COMPLETED")["output"]
    assert (output["url"], output["image_url"]) == (f"https://shelf.example/{output['filename']}",) * 2
    assert "image_base64" not in output
    assert shelf.configs == [None, {"bucketName": "mine"}]
    assert set(shelf.kept.values()) == {PNG}
    assert list((tmp_path / "pictures").iterdir()) == []
    client.__exit__(None, None, None)
    assert status(make(), job_id)["output"] == output


def test_the_alpha_api_names_every_fault(client):
    """One by one in details; nothing is drawn."""
    answer = client.post("/alpha/v1/txt2img", json={"seed": "x", "width": 1})
    assert error(answer)[:2] == (422, "invalid_input")
    assert [detail.split()[0] for detail in answer.json()["error"]["details"]] == ["prompt", "seed", "width"]
    assert client.painter.prompts == []


def test_the_alpha_api_answers_with_the_kind_of_error(client):
    """By HTTP status and code."""
    answer = client.post("/alpha/v1/txt2img", json={"prompt": "fail once"})
    assert error(answer) == (500, "node_failed", "KSampler: out of memory")


def test_a_picture_can_be_kept_and_asked_for_in_parts(client):
    """ETag, If-None-Match, HEAD and Range; a name stands for one picture for ever."""
    url = client.post("/alpha/v1/txt2img", json={"prompt": "an apple"}).json()["url"]
    whole = client.get(url)
    assert whole.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    again = client.get(url, headers={"If-None-Match": f'"other", {whole.headers["ETag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    head = client.head(url)
    assert (head.status_code, head.headers["Content-Length"], head.content) == (200, str(len(PNG)), b"")
    part = client.get(url, headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, PNG[4:8])
    assert client.get(url, headers={"Range": "bytes=99999-"}).status_code == 416


def test_a_result_without_its_picture_is_gone(client, tmp_path):
    """A picture that made room for others takes its job's result with it, and the answer says so."""
    job_id = submit(client)
    when(client, job_id, "COMPLETED")
    for path in (tmp_path / "pictures").iterdir():
        path.unlink()
    reason = "the picture of this job has expired"
    assert error(client.get(f"{JOBS}/status/{job_id}")) == (404, "not_found", reason)


def test_keys_are_asked_for(make):
    """Everywhere but at /ping and the page; any of the keys does."""
    client = make(api_keys="first, second")
    for path in (f"{JOBS}/health", "/alpha/v1/file/x", "/metrics", "/docs", "/openapi.json", "/nothing"):
        assert error(client.get(path))[:2] == (401, "unauthorized"), path
        for key in ("", "Bearer", "Bearer wrong", "Basic first", "Bearer first, second", "Bearer f\u0131rst"):
            answer = client.get(path, headers={"Authorization": key.encode()})
            assert error(answer)[:2] == (401, "unauthorized"), (path, key)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    for key in ("Bearer first", "bearer second"):
        assert client.get(f"{JOBS}/health", headers={"Authorization": key}).status_code == 200
    assert client.get("/ping").status_code in {200, 204}
    assert client.get("/").status_code == 200


def test_another_site_cannot_point_its_name_here(make):
    """Without keys, only this machine's own names are answered to."""
    client = make(public_url="http://alpha.example/")
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::1", "localhost@evil.example"):
        assert error(client.get("/ping", headers={"Host": host}))[:2] == (400, "bad_request"), host
    for host in ("127.0.0.1", "localhost:8000", "[::1]:8000", "LOCALHOST", "alpha.example"):
        assert client.get("/ping", headers={"Host": host}).status_code in {200, 204}, host


def test_ping_tells_whether_the_worker_is_warm(make):
    """204 while it starts, 200 then; 503 where it could not start."""
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


def test_a_stopped_server_lets_the_next_one_finish(make, monkeypatch):
    """A job under way when the stop signal comes is neither lost nor failed."""
    monkeypatch.setattr(dispatching, "STOP_GRACE_S", 0.1)
    client = make()
    running, waiting = submit(client, "wait"), submit(client)
    when(client, running, "IN_PROGRESS")
    client.__exit__(None, None, None)
    client = make()
    client.painter.go_on.set()
    assert when(client, running, "COMPLETED")["output"]["status"] == "success"
    assert when(client, waiting, "COMPLETED")["output"]["status"] == "success"


def test_a_result_that_cannot_be_stored_is_an_error(make, monkeypatch):
    """The disk stays full: whoever waits is told so, in bounded time, and the next job works."""
    monkeypatch.setattr(dispatching, "SAVE_TRIES", 2)
    monkeypatch.setattr(dispatching, "STORAGE_RETRY_S", 0.01)
    client = make()
    complete = JobStore.complete

    def full(*_):
        raise StorageUnavailable("the job file cannot be used: database or disk is full")

    monkeypatch.setattr(JobStore, "complete", full)
    for path, body in [(f"{JOBS}/runsync", {"input": {"prompt": "x"}}), ("/alpha/v1/txt2img", {"prompt": "x"})]:
        assert error(client.post(path, json=body))[:2] == (503, "storage_unavailable")
    monkeypatch.setattr(JobStore, "complete", complete)
    when(client, submit(client), "COMPLETED")


def test_every_route_has_examples_for_every_error(client):
    """What /docs shows: a body for each route that takes one, and each error with its code."""
    description = client.get("/openapi.json").json()
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            if method == "post" and "{job_id}" not in path and not path.endswith("purge-queue"):
                assert operation["requestBody"]["content"]["application/json"]["examples"], path
            for code, answer in operation["responses"].items():
                content = answer.get("content", {}).get("application/json")
                if int(code) >= 400 and path != "/ping" and code != "416":
                    assert content["examples"], (path, code)
    schema = description["paths"]["/alpha/v1/txt2img"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["prompt"]
    assert schema["properties"]["width"]["default"] == 128


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_need_no_other_host(client, path):
    """They work without the internet."""
    page = client.get(path)
    assert page.status_code == 200
    assert all(part.startswith("www.w3.org") for part in page.text.split("https://")[1:])
    assert "//cdn" not in page.text
