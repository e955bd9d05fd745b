"""`layerdiffuse-alpha serve` with the real ComfyUI, and with real clients."""

import base64
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from server import ROOT, SMALL, free_port
from server import run as program

from handler.job.png import check_png

SEEDS = Path(os.environ.get("SEED_DOCUMENTS", ROOT.parent / "shared" / "seeds"))
FENCED = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_a_picture_comes_back_transparent(server):
    """Both APIs return the same complete RGBA picture of the requested size for the same seed."""
    job = server.result(server.run(seed=7))
    png = base64.b64decode(job["output"]["image_base64"])
    check_png(png, 64, 64)
    answer = server.http.post(f"{server.url}/alpha/v1/txt2img", json={"prompt": "a red apple", "seed": 7, **SMALL})
    assert server.http.get(answer.json()["url"]).content == png


def test_progress_is_reported_while_a_job_runs(server):
    """A client that polls often enough sees the steps in order."""
    job_id = server.run(num_inference_steps=60, width=128, height=128)
    steps = []
    while (job := server.status(job_id))["status"] in {"IN_QUEUE", "IN_PROGRESS"}:
        if "output" in job:
            steps.append(job["output"]["step"])
        time.sleep(0.02)
    assert len(set(steps)) > 5
    assert steps == sorted(steps)


def test_closing_the_connection_cancels_the_job(server):
    """Closing the connection to the alpha API cancels its job, and the worker is free for the next."""
    before = server.http.get(f"{server.jobs}/health").json()["jobs"]
    request = {"prompt": "a red apple", "num_inference_steps": 60, "width": 512, "height": 512}
    with pytest.raises(requests.ReadTimeout):
        requests.post(f"{server.url}/alpha/v1/txt2img", json=request, timeout=1)
    started = time.monotonic()
    server.result(server.run())
    assert time.monotonic() - started < 15
    assert server.http.get(f"{server.jobs}/health").json()["jobs"]["completed"] == before["completed"] + 1


def test_the_runpod_sdk_is_a_client(server, tmp_path):
    """The package's own client runs against it: run, stream, output, run_sync, cancel, health, purge."""
    script = f"""
import runpod
runpod.api_key, runpod.endpoint_url_base = "none", "{server.url}/v2"
endpoint = runpod.Endpoint("tests")
request = {{"input": {{"prompt": "a red apple", "seed": 7, **{SMALL}}}}}
job = endpoint.run(request)
print(job.status() in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED"), list(job.stream())[:0])
assert job.output(timeout=60)["seed"] == 7
assert job.status() == "COMPLETED"
assert endpoint.run_sync(request, timeout=60)["status"] == "success"
other = endpoint.run(request)
other.cancel()
assert other.status() in ("CANCELLED", "COMPLETED")
assert endpoint.health()["workers"]["idle"] + endpoint.health()["workers"]["running"] == 2 / 2
assert endpoint.purge_queue()["status"] == "completed"
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_the_runpod_sdk_s_asynchronous_client_works(server):
    """AsyncioEndpoint: run, status, stream, output, a second job at the same time, cancel, health, purge."""
    script = f"""
import asyncio, runpod
from runpod import http_client
runpod.api_key, runpod.endpoint_url_base = "none", "{server.url}/v2"
request = {{"prompt": "a red apple", "seed": 7, **{SMALL}}}

