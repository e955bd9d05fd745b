"""The bodies that the HTTP server accepts."""

import pytest
from calls import JOBS, TXT2IMG, error


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
        (b'{"a":' * 100_000, "application/json", (400, "bad_request")),
        (b'{"input": ' + b"9" * 5000 + b"}", "application/json", (400, "bad_request")),
        (b'{"x": "' + b"x" * 1_000_000 + b'"}', "application/json", (413, "body_too_large")),
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
    ],
)
def test_a_wrong_envelope_names_its_fault(client, envelope, fault):
    """The fields around the input are checked before a job is accepted."""
    code, name, message = error(client.post(f"{JOBS}/run", json=envelope))
    assert (code, name) == (400, "bad_request")
    assert message.startswith(fault)
