"""What every boundary does with a job: make the picture, store it in a bucket if there is one, log how it ended."""

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from handler import logs
from handler.comfyui.client import OnProgress
from handler.deadline import Deadline
from handler.errors import GenerationError, InternalError, InvalidInput
from handler.job.bucket import Bucket, BucketUnavailable
from handler.job.buckets import Buckets
from handler.job.generate import Generator
from handler.job.picture import Outcome, Picture
from handler.workflow.parameters import Request

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        id: what its log lines are found by.
        request: what the caller asks for.
        s3_config: the caller's bucket in RunPod's shape, as it came; None if there is none.
    """

    id: str
    request: Request
    s3_config: object = field(default=None, repr=False)


class Runner:
    """Runs jobs. Safe to use from several threads."""

    def __init__(self, generator: Generator, buckets: Buckets | None = None) -> None:
        self._generator = generator
        self._buckets = buckets

    def parse(self, raw: object, s3_config: object = None) -> Request:
        """Returns the request that a job's input makes.

        Raises:
            InvalidInput: the input has faults, all of which it names, or its bucket is not allowed.
        """
        request = self._generator.parse(raw)
        if self._buckets is not None and s3_config is not None:
            self._buckets.of_job(s3_config)
        return request

    def run(self, job: Job, deadline: Deadline, on_progress: OnProgress | None = None) -> tuple[Picture, Outcome]:
        """Returns the picture and how the job ended. If the bucket is unreachable, the outcome has no URL.

        Raises:
            GenerationError: the reason why there is no picture.
        """
        bucket = self._buckets.of_job(job.s3_config) if self._buckets is not None else None
        picture = self._generator.generate(job.request, deadline, on_progress)
        url = _stored(bucket, picture, job.id) if bucket is not None else None
        return picture, Outcome.of(picture, url)


@contextlib.contextmanager
def reported(job_id: str) -> Iterator[None]:
    """Logs how the job in the block ended, and raises its error again.

    Raises:
        GenerationError: as raised in the block; InternalError for anything unexpected, so that no
            traceback reaches a caller.
    """
    started_s = time.monotonic()
    try:
        with logs.of_job(job_id):
            yield
    except InvalidInput as exc:  # its message may quote the prompt
        log.warning("job refused", extra={"job_id": job_id, "code": exc.code})
        log.debug("job refused", extra={"job_id": job_id, "reason": exc.message})
        raise
    except GenerationError as exc:
        fields = {"job_id": job_id, "code": exc.code, "reason": exc.message}
        log.warning("job failed", extra=fields, exc_info=exc.__cause__)
        raise
    except Exception as exc:
        log.exception("job failed", extra={"job_id": job_id, "code": InternalError.code})
        raise InternalError("unexpected error, see the worker log") from exc
    log.info("job finished", extra={"job_id": job_id, "seconds": round(time.monotonic() - started_s, 4)})


def _stored(bucket: Bucket, picture: Picture, job_id: str) -> str | None:
    try:
        return bucket.put(picture.filename, picture.encoded)
    except BucketUnavailable as exc:
        log.error("picture not stored", extra={"job_id": job_id, "reason": str(exc)})  # noqa: TRY400
        return None
