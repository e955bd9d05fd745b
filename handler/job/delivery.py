"""Stores the finished pictures of a job while its next one is drawn."""

import contextvars
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from handler.job.bucket import Bucket, BucketUnavailable
from handler.job.drawing import PlannedPicture
from handler.job.picture import Picture, PictureFacts
from handler.job.seeds import Values

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """A finished picture.

    Attributes:
        facts: what is known about it.
        encoded: the picture; None if it is in a bucket.
    """

    facts: PictureFacts
    encoded: bytes | None


@dataclass(frozen=True)
class Kept:
    """What an interrupted attempt left of a job.

    Attributes:
        first: the random values of the job's first picture; None if there was no such attempt.
        pictures: the finished ones; keys count the job's pictures from 1.
    """

    first: Values | None
    pictures: Mapping[int, Finished]


class Keeper(Protocol):
    """Keeps the finished pictures of one job until it ends, in case that the program ends before."""

    def kept(self) -> Kept:
        """Returns what was kept."""
        ...

    def keep(self, image: int, finished: Finished, first: Values) -> None:
        """Keeps a picture, if possible.

        Args:
            image: which one of the job it is, from 1.
            finished: the picture.
            first: the random values of the job's first picture.
        """
        ...


class Delivery:
    """Uploads and keeps the pictures of one job, one at a time, in a thread that ends with the `with` block."""

    def __init__(self, job_id: str, bucket: Bucket | None, keeper: Keeper | None, plan: list[PlannedPicture]) -> None:
        self._job_id = job_id
        self._bucket = bucket
        self._keeper = keeper
        self._plan = plan
        self._thread = ThreadPoolExecutor(1)
        self._futures: dict[int, Future[Finished]] = {}
        self._last: dict[int, Finished] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._thread.shutdown()

    def add(self, planned: PlannedPicture, picture: Picture) -> None:
        """Begins to deliver a picture, as soon as the one before is delivered; the last one is delivered at once."""
        self.delivered()
        if planned.image == len(self._plan):  # nothing is drawn meanwhile, so a thread would gain nothing
            self._last = {planned.image: self._deliver(planned, picture)}
            return
        context = contextvars.copy_context()  # has the job's id, for the log
        self._futures[planned.image] = self._thread.submit(context.run, self._deliver, planned, picture)

    def delivered(self) -> dict[int, Finished]:
        """Waits for the last picture, and returns all that were added; keys count the job's pictures from 1."""
        return {image: future.result() for image, future in self._futures.items()} | self._last

    def _deliver(self, planned: PlannedPicture, picture: Picture) -> Finished:
        url = self._url(picture)
        finished = Finished(PictureFacts.of(picture, url), picture.encoded if url is None else None)
        if self._keeper is not None and planned.image < len(self._plan):  # after the last one, the job ends
            self._keeper.keep(planned.image, finished, self._plan[0].random.values)
        return finished

    def _url(self, picture: Picture) -> str | None:
        """Returns the picture's URL in the bucket; None if it is in none."""
        if self._bucket is None:
            return None
        try:
            return self._bucket.put(picture.filename, picture.encoded)
        except BucketUnavailable as exc:
            log.error("picture not stored", extra={"job_id": self._job_id, "reason": str(exc)})  # noqa: TRY400
            return None
