"""Which bucket a job's picture is uploaded to, and whether the worker's own bucket works."""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field, ValidationError

from handler.errors import InvalidInput
from handler.job.bucket import Bucket, BucketUnavailable, endpoint
from handler.settings import BUCKET_NAME, BUCKET_PREFIX, Settings

RECHECK_S = 60.0

log = logging.getLogger(__name__)


class JobBucket(BaseModel):
    """A job's `s3Config`, with RunPod's field names."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    endpoint_url: AnyHttpUrl = Field(alias="endpointUrl", strict=False)
    access_id: str = Field(alias="accessId", min_length=1, max_length=500)
    access_secret: str = Field(alias="accessSecret", min_length=1, max_length=500)
    bucket_name: str = Field(alias="bucketName", pattern=BUCKET_NAME)
    object_path: str = Field("", alias="objectPath", pattern=BUCKET_PREFIX, max_length=500)


def picture_origins(settings: Settings) -> list[str]:
    """Returns the origins of URLs of the worker's own bucket, as a Content-Security-Policy writes them."""
    if settings.bucket_public_url is not None:
        return [origin(settings.bucket_public_url)]
    own = own_bucket(settings)
    if own is None:
        return []
    scheme, _, host = origin(AnyHttpUrl(own.endpoint_url)).partition("://")
    # A signed URL may have the bucket's name before the host; AWS also puts the bucket's region there.
    parent = "amazonaws.com" if host.endswith(".amazonaws.com") else host
    return [f"{scheme}://{host}", f"{scheme}://*.{parent}"]


class Buckets:
    """Chooses the bucket of a job's picture. Safe to use from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._allowed = {origin(url) for url in settings.allowed_endpoints()}
        self._own = own_bucket(settings)
        self._lock = threading.Lock()
        self._works = False
        self._checked_s = float("-inf")

    def begin_check(self) -> None:
        """Starts to check the worker's own bucket, and returns at once."""
        if self._own is not None:
            threading.Thread(target=self.own, daemon=True).start()

    def of_job(self, s3_config: object) -> Bucket | None:
        """Returns the job's own bucket, else the worker's if it works, else None.

        Args:
            s3_config: `{"accessId", "accessSecret", "bucketName", "endpointUrl", "objectPath"?}`, or None.

        Raises:
            InvalidInput: its shape is wrong, or its endpoint is not allowed.
        """
        if s3_config is None:
            return self.own()
        try:
            config = JobBucket.model_validate(s3_config)
        except ValidationError as exc:
            raise InvalidInput(_faults(exc)) from None
        given = origin(config.endpoint_url)
        without_bucket = endpoint(given, config.bucket_name)
        if not {given, without_bucket} & self._allowed:
            raise InvalidInput(["s3Config.endpointUrl is not one of the URLs that this worker allows"])
        return Bucket(
            endpoint_url=without_bucket,
            access_key_id=config.access_id,
            secret_access_key=config.access_secret,
            name=config.bucket_name,
            region=self._settings.bucket_region,
            prefix=config.object_path,
            public_url=None,
            lifetime_s=self._settings.bucket_url_lifetime_s,
        )

    def own(self) -> Bucket | None:
        """Returns the worker's bucket if an object could be written and read back; one that fails is tried again."""
        if self._own is None:
            return None
        with self._lock:
            if not self._works and time.monotonic() > self._checked_s + RECHECK_S:
                self._works = _works(self._own)
                self._checked_s = time.monotonic()
            return self._own if self._works else None


def own_bucket(settings: Settings) -> Bucket | None:
    """Returns the bucket of the settings, or None."""
    if (
        settings.bucket_endpoint_url is None
        or settings.bucket_access_key_id is None
        or settings.bucket_secret_access_key is None
        or settings.bucket_name is None
    ):
        return None
    return Bucket(
        endpoint_url=endpoint(str(settings.bucket_endpoint_url), settings.bucket_name),
        access_key_id=settings.bucket_access_key_id,
        secret_access_key=settings.bucket_secret_access_key.get_secret_value(),
        name=settings.bucket_name,
        region=settings.bucket_region,
        prefix=settings.bucket_prefix,
        public_url=str(settings.bucket_public_url) if settings.bucket_public_url else None,
        lifetime_s=settings.bucket_url_lifetime_s,
    )


def origin(url: AnyHttpUrl) -> str:
    """Returns scheme, host and port of a URL, which is what the allow-list compares."""
    return f"{url.scheme}://{url.host}:{url.port}"


def _works(bucket: Bucket) -> bool:
    try:
        bucket.check()
    except BucketUnavailable as exc:
        log.error(  # noqa: TRY400 -- the reason says it all
            "bucket does not work, replies carry the picture", extra={"bucket": bucket.name, "reason": str(exc)}
        )
        return False
    log.info("bucket works", extra={"bucket": bucket.name})
    return True


def _faults(exc: ValidationError) -> list[str]:
    """Returns the faults without the values, which are secret."""
    errors: list[Mapping[str, Any]] = [*exc.errors(include_input=False, include_url=False)]
    return [".".join(["s3Config", *map(str, error["loc"])]) + f": {error['msg']}" for error in errors]
