"""Uploads of finished pictures to a bucket of S3 or a compatible service."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field, ValidationError

from handler.errors import InvalidInput
from handler.settings import BUCKET_NAME, Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Two attempts take 50 s at worst, of a job's 540.
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 20.0
ATTEMPTS = 2
YEAR_S = 31_536_000


class BucketUnavailable(Exception):
    """A picture could not be uploaded; the message contains no key or secret."""


class JobBucket(BaseModel):
    """A job's `s3Config`, with RunPod's field names."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    endpoint_url: AnyHttpUrl = Field(alias="endpointUrl", strict=False)
    access_id: str = Field(alias="accessId", min_length=1, max_length=500)
    access_secret: str = Field(alias="accessSecret", min_length=1, max_length=500)
    bucket_name: str = Field(alias="bucketName", pattern=BUCKET_NAME)


@dataclass(frozen=True)
class Bucket:
    """One bucket.

    Attributes:
        public_url: the bucket's public URL; without it, URLs are signed and work for `lifetime_s`.
    """

    endpoint_url: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    name: str
    region: str
    public_url: str | None
    lifetime_s: int

    def put(self, filename: str, png: bytes) -> str:
        """Uploads a picture under its name and returns its URL.

        Raises:
            BucketUnavailable: it could not be uploaded.
        """
        try:
            client = _client(self)
            client.put_object(
                Bucket=self.name,
                Key=filename,
                Body=png,
                ContentType="image/png",
                CacheControl=f"public, max-age={YEAR_S}, immutable",
            )
            if self.public_url is not None:
                return f"{self.public_url.rstrip('/')}/{quote(filename)}"
            place = {"Bucket": self.name, "Key": filename}
            return client.generate_presigned_url("get_object", Params=place, ExpiresIn=self.lifetime_s)
        except ClientError as exc:
            raise BucketUnavailable(f"S3 answered {exc.response['Error']['Code']}") from exc
        except BotoCoreError as exc:
            raise BucketUnavailable(f"S3 does not answer: {type(exc).__name__}") from exc


@functools.lru_cache(maxsize=8)
def _client(bucket: Bucket) -> "S3Client":
    """Returns a client, cached because making one takes longer than encoding a picture."""
    client: S3Client = boto3.session.Session().client(
        "s3",
        endpoint_url=bucket.endpoint_url,
        aws_access_key_id=bucket.access_key_id,
        aws_secret_access_key=bucket.secret_access_key,
        region_name=bucket.region,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            # By default botocore adds checksums that other vendors' S3 does not support.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    return client


class Buckets:
    """Chooses the bucket of a job's picture."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._allowed = {origin(url) for url in settings.allowed_endpoints()}

    def of_job(self, s3_config: object) -> Bucket | None:
        """Returns the job's own bucket, else the worker's, else None.

        Args:
            s3_config: `{"accessId", "accessSecret", "bucketName", "endpointUrl"}`, or None.

        Raises:
            InvalidInput: its shape is wrong, or its endpoint is not allowed.
        """
        if s3_config is None:
            return self._own()
        try:
            config = JobBucket.model_validate(s3_config)
        except ValidationError as exc:
            raise InvalidInput(_faults(exc)) from None
        endpoint_url = origin(config.endpoint_url)
        if endpoint_url not in self._allowed:
            raise InvalidInput(["s3Config.endpointUrl is not one of the URLs that this worker allows"])
        return Bucket(
            endpoint_url=endpoint_url,
            access_key_id=config.access_id,
            secret_access_key=config.access_secret,
            name=config.bucket_name,
            region=self._settings.bucket_region,
            public_url=None,
            lifetime_s=self._settings.bucket_url_lifetime_s,
        )

    def _own(self) -> Bucket | None:
        settings = self._settings
        if (
            settings.bucket_endpoint_url is None
            or settings.bucket_access_key_id is None
            or settings.bucket_secret_access_key is None
            or settings.bucket_name is None
        ):
            return None
        return Bucket(
            endpoint_url=str(settings.bucket_endpoint_url),
            access_key_id=settings.bucket_access_key_id,
            secret_access_key=settings.bucket_secret_access_key.get_secret_value(),
            name=settings.bucket_name,
            region=settings.bucket_region,
            public_url=str(settings.bucket_public_url) if settings.bucket_public_url else None,
            lifetime_s=settings.bucket_url_lifetime_s,
        )


def origin(url: AnyHttpUrl) -> str:
    """Returns scheme, host and port of a URL, which is what the allow-list compares."""
    return f"{url.scheme}://{url.host}:{url.port}"


def _faults(exc: ValidationError) -> list[str]:
    """Returns the faults without the values, which are secret."""
    errors: list[Mapping[str, Any]] = [*exc.errors(include_input=False, include_url=False)]
    return [".".join(["s3Config", *map(str, error["loc"])]) + f": {error['msg']}" for error in errors]
