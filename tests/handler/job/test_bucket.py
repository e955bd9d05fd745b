import asyncio
import base64
import dataclasses
import json
import socket

import boto3
import pytest
import requests
from moto.server import ThreadedMotoServer
from pydantic import ValidationError

from handler import serverless
from handler.errors import InvalidInput
from handler.job.bucket import Bucket, Buckets, BucketUnavailable
from handler.job.picture import Picture
from handler.job.runner import Runner
from handler.settings import Settings
from handler.workflow.parameters import Request

NAME = "alpha_1_abcdef.png"
PNG = b"\x89PNG\r\n\x1a\n not decoded here"


@pytest.fixture(scope="module")
def s3():
    """The URL of a server that speaks S3's protocol and has one bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=address, aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
    )
    client.create_bucket(Bucket="pictures")
    yield address
    server.stop()


@pytest.fixture
def nowhere():
    """A URL that no server listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def settings(endpoint, **more):
    return Settings(
        bucket_endpoint_url=endpoint,
        bucket_access_key_id="key",
        bucket_secret_access_key="hush hush",
        bucket_name="pictures",
        **more,
    )


def bucket(endpoint, **more):
    found = Buckets(settings(endpoint, **more)).of_job(None)
    assert found is not None
    return found


def test_a_picture_is_readable_at_its_signed_url(s3):
    """The URL returns the PNG without a key."""
    answer = requests.get(bucket(s3).put(NAME, PNG), timeout=10)
    assert answer.content == PNG
    assert answer.headers["Content-Type"] == "image/png"


def test_a_public_bucket_has_plain_urls(s3):
    """With BUCKET_PUBLIC_URL, the reply's URL is that URL followed by the file name."""
    url = bucket(s3, bucket_public_url="https://cdn.example/pictures/").put(NAME, PNG)
    assert url == f"https://cdn.example/pictures/{NAME}"


@pytest.mark.parametrize(("change", "reason"), [({"name": "absent"}, "NoSuchBucket"), ({"name": "a b"}, "Validation")])
def test_a_bucket_that_refuses_is_an_error(s3, change, reason):
    """If the bucket is missing, the message has S3's error code and no key."""
    with pytest.raises(BucketUnavailable, match=reason) as caught:
        dataclasses.replace(bucket(s3), **change).put(NAME, PNG)
    assert "hush" not in str(caught.value)


def test_a_bucket_out_of_reach_is_an_error(nowhere):
    """If the server is down, the upload fails within seconds, and the message has no key."""
    with pytest.raises(BucketUnavailable, match="EndpointConnectionError"):
        bucket(nowhere).put(NAME, PNG)


def test_secrets_are_not_shown(s3):
    """The representations of settings and bucket do not contain the secret."""
    assert "hush" not in repr(bucket(s3)) + repr(settings(s3))


@pytest.mark.parametrize("left_out", ["BUCKET_ENDPOINT_URL", "BUCKET_ACCESS_KEY_ID", "BUCKET_NAME"])
def test_half_a_bucket_stops_the_program(monkeypatch, left_out):
    """Three of the four settings are an error that names the missing one."""
    values = {
        "BUCKET_ENDPOINT_URL": "https://s3.example",
        "BUCKET_ACCESS_KEY_ID": "key",
        "BUCKET_SECRET_ACCESS_KEY": "hush hush",
        "BUCKET_NAME": "pictures",
    }
    for name in values.keys() - {left_out}:
        monkeypatch.setenv(name, values[name])
    with pytest.raises(ValidationError, match=f"{left_out} missing") as caught:
        Settings()
    assert "hush" not in str(caught.value)


def test_without_settings_there_is_no_bucket():
    """Without these settings there is no bucket, and pictures are in the replies."""
    assert Buckets(Settings()).of_job(None) is None


def job_config(endpoint, **changed):
    known = {"endpointUrl": endpoint, "accessId": "key", "accessSecret": "hush hush", "bucketName": "pictures"}
    return known | changed


def test_a_job_s_own_bucket_is_used_where_its_address_is_allowed(s3):
    """s3Config has RunPod's field names; a path after the host is ignored."""
    buckets = Buckets(Settings(bucket_allowed_endpoints=f"https://s3.example, {s3}/"))
    found = buckets.of_job(job_config(s3 + "/ignored"))
    assert isinstance(found, Bucket)
    assert requests.get(found.put("alpha_2_abcdef.png", PNG), timeout=10).content == PNG


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (
            job_config("http://169.254.169.254"),
            "s3Config.endpointUrl is not one of the URLs that this worker allows",
        ),
        (job_config("https://s3.example:444"), "not one of"),
        (job_config("http://s3.example"), "not one of"),
        (job_config("https://s3.example@evil.example"), "not one of"),
        (job_config("file:///etc/passwd"), "s3Config.endpointUrl"),
        (job_config(7), "s3Config.endpointUrl"),
        (job_config("https://s3.example", bucketName="../x"), "s3Config.bucketName"),
        (job_config("https://s3.example", accessSecret=None), "s3Config.accessSecret"),
        (job_config("https://s3.example", more=1), "s3Config.more"),
        ({}, "s3Config.accessId"),
        ("https://s3.example", "s3Config"),
    ],
)
def test_another_s3_config_is_rejected(config, fault):
    """Other URLs and shapes are rejected before anything is drawn, and the message repeats no value."""
    with pytest.raises(InvalidInput, match=fault) as caught:
        Buckets(Settings(bucket_allowed_endpoints="https://s3.example")).of_job(config)
    assert "hush" not in str(caught.value)


def test_no_address_is_allowed_by_default():
    """By default a worker connects to no URL that a caller names."""
    with pytest.raises(InvalidInput, match="not one of"):
        Buckets(Settings()).of_job(job_config("https://s3.example"))


def test_an_allowed_address_that_is_none_stops_the_program(monkeypatch):
    """A typing mistake in the allow-list is reported at the start."""
    monkeypatch.setenv("BUCKET_ALLOWED_ENDPOINTS", "https://s3.example, s3.example")
    with pytest.raises(ValidationError, match="BUCKET_ALLOWED_ENDPOINTS must be"):
        Settings()


class Drawn:
    """A generator that returns a picture immediately."""

    def parse(self, raw):
        return Request(raw)

    def generate(self, *_):
        return Picture(PNG, NAME, {"seed": 7}, {"seconds": {"total": 0.0}})


def run(buckets, job):
    handle = serverless.make_handler(Runner(Drawn(), buckets), Settings())
    return asyncio.run(handle({"id": "1", "input": {}, **job}))


def test_a_job_answers_with_the_url(s3):
    """Both URLs point to the bucket, and there is no base64."""
    reply = run(Buckets(settings(s3)), {})
    assert set(reply) == {"status", "url", "image_url", "filename", "seed", "info"}
    assert reply["url"] == reply["image_url"]
    assert requests.get(reply["url"], timeout=10).content == PNG
    assert json.loads(reply["info"]) == {"seconds": {"total": 0.0}}


def test_a_job_keeps_its_picture_when_the_bucket_is_gone(nowhere):
    """If the bucket is unreachable, the picture is in the reply."""
    reply = run(Buckets(settings(nowhere)), {})
    assert base64.b64decode(reply["image_base64"]) == PNG


def test_a_job_with_a_bad_bucket_is_rejected(s3):
    """A bucket that is not allowed is an invalid request."""
    reply = run(Buckets(settings(s3)), {"s3Config": {"bucketName": "pictures"}})
    assert reply["error"].startswith("invalid_input: s3Config")
