import asyncio
import base64
import dataclasses
import json
import re
import socket
import time

import pytest
import requests
from aiohttp import web
from loopback import LoopbackServer
from pydantic import ValidationError

from handler import serverless
from handler.errors import InvalidInput
from handler.job import buckets as choice
from handler.job.bucket import REGION_HOST, Bucket, BucketUnavailable, endpoint
from handler.job.buckets import Buckets, own_bucket
from handler.job.drawing import PlannedPicture
from handler.job.picture import Picture
from handler.job.runner import Runner
from handler.settings import Settings
from handler.workflow.parameters import Request

NAME = "alpha_1_abcdef.png"
PNG = b"\x89PNG\r\n\x1a\n not decoded here"


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
    found = own_bucket(settings(endpoint, **more))
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


class RegionalS3(LoopbackServer):
    """A bucket in eu-central-1, called pictures, that checks for which region a request is signed, as AWS does.

    Attributes:
        lost: whether reading returns something else than what was written.
        keeps: whether deleting is refused.
    """

    REGION = "eu-central-1"

    def __init__(self, lost=False, keeps=False):
        self.lost, self.keeps = lost, keeps
        self.objects, self.headers = {}, {}

    def routes(self):
        return [web.route("*", "/{bucket}", self._answer), web.route("*", "/{bucket}/{key:.*}", self._answer)]

    async def _answer(self, request):
        signed = request.headers.get("Authorization", "") + request.query.get("X-Amz-Credential", "")
        answer_headers = {"x-amz-bucket-region": self.REGION}
        if signed and f"/{self.REGION}/s3/aws4_request" not in signed:
            body = "" if request.method == "HEAD" else "<Error><Code>PermanentRedirect</Code></Error>"
            return web.Response(status=301, text=body, headers=answer_headers, content_type="application/xml")
        if request.match_info["bucket"] != "pictures":
            return self._error(404, "NoSuchBucket")
        return self._object(
            request.method, request.match_info.get("key"), request.headers, await request.read(), answer_headers
        )

    def _object(self, method, key, headers, body, answer_headers):
        if method == "PUT":
            self.objects[key], self.headers[key] = body, headers
        elif method == "DELETE":
            if self.keeps:
                return self._error(403, "AccessDenied")
            self.objects.pop(key)
        elif method == "GET":
            return web.Response(body=b"lost" if self.lost else self.objects[key])
        return web.Response(headers=answer_headers)

    def _error(self, status, code):
        return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>", content_type="application/xml")


def test_the_region_is_the_bucket_s_own():
    """A bucket outside us-east-1: the upload and the signed URL are for its region, which no setting names."""
    with RegionalS3() as s3:
        url = bucket(f"http://{s3.address}").put(NAME, PNG)
        assert requests.get(url, timeout=10).content == PNG
        assert "%2Feu-central-1%2Fs3" in url


@pytest.mark.parametrize("style", ["{}", "{}/", "{}/pictures", "{}/pictures/"])
@pytest.mark.parametrize("prefix", ["", "alpha", "alpha/{date}/"])
def test_the_object_s_key_is_prefix_and_name(style, prefix):
    """However the endpoint is spelled, the bucket's name is in the path once; {date} is the day."""
    with RegionalS3() as s3:
        url = bucket(style.format(f"http://{s3.address}"), bucket_prefix=prefix).put(NAME, PNG)
        assert requests.get(url, timeout=10).content == PNG
        (key,) = s3.objects
        day = time.strftime("%Y-%m-%d", time.gmtime())
        assert key == "/".join(filter(None, [prefix.strip("/").replace("{date}", day), NAME]))
        assert s3.headers[key]["Content-Type"] == "image/png"
        assert "immutable" in s3.headers[key]["Cache-Control"]