async def main():
    async with http_client.AsyncClientSession() as session:
        endpoint = runpod.AsyncioEndpoint("tests", session)
        first, second = await asyncio.gather(endpoint.run(request), endpoint.run(request))
        assert await first.status() in ("IN_QUEUE", "IN_PROGRESS", "COMPLETED")
        assert all([part["steps"] == 4 async for part in first.stream()])
        outputs = await asyncio.gather(first.output(timeout=60), second.output(timeout=60))
        assert [output["seed"] for output in outputs] == [7, 7]
        assert await first.status() == "COMPLETED"
        cancelled = await endpoint.run(request)
        assert (await cancelled.cancel())["status"] in ("CANCELLED", "COMPLETED")
        assert (await endpoint.health())["jobs"]["completed"] >= 2
        assert (await endpoint.purge_queue())["status"] == "completed"

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    not SEEDS.is_dir(), reason="no ../shared/seeds: set SEED_DOCUMENTS to the folder of the two seed documents"
)
def test_the_python_of_the_seed_documents_runs(server, tmp_path):
    """Submit and poll, and runsync, work with only key and base URL changed."""
    guide = (SEEDS / "runpod-serverless-guide.txt").read_text("utf-8")
    scripts = [code for code in FENCED.findall(guide) if "requests." in code]
    assert len(scripts) == 2
    for number, code in enumerate(scripts):
        changed = code.replace("https://api.runpod.ai", server.url).replace("YOUR_RUNPOD_API_KEY", "none")
        assert sum(a != b for a, b in zip(code.splitlines(), changed.splitlines(), strict=True)) == 2
        # The guide's pictures are of the size that it does not name.
        script = tmp_path / f"{number}.py"
        script.write_text(changed)
        done = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert "completed" in done.stdout, done.stdout
    check_png((tmp_path / "output_image.png").read_bytes(), 128, 128)


@pytest.mark.parametrize(
    "command",
    [[sys.executable, "submit_and_poll.py"], ["node", "runsync.mjs"], ["bash", "alpha.sh"]],
    ids=lambda command: command[-1],
)
def test_the_examples_run(server, tmp_path, command):
    """The Python, Node and curl examples each write the picture and print its path."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(
        [command[0], ROOT / "examples" / command[1]],
        env=os.environ | {"BASE_URL": server.url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    check_png((tmp_path / done.stdout.split()[-1]).read_bytes(), 128, 128)


def test_the_command_line_draws_with_a_server(server, command_line, tmp_path):
    """With several pictures, files and seeds count up, and the same seed draws the same picture."""
    done = program(
        "generate", "a red apple", "-o", "a.png", "--seed", "7", "--count", "2", "--url", server.url, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-1.png", "a-2.png"]
    endpoint = ["--endpoint", "tests", "--url", server.url]
    output = str(tmp_path / "b.png")
    done = command_line("generate", "-o", output, "--seed", "8", *endpoint, RUNPOD_API_KEY="key")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a-2.png").read_bytes()


def test_the_command_line_says_what_went_wrong(server, command_line, tmp_path):
    """It exits with a status and one sentence, and leaves no file."""
    unreachable = f"http://127.0.0.1:{free_port()}"
    for arguments, status, reason in [
        (["--url", unreachable], 3, "does not answer"),
        (["--url", server.url, "--seed", "-1"], 1, "invalid_input: seed must be an integer"),
        (["--url", f"{server.url}/nothing"], 1, "not_found"),
        (["--endpoint", "x"], 2, "RUNPOD_API_KEY"),
        (["--seed", "-1"], 1, "invalid_input: seed must be an integer"),
    ]:
        done = command_line("generate", "-o", str(tmp_path / "a.png"), *arguments, RUNPOD_API_KEY="")
        assert (done.returncode, reason in done.stderr) == (status, True), (arguments, done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_one_data_folder_is_for_one_server(server, command_line, tmp_path):
    """A second server, which would run the first one's jobs, stops with one sentence."""
    done = command_line("serve", DATA_DIR=str(server.data_dir), PORT="0")
    assert (done.returncode, "another server uses DATA_DIR" in done.stderr) == (1, True)
    done = command_line("serve", DATA_DIR=str(tmp_path), PORT=str(server.port))
    assert (done.returncode, "cannot listen on" in done.stderr) == (2, True)


def test_a_server_without_keys_stays_on_loopback(command_line, tmp_path):
    """By default it does not start on other addresses without keys."""
    done = command_line("serve", DATA_DIR=str(tmp_path), LISTEN_HOST="::", PORT="0")
    assert done.returncode == 2
    assert "without API_KEYS the server listens on loopback only" in done.stderr
