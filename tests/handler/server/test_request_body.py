"""The bodies that the HTTP server accepts."""

import pytest
from calls import JOBS, TXT2IMG, error, status, submit

from handler.job.buckets import Buckets
from handler.settings import Settings

BUCKET = {
    "endpointUrl": "https://s3.example",
    "accessId": "id",
    "accessSecret": "a secret",
    "bucketName": "pictures",
}


@pytest.mark.parametrize("path", [f"{JOBS}/run", f"{JOBS}/runsync", TXT2IMG])
@pytest.mark.parametrize(
    ("content", "content_type", "expected"),
    [
        (b"", "application/json", (400, "bad_request")),
        (b"{", "application/json", (400, "bad_request")),
        (b"\xff\xfe", "application/json", (400, "bad_request")),
        (b"[]", "application/json", (400, "bad_request")),
        (b'{"input": {"prompt": NaN}}', "application/json", (400, "bad_request")),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "application/json", (400, "bad_request")),
        (b'{"a":' * 30_000, "application/json", (400, "bad_request")),
        (b'{"input": ' + b"9" * 5000 + b"}", "application/json", (400, "bad_request")),
        (b'{"x": "' + b"x " * 100_000 + b'"}', "application/json", (413, "body_too_large")),
        (b'{"x": "' + b"x" * 8_000_000 + b'"}', "application/json", (413, "body_too_large")),
        (b"[" + b",".join([b"1e10"] * 50_000) + b"]", "application/json", (413, "body_too_large")),
        (b'{"x": ' + b"9" * 200_000 + b"}", "application/json", (400, "bad_request")),
        (b'{"x": "' + b"x" * 5_000_000, "application/json", (400, "bad_request")),
        (b'{"input": {"prompt": "x"}}', "text/plain", (415, "unsupported_media_type")),
        (b'{"input": {"prompt": "x"}}', "", (415, "unsupported_media_type")),
    ],
)
def test_a_body_that_is_no_request_is_rejected(client, path, content, content_type, expected):
    """It is not a JSON object, too large, nested too deep, or of a type that a form on another site could send."""
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
        ({"input": {}, "policy": {"ttl": 16_000.5}}, "policy.ttl: Input should be a valid int"),
        ({"input": {}, "policy": {"ttl": True}}, "policy.ttl: Input should be a valid int"),
        ({"input": {}, "policy": {"ttl": 1e300}}, "policy.ttl: Input should be less"),
        ({"input": {}, "s3Config": "mine"}, "s3Config"),
        ({"input": {}, "s3Config": []}, "s3Config"),
        ({"input": {}, "s3Config": BUCKET | {"bucketName": 7}}, "s3Config.bucketName"),
        ({"input": {}, "s3Config": BUCKET | {"endpointUrl": "nothing"}}, "s3Config.endpointUrl"),
        ({"input": {}, "s3Config": {"bucketName": "pictures"}}, "s3Config.endpointUrl: Field required"),
    ],
)
def test_a_wrong_envelope_names_its_fault(client, envelope, fault):
    """The fields around the input are checked before a job is accepted."""
    code, name, message = error(client.post(f"{JOBS}/run", json=envelope))
    assert (code, name) == (400, "bad_request")
    assert message.startswith(fault)
    assert "a secret" not in message


def test_whole_numbers_are_integers(client):
    """As JSON Schema says, and as in a job's input."""
    job_id = submit(client, policy={"executionTimeout": 16_000.0, "ttl": 6e5})
    request = client.service.store.get(job_id).request
    assert (request.execution_timeout_s, request.ttl_s) == (16.0, 600.0)


def test_a_bucket_that_is_not_allowed_fails_the_job_at_once(make):
    """Like an invalid input: the job is accepted and has failed, even while another one runs."""
    client = make(buckets=Buckets(Settings(bucket_allowed_endpoints="https://other.example")))
    submit(client, "wait")
    job = status(client, submit(client, s3Config=BUCKET))
    assert (job["status"], job["executionTime"]) == ("FAILED", 0)
    assert job["error"].startswith("invalid_input: s3Config.endpointUrl is not one of the URLs")
