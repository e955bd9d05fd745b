"""`layerdiffuse-alpha jobs` and GET /alpha/v1/jobs, against the real server over a scripted generator."""

import json

import pytest
import requests


@pytest.fixture
def jobs(serve_painted, command_line):
    """Runs a command: `jobs("list")`; `jobs.submit(prompt)` returns the id of a finished job."""
    url, _, painter = serve_painted(api_keys="sesame")

    def run(*arguments, key="sesame"):
        return command_line("jobs", *arguments, "--url", url, API_KEY=key)

    def submit(prompt, route="runsync"):
        headers = {"Authorization": "Bearer sesame"}
        body = {"input": {"prompt": prompt} if isinstance(prompt, str) else prompt}
        return requests.post(f"{url}/v2/x/{route}", json=body, headers=headers, timeout=30).json()["id"]

    run.submit, run.url, run.painter = submit, url, painter
    return run


def test_jobs_are_listed_newest_first(jobs):
    """All, by status, or a few; a request that is not an object has no prompt; no picture is sent."""
    ids = [jobs.submit(prompt) for prompt in ("first", "fail once", [1], "last")]
    rows = jobs("list").stdout.splitlines()
    assert [row.split()[0] for row in rows] == ids[::-1]
    assert [row.split()[1] for row in rows] == ["COMPLETED", "FAILED", "FAILED", "COMPLETED"]
    assert rows[0].endswith("last")
    assert rows[2].endswith("node_failed: KSampler: out of memory")
    listed = json.loads(jobs("list", "--json", "--status", "failed", "--limit", "1").stdout)
    assert [(job["id"], job["prompt"], job["error"][:14]) for job in listed] == [(ids[2], None, "invalid_input:")]
    assert set(listed[0]) == {"id", "status", "prompt", "error", "created_s", "started_s", "finished_s"}


def test_a_job_is_shown_cancelled_and_retried(jobs):
    """The picture itself is left out of what is shown."""
    failed = jobs.submit("fail once")
    assert jobs("retry", failed).stdout == f"{failed} IN_QUEUE\n"
    waiting = jobs.submit("wait", "run")
    queued = jobs.submit("queued", "run")
    done = jobs("cancel", queued, waiting)
    assert done.stdout == f"{queued} CANCELLED\n{waiting} CANCELLED\n"
    shown = json.loads(jobs("show", failed).stdout)
    assert shown["status"] == "COMPLETED"
    assert set(shown["output"]) == {"status", "filename", "seed", "info"}
    assert shown["output"]["info"]["seed"] == shown["output"]["seed"]


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["show", "none"], 1, "not_found: unknown job id or expired result"),
        (["list", "--status", "lost"], 1, "bad_request"),
        (["list", "--limit", "0"], 2, "Invalid value"),
        (["retry"], 2, "Missing argument"),
    ],
)
def test_wrong_use_is_a_message(jobs, arguments, status, reason):
    """With the exit status that the help names."""
    done = jobs(*arguments)
    assert (done.returncode, reason in done.stderr) == (status, True), done.stderr


def test_a_wrong_key_and_no_server_are_told_apart(jobs, command_line):
    """1 and 3."""
    assert jobs("list", key="wrong").returncode == 1
    done = command_line("jobs", "list", "--url", "http://127.0.0.1:9")
    assert done.returncode == 3
    assert "http://127.0.0.1:9 does not answer" in done.stderr