ACCOUNT = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (f"https://{ACCOUNT}.r2.cloudflarestorage.com/pictures", f"https://{ACCOUNT}.r2.cloudflarestorage.com"),
        (f"https://pictures.{ACCOUNT}.eu.r2.cloudflarestorage.com", f"https://{ACCOUNT}.eu.r2.cloudflarestorage.com"),
        ("https://pictures.s3.eu-central-1.amazonaws.com/", "https://s3.eu-central-1.amazonaws.com"),
        ("https://pictures.s3-eu-west-1.amazonaws.com", "https://s3-eu-west-1.amazonaws.com"),
        ("https://pictures.nyc3.digitaloceanspaces.com", "https://nyc3.digitaloceanspaces.com"),
        ("https://project.supabase.co/storage/v1/s3", "https://project.supabase.co/storage/v1/s3"),
        ("https://pictures.example.com:9000", "https://pictures.example.com:9000"),
    ],
)
def test_a_bucket_in_path_or_host_of_the_endpoint_is_removed(given, expected):
    """Both spellings that consoles show, and no other part of a URL."""
    assert endpoint(given, "pictures") == expected


@pytest.mark.parametrize(
    ("host", "region"),
    [
        ("s3.eu-central-1.amazonaws.com", "eu-central-1"),
        ("s3.us-west-004.backblazeb2.com", "us-west-004"),
        ("s3.fr-par.scw.cloud", "fr-par"),
        ("s3.amazonaws.com", None),
        ("s3.dualstack.us-west-2.amazonaws.com", None),
        (f"{ACCOUNT}.r2.cloudflarestorage.com", None),
        ("127.0.0.1", None),
    ],
)
def test_the_region_of_an_endpoint_s_host(host, region):
    """Where the host names it; elsewhere the service is asked."""
    found = REGION_HOST.search(host)
    assert (found and found.group(1)) == region


def test_a_bucket_is_tried_at_the_start():
    """One object is written, read through the URL that callers get, and deleted."""
    with RegionalS3() as s3:
        assert Buckets(settings(f"http://{s3.address}")).of_job(None) is not None
        assert s3.objects == {}
        assert len(s3.headers) == 1


def test_a_bucket_that_keeps_the_test_object_works(caplog):
    """Keys that may only write are enough."""
    with RegionalS3(keeps=True) as s3:
        assert Buckets(settings(f"http://{s3.address}")).of_job(None) is not None
    assert "the object that tested the bucket stays" in caplog.messages


@pytest.mark.parametrize(
    ("server", "more", "reason"),
    [
        (RegionalS3(lost=True), {}, "signed URL does not return what was uploaded"),
        (RegionalS3(), {"bucket_name": "other-pictures"}, "NoSuchBucket"),
        (RegionalS3(), {"bucket_region": "us-east-1"}, "S3 answered|does not return"),
        (RegionalS3(), {"bucket_public_url": "http://127.0.0.1:9/"}, "BUCKET_PUBLIC_URL does not answer"),
    ],
    ids=["lost", "no bucket", "wrong region", "dead public URL"],
)
def test_with_a_bucket_that_does_not_work_replies_carry_the_picture(server, more, reason, caplog, monkeypatch):
    """The reason is logged, without the secret; a later job tries the bucket again."""
    with server as s3:
        buckets = Buckets(Settings(**{**settings(f"http://{s3.address}").model_dump(), **more}))
        reply = run(buckets, {})
        assert base64.b64decode(reply["image_base64"]) == PNG
        (record,) = [record for record in caplog.records if record.message.startswith("bucket does not work")]
        assert re.search(reason, record.reason)
        assert "hush" not in caplog.text
        monkeypatch.setattr(choice, "RECHECK_S", -1.0)
        run(buckets, {})
    assert caplog.text.count("bucket does not work") == 2


@pytest.mark.parametrize("path", ["../x", "/x", "a/../b", ".x", "a b", "ä", "a//b", "x" * 501])
def test_a_prefix_that_could_lead_elsewhere_is_rejected(path):
    """BUCKET_PREFIX and objectPath are folders of plain characters."""
    with pytest.raises(ValidationError):
        Settings(bucket_prefix=path)
    with pytest.raises(InvalidInput, match="objectPath"):
        Buckets(Settings(bucket_allowed_endpoints="https://s3.example")).of_job(
            job_config("https://s3.example", objectPath=path)
        )


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
    found = buckets.of_job(job_config(s3, objectPath="mine/{date}"))
    assert f"/pictures/mine/{time.strftime('%Y-%m-%d', time.gmtime())}/alpha_" in found.put("alpha_3_abcdef.png", PNG)


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

    def fetched(self, request, deadline):
        return request

    def plan(self, request, first):
        return [PlannedPicture(None, request, None)]

    def draw(self, *_):
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
