"""The alpha API, over a scripted generator."""

import http.client
import json
import threading
import urllib.parse

import pytest
import requests
from calls import JOBS, TXT2IMG, error, status, submit, until, when
from painter import PNG

from handler.server.job_store import JobStore


def test_the_alpha_api_answers_with_an_address_that_works(client):
    """One flat request gets one answer, and its URL returns the picture."""
    answer = client.post(TXT2IMG, json={"prompt": "an apple", "seed": 5}).json()
    assert set(answer) == {"url", "filename", "seed", "info"}
    assert answer["url"] == f"http://127.0.0.1:8000/alpha/v1/file/{answer['filename']}"
    assert json.loads(answer["info"])["seed"] == answer["seed"] == 5
    picture = client.get(answer["url"])
    assert (picture.content, picture.headers["Content-Type"]) == (PNG, "image/png")


def test_the_address_is_the_one_that_callers_see(make):
    """PUBLIC_URL replaces the address of the request, for example behind a proxy."""
    client = make(public_url="https://pictures.example.com/")
    answer = client.post(TXT2IMG, json={"prompt": "an apple"}).json()
    assert answer["url"] == f"https://pictures.example.com/alpha/v1/file/{answer['filename']}"


MINE = {
    "endpointUrl": "https://shelf.example/",
    "accessId": "id",
    "accessSecret": "secret",
    "bucketName": "mine",
    "objectPath": "",
}


class Shelf:
    """A bucket that every job's picture goes to; over S3's protocol: tests/handler/job/test_bucket.py."""

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
    """Both APIs return its URL; nothing is stored here, and /status still has it after a restart."""
    shelf = Shelf()
    client = make(buckets=shelf)
    answer = client.post(TXT2IMG, json={"prompt": "an apple"}).json()
    assert answer["url"] == f"https://shelf.example/{answer['filename']}"
    job_id = submit(client, s3Config=MINE)
    output = when(client, job_id, "COMPLETED")["output"]
    assert (output["url"], output["image_url"]) == (f"https://shelf.example/{output['filename']}",) * 2
    assert "image_base64" not in output
    assert shelf.configs == [None, MINE, MINE]  # the second time when it runs
    assert set(shelf.kept.values()) == {PNG}
    assert list((tmp_path / "pictures").iterdir()) == []
    client.__exit__(None, None, None)
    assert status(make(), job_id)["output"] == output


def test_the_alpha_api_names_every_fault(client):
    """One by one in details; nothing is drawn."""
    answer = client.post(TXT2IMG, json={"seed": "x", "width": 1})
    assert error(answer)[:2] == (422, "invalid_input")
    assert [detail.split()[0] for detail in answer.json()["error"]["details"]] == ["prompt", "seed", "width"]
    assert client.painter.prompts == []


def test_the_alpha_api_answers_with_the_kind_of_error(client):
    """By HTTP status and code."""
    answer = client.post(TXT2IMG, json={"prompt": "fail once"})
    assert error(answer) == (500, "node_failed", "KSampler: out of memory")


def test_a_picture_can_be_kept_and_asked_for_in_parts(client):
    """ETag, If-None-Match, HEAD and Range work; a file name never changes its picture."""
    url = client.post(TXT2IMG, json={"prompt": "an apple"}).json()["url"]
    whole = client.get(url)
    assert whole.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    again = client.get(url, headers={"If-None-Match": f'"other", {whole.headers["ETag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    head = client.head(url)
    assert (head.status_code, head.headers["Content-Length"], head.content) == (200, str(len(PNG)), b"")
    part = client.get(url, headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, PNG[4:8])
    assert client.get(url, headers={"Range": "bytes=99999-"}).status_code == 416


def test_a_picture_may_be_larger_than_runpods_limit(make, make_png):
    """The response has a URL and no base64. RunPod's API cannot reply with this picture."""
    client = make(reply_limit_bytes=1000)
    client.painter.png = make_png(128, 128, level=0)
    response = client.post(TXT2IMG, json={"prompt": "an apple"})
    assert response.status_code == 200, response.text
    assert client.get(response.json()["url"]).content == client.painter.png
    assert when(client, submit(client), "FAILED")["error"].startswith("reply_too_large: ")


def test_waiting_does_not_read_the_job_store(client, monkeypatch):
    """A request that waits for a second reads its job once before and once after."""
    get, reads = JobStore.get, []
    monkeypatch.setattr(JobStore, "get", lambda store, job_id: [reads.append(job_id), get(store, job_id)][1])
    threading.Timer(1.2, client.painter.go_on.set).start()
    assert client.post(TXT2IMG, json={"prompt": "wait"}).status_code == 200
    assert len(reads) == 2


@pytest.mark.parametrize("prompt", ["wait", "queued"])
def test_closing_the_connection_cancels_the_job(tmp_path, prompt, serve_painted):
    """At once, whether it is running or queued; the next job runs."""
    url, service, painter = serve_painted()
    if prompt == "queued":
        requests.post(f"{url}{JOBS}/run", json={"input": {"prompt": "wait"}}, timeout=60)
        until(lambda: service.store.counts()["IN_PROGRESS"])
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)
    connection.request("POST", TXT2IMG, json.dumps({"prompt": prompt}), {"Content-Type": "application/json"})
    until(lambda: service.store.counts()["IN_QUEUE" if prompt == "queued" else "IN_PROGRESS"])
    connection.close()
    until(lambda: service.store.counts()["CANCELLED"])
    painter.go_on.set()
    answer = requests.post(f"{url}{JOBS}/runsync", json={"input": {"prompt": "next"}}, timeout=60).json()
    assert answer["status"] == "COMPLETED"
    assert "queued" not in painter.prompts
