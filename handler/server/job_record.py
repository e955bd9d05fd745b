"""An accepted job as it is stored. Statuses and their names are RunPod's; times are seconds since 1970."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from handler.errors import GenerationError, JobCancelled, JobTimeout
from handler.job.picture import MissingPicture, Outcome, PictureFacts


class Status(StrEnum):
    """The state of a job."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def is_final(self) -> bool:
        """Whether the job has finished."""
        return self not in {Status.IN_QUEUE, Status.IN_PROGRESS}

    @classmethod
    def after(cls, error: GenerationError) -> "Status":
        """Returns the final status of a job that ended with this error."""
        match error:
            case JobCancelled():
                return cls.CANCELLED
            case JobTimeout():
                return cls.TIMED_OUT
        return cls.FAILED


@dataclass(frozen=True)
class JobRequest:
    """What a caller submits.

    Attributes:
        input: the job's input, as it came.
        s3_config: the caller's bucket in RunPod's shape, as it came; None if there is none.
        webhook: URL that the finished job is posted to.
        execution_timeout_s: maximum time on the worker, if the caller limits it.
        ttl_s: maximum time from now until the job has finished.
        is_sent_as_base64: whether the reply carries the picture itself, which REPLY_LIMIT_BYTES limits.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    input: Any
    s3_config: Any = field(default=None, repr=False)
    webhook: str | None = None
    execution_timeout_s: float | None = None
    ttl_s: float = 86_400.0
    is_sent_as_base64: bool = True


AWAITED = "alpha-"  # ids of jobs that end with the request that waits for them begin with it
_REQUESTS = TypeAdapter(JobRequest)  # making one takes a millisecond or more


@dataclass(frozen=True)
class JobRecord:
    """A stored job.

    Attributes:
        ends_s: when its time to live ends.
        started_s: when it was taken from the queue; None before that.
        finished_s: when it finished; None before that.
        outcome: the result of a completed job, else None.
        error: "code: message" of a job that finished without a result, else None.
    """

    id: str
    status: Status
    request: JobRequest
    created_s: float
    ends_s: float
    started_s: float | None
    finished_s: float | None
    outcome: Outcome | None
    error: str | None

    @property
    def delay_ms(self) -> int | None:
        """Time in the queue, in ms; None while it is queued."""
        return None if self.started_s is None else max(0, round(1000 * (self.started_s - self.created_s)))

    @property
    def execution_ms(self) -> int | None:
        """Time on the worker, in ms; None until it has finished."""
        if self.started_s is None or self.finished_s is None:
            return None
        return max(0, round(1000 * (self.finished_s - self.started_s)))


def stored_outcome(outcome: Outcome) -> dict[str, Any]:
    """Returns the outcome as JSON values, as a row has them."""
    return asdict(outcome)


def _outcome(stored: Mapping[str, Any]) -> Outcome:
    """Returns the outcome of a row.

    Up to 0.2.0 it was that of one picture, and before 0.2.0 `random_values` was stored as `drawn`.
    """
    if "pictures" not in stored:
        renamed = {"random_values" if name == "drawn" else name: value for name, value in stored.items()}
        return Outcome((PictureFacts(**renamed),))
    return Outcome(
        pictures=tuple(PictureFacts(**picture) for picture in stored["pictures"]),
        missing=tuple(MissingPicture(**missing) for missing in stored["missing"]),
        is_list=stored["is_list"],
    )


def read(row: sqlite3.Row) -> JobRecord:
    """Returns the job in a row; raises ValueError, TypeError, KeyError or AttributeError if it cannot be read."""
    result = json.loads(row["outcome"]) if row["outcome"] else None
    error = result.get("error") if result else None
    return JobRecord(
        id=row["id"],
        status=Status(row["status"]),
        request=_REQUESTS.validate_python(json.loads(row["request"])),
        created_s=row["created_s"],
        ends_s=row["ends_s"],
        started_s=row["started_s"],
        finished_s=row["finished_s"],
        outcome=_outcome(result) if result and error is None else None,
        error=error,
    )
