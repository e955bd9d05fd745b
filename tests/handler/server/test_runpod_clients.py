"""RunPod's own clients and examples work with a changed base URL only."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from calls import JOBS, error, submit, when

SDK = Path(__file__).with_name("runpod_sdk")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_status_sync_waits_for_the_job(client, method):
    """The JavaScript client sends GET, the Go client POST."""
    job_id = submit(client, "wait")
    waiting = client.request(method, f"{JOBS}/status-sync/{job_id}?wait=1000").json()
    assert waiting["status"] in {"IN_QUEUE", "IN_PROGRESS"}
    client.painter.go_on.set()
    done = client.request(method, f"{JOBS}/status-sync/{job_id}?wait=60000").json()
    assert done == when(client, job_id, "COMPLETED")
    assert client.request(method, f"{JOBS}/status-sync/{job_id}").json() == done
    assert error(client.request(method, f"{JOBS}/status-sync/unknown"))[:2] == (404, "not_found")


@pytest.mark.parametrize("path", ["/v2//tests/run", "//v2/tests//run", "/v2/tests/run"])
def test_a_base_url_may_end_in_a_slash(make, path):
    """The Go client's does; keys are checked all the same."""
    client = make(api_keys="first")
    url = f"http://127.0.0.1:8000{path}"
    assert error(client.post(url, json={"input": {"prompt": "an apple"}}))[:2] == (401, "unauthorized")
    answer = client.post(url, json={"input": {"prompt": "an apple"}}, headers={"Authorization": "first"})
    assert answer.json()["status"] == "IN_QUEUE"


@pytest.mark.parametrize(
    ("base", "reading", "authorization"),
    [("/v2/tests", "GET", "key"), ("/v2//tests", "POST", "Bearer key")],
    ids=["documentation", "go"],
)
def test_every_operation_as_others_send_it(serve_painted, base, reading, authorization):
    """The documentation's curl has no `Bearer`; the Go client sends POST, to a base URL that ends in a slash."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    url, *_ = serve_painted(api_keys="key")
    body = ["-d", '{"input": {"prompt": "an apple"}}']

    def curl(method, path, *options, key=authorization):
        headers = [
            "-H",
            "accept: application/json",
            "-H",
            f"authorization: {key}",
            "-H",
            "content-type: application/json",
        ]
        command = ["curl", "--silent", "--max-time", "30", "--request", method, "--url", f"{url}{base}{path}", *headers]
        done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
        return json.loads(done.stdout)

    assert curl("POST", "/run", *body, key="wrong")["error"]["code"] == "unauthorized"
    job_id = curl("POST", "/run", *body)["id"]
    assert curl("POST", f"/status-sync/{job_id}")["status"] == "COMPLETED"
    assert curl(reading, f"/status/{job_id}")["output"]["image_base64"]
    assert curl(reading, f"/stream/{job_id}?wait=20000") == {"status": "COMPLETED", "stream": []}
    assert curl("POST", f"/cancel/{job_id}")["status"] == "COMPLETED"
    assert curl("POST", "/runsync", *body)["status"] == "COMPLETED"
    assert curl("POST", "/runsync?wait=30000", *body)["status"] == "COMPLETED"
    assert curl("GET", "/health")["jobs"]["completed"] == 3
    assert curl("POST", "/purge-queue") == {"removed": 0, "status": "completed"}


@pytest.mark.parametrize("path", ["/", "/ping"])
def test_head_is_answered_as_get_without_a_body(client, path):
    """Balancers and monitors ask with HEAD."""
    answer = client.head(path)
    assert answer.status_code == client.get(path).status_code
    assert answer.content == b""


@pytest.mark.soak
def test_the_javascript_client_works_unchanged(serve_painted, tmp_path):
    """The package of the registry, as RunPod's documentation uses it."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    shutil.copytree(SDK, tmp_path / "sdk")
    subprocess.run(["npm", "ci", "--silent", "--ignore-scripts"], cwd=tmp_path / "sdk", check=True)
    url, *_ = serve_painted(api_keys="key")
    done = subprocess.run(
        ["node", "calls.js", f"{url}/v2", "key"], cwd=tmp_path / "sdk", check=True, capture_output=True, text=True
    )
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["queued"]["status"] == "IN_QUEUE"
    assert said["streamed"] == []
    for name in ("waited", "status", "sync"):
        assert (said[name]["status"], said[name]["succeeded"]) == ("COMPLETED", True)
        assert said[name]["output"]["image_base64"]
    assert said["health"]["jobs"]["completed"] == 2
    assert said["purged"] == {"removed": 0, "status": "completed"}
    assert said["cancelled"]["status"] == "COMPLETED"
