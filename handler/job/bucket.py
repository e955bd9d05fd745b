"""One S3 bucket: uploads a picture and returns its URL. handler.job.buckets chooses it."""

import functools
import logging
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

import boto3
import httpx
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from handler import proxies
from handler.job.formats import media_type

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Two attempts take 50 s at worst, of a job's 540.
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 20.0
ATTEMPTS = 2
YEAR_S = 31_536_000
SESSION_LOCK = threading.Lock()  # a session must not make clients in two threads at once (boto3's documentation)
# For R2 and MinIO, which accept it; AWS then answers with the bucket's region.
DEFAULT_REGION = "us-east-1"
# Hosts whose endpoint has the region, as s3.eu-central-1.amazonaws.com does.
REGION_HOST = re.compile(r"(?:^|\.)s3[.-]([a-z]{2,}[a-z0-9-]*-[a-z0-9-]+)\.[a-z0-9.-]+\.[a-z]+$")
# Endpoints that a bucket's own host name may precede.
BUCKET_HOST = re.compile(r"s3[.-]|[0-9a-f]{32}\.(?:[a-z]+\.)?r2\.|[a-z0-9]+\.digitaloceanspaces\.")


log = logging.getLogger(__name__)


class BucketUnavailable(Exception):
    """A picture could not be uploaded; the message contains no key or secret."""


@dataclass(frozen=True)
class Bucket:
    """One bucket.

    Attributes:
        endpoint_url: without the bucket's name in host or path (`endpoint`).
        region: that requests are signed for; None: the endpoint's, or what the bucket answers.
        prefix: before each picture's name; `{date}` in it is the day in UTC, for example 2026-11-29.
        public_url: the bucket's public URL; without it, URLs are signed and work for `lifetime_s`.
    """

    endpoint_url: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    name: str
    region: str | None
    prefix: str
    public_url: str | None
    lifetime_s: int

    def put(self, filename: str, encoded: bytes) -> str:
        """Uploads a picture under the prefix and its name, and returns its URL.

        Raises:
            BucketUnavailable: it could not be uploaded.
        """
        with _reasons():
            return self._put(self._key(filename), encoded, media_type(filename))

    def check(self) -> None:
        """Writes one small object, reads it through the URL that callers get, and deletes it.

        Raises:
            BucketUnavailable: pictures would not reach their callers.
        """
        key, content = self._key(f"alpha_check_{secrets.token_hex(6)}.txt"), secrets.token_hex(16).encode()
        with _reasons():
            url = self._put(key, content, "text/plain")
        try:
            self._read_back(url, content)
        finally:
            try:
                _client(self).delete_object(Bucket=self.name, Key=key)
            except (BotoCoreError, ClientError) as exc:  # pictures need no right to delete
                log.warning("the object that tested the bucket stays", extra={"key": key, "reason": str(exc)})

    def _key(self, filename: str) -> str:
        prefix = self.prefix.replace("{date}", time.strftime("%Y-%m-%d", time.gmtime())).strip("/")
        return f"{prefix}/{filename}" if prefix else filename

    def _put(self, key: str, content: bytes, content_type: str) -> str:
        client = _client(self)
        client.put_object(
            Bucket=self.name,
            Key=key,
            Body=content,
            ContentType=content_type,
            CacheControl=f"public, max-age={YEAR_S}, immutable",
        )
        if self.public_url is not None:
            return f"{self.public_url.rstrip('/')}/{quote(key)}"
        place = {"Bucket": self.name, "Key": key}
        return client.generate_presigned_url("get_object", Params=place, ExpiresIn=self.lifetime_s)

    def _read_back(self, url: str, content: bytes) -> None:
        kind = "signed URL" if self.public_url is None else "BUCKET_PUBLIC_URL"
        try:
            with proxies.client(timeout=READ_TIMEOUT_S) as http:
                answer = http.get(url)
        except (httpx.HTTPError, httpx.InvalidURL, proxies.BadProxy) as exc:
            raise BucketUnavailable(f"the {kind} does not answer: {type(exc).__name__}") from exc
        if answer.status_code != 200 or answer.content != content:
            raise BucketUnavailable(f"the {kind} does not return what was uploaded: HTTP {answer.status_code}")


def endpoint(url: str, bucket: str) -> str:
    """Returns an endpoint without the bucket's name, which consoles show in its path (R2) or before its host."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix(f"/{bucket}")
    rest = parts.netloc.removeprefix(f"{bucket}.")
    netloc = rest if BUCKET_HOST.match(rest) else parts.netloc
    return urlunsplit((parts.scheme, netloc, path, "", ""))


@contextmanager
def _reasons() -> Iterator[None]:
    try:
        yield
    except ClientError as exc:
        raise BucketUnavailable(f"S3 answered {exc.response['Error']['Code']}") from exc
    except (BotoCoreError, ValueError) as exc:  # ValueError: the URL of the endpoint or of a proxy
        raise BucketUnavailable(f"S3 does not answer: {type(exc).__name__}") from exc


@functools.lru_cache(maxsize=8)
def _client(bucket: Bucket) -> "S3Client":
    """Returns a client, cached because making one takes longer than encoding a picture."""
    if bucket.region is not None:
        return _make_client(bucket, bucket.region)
    found = REGION_HOST.search(urlsplit(bucket.endpoint_url).hostname or "")
    guess = found.group(1) if found else DEFAULT_REGION
    client = _make_client(bucket, guess)
    region = _announced_region(client, bucket.name)
    return client if region in {None, guess} else _make_client(bucket, region or guess)


def _announced_region(client: "S3Client", name: str) -> str | None:
    """Returns the region that the service names; AWS does so in refusals and redirects, too."""
    try:
        headers = client.head_bucket(Bucket=name)["ResponseMetadata"]["HTTPHeaders"]
    except ClientError as exc:
        headers = exc.response["ResponseMetadata"]["HTTPHeaders"]
    return headers.get("x-amz-bucket-region")


def _make_client(bucket: Bucket, region: str) -> "S3Client":
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
        # By default botocore adds checksums that other vendors' S3 does not support.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    with SESSION_LOCK:
        client: S3Client = _session().client(
            "s3",
            endpoint_url=bucket.endpoint_url,
            aws_access_key_id=bucket.access_key_id,
            aws_secret_access_key=bucket.secret_access_key,
            region_name=region,
            config=config,
        )
    return client


@functools.cache
def _session() -> boto3.session.Session:
    """Returns the session that makes all clients: its second one takes 5 ms instead of 70."""
    return boto3.session.Session()
