"""What every boundary does with a job: make its pictures, have them delivered, log how it ended."""

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from handler import logs
from handler.deadline import Deadline
from handler.errors import GenerationError, InternalError, InvalidInput, JobCancelled, NotTransparent
from handler.job import reply
from handler.job.bucket import Bucket
from handler.job.buckets import Buckets
from handler.job.delivery import Delivery, Keeper, Kept
from handler.job.generate import Generator
from handler.job.picture import MissingPicture, Outcome
from handler.job.progress import OnProgress
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

    def parse(self, raw: object, s3_config: object = None, is_sent_as_base64: bool = True) -> Request:
        """Returns the request that a job's input makes.

        Args:
            raw: the job's input, as it came.
            s3_config: the caller's bucket, as it came.
            is_sent_as_base64: whether the reply carries the pictures themselves, unless they are in a bucket.

        Raises:
            InvalidInput: the input has faults, all of which it names, its bucket is not allowed, or it asks for
                more pictures than a reply can carry.
        """
        request = self._generator.parse(raw)
        if s3_config is not None:
            self._bucket(s3_config)
        if request.number is not None and is_sent_as_base64 and self._bucket(s3_config) is None:
            width, height = self._generator.plan(request)[0].workflow.size_of(request)
            most = reply.most_pictures(width, height, reply.Shape.of(self._generator.settings))
            if request.number > most:
                fault = f"{request.number} pictures of {width}x{height} do not fit into a reply, {most} would"
                raise InvalidInput([f"{fault}: ask for fewer or smaller ones, or configure a bucket"])
        return request

    def run(
        self, job: Job, deadline: Deadline, on_progress: OnProgress | None = None, keeper: Keeper | None = None
    ) -> tuple[list[bytes | None], Outcome]:
        """Returns how the job ended, and its pictures, encoded; None for those that are in the bucket.

        After an error that is not about the one picture, no more are drawn.

        Args:
            job: the job.
            deadline: when to give up.
            on_progress: called with each change.
            keeper: keeps finished pictures, and has those that an interrupted attempt left, which are not drawn again.

        Raises:
            GenerationError: no picture could be drawn, or the job was cancelled.
        """
        kept = keeper.kept() if keeper is not None else Kept(None, {})
        plan = self._generator.plan(self._generator.fetched(job.request, deadline), kept.first)
        missing: list[MissingPicture] = []
        errors: list[GenerationError] = []
        with Delivery(job.id, self._bucket(job.s3_config), keeper, plan) as delivery:
            for planned in plan:
                if planned.image in kept.pictures:
                    continue
                try:
                    if errors and not isinstance(errors[-1], NotTransparent):
                        raise errors[-1]  # the next picture would fail like the last one
                    picture = self._generator.draw(planned, deadline, on_progress)
                except JobCancelled:
                    raise
                except GenerationError as exc:
                    errors.append(exc)
                    missing.append(MissingPicture(planned.random.values, str(exc)))
                else:
                    delivery.add(planned, picture)
            finished = {**kept.pictures, **delivery.delivered()}
        if not finished:
            raise errors[0]
        if errors:
            fields = {"job_id": job.id, "code": errors[0].code, "reason": errors[0].message}
            log.warning("pictures missing", extra={**fields, "pictures": len(finished), "missing": len(missing)})
        pictures = [finished[image] for image in sorted(finished)]
        outcome = Outcome(tuple(each.facts for each in pictures), tuple(missing), job.request.number is not None)
        return [each.encoded for each in pictures], outcome

    def _bucket(self, s3_config: object) -> Bucket | None:
        return None if self._buckets is None else self._buckets.of_job(s3_config)


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
