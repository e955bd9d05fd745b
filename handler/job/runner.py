"""What all boundaries do with a job: run it, put its picture into a bucket where there is one, log how it ended."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from handler.comfyui.client import OnProgress
from handler.deadline import Deadline
from handler.errors import GenerationError, InternalError, InvalidInput
from handler.job.bucket import Bucket, Buckets, BucketUnavailable
from handler.job.generate import Generator
from handler.job.reply import Generated

T = TypeVar("T")
Job = Mapping[str, Any]
Deliver = Callable[[Generated, str | None], T]

log = logging.getLogger(__name__)


class Worker:
    """Runs jobs. Safe to use from several threads."""

    def __init__(self, generator: Generator, buckets: Buckets | None = None) -> None:
        self._generator = generator
        self._buckets = buckets

    def run(
        self, job: Job, deadline: Deadline, deliver: Deliver[T], on_progress: OnProgress | None = None
    ) -> T | GenerationError:
        """Returns what `deliver` makes of the picture, or why there is none; raises nothing.

        Args:
            job: `id`, `input` and `s3Config`, in RunPod's shape.
            deliver: takes the picture, and its URL where it is in a bucket. A bucket out of reach costs
                nobody the picture: there is no URL then.
        """
        job_id = job.get("id")
        try:
            bucket = self._buckets.of_job(job.get("s3Config")) if self._buckets is not None else None
            generated = self._generator.generate(job.get("input"), deadline, on_progress)
            url = _stored(bucket, generated, job_id) if bucket is not None else None
            delivered = deliver(generated, url)
        except InvalidInput as exc:  # its message may quote the prompt
            log.warning("job refused", extra={"job_id": job_id, "code": exc.code})
            log.debug("why it was refused", extra={"job_id": job_id, "reason": exc.message})
            return exc
        except GenerationError as exc:
            facts = {"job_id": job_id, "code": exc.code, "reason": exc.message}
            log.warning("job failed", extra=facts, exc_info=exc.__cause__)
            return exc
        except Exception:
            log.exception("job failed", extra={"job_id": job_id, "code": InternalError.code})
            return InternalError("the worker failed, its log has the reason")
        log.info("job finished", extra={"job_id": job_id, "seconds": generated.info["seconds"]["total"]})
        return delivered


def _stored(bucket: Bucket, generated: Generated, job_id: object) -> str | None:
    try:
        return bucket.put(generated.filename, generated.png)
    except BucketUnavailable as exc:
        log.error("picture not stored", extra={"job_id": job_id, "reason": str(exc)})  # noqa: TRY400
        return None
