"""The client's own record of what it asked for and what it got. It never asks the server to count."""

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

COMPLETED = frozenset({"COMPLETED"})
GONE = "GONE"  # the server no longer knows the job


@dataclass(frozen=True)
class Answer:
    """How a job ended, as one response or post said.

    Attributes:
        status: RunPod's name of it, or GONE.
        digest: of the picture and how it was made, or the error; equal for the same result only.
    """

    status: str
    digest: str

    @classmethod
    def of(cls, status: str, result: object) -> "Answer":
        """Returns the answer with this result: the job's output, or its error."""
        return cls(status, hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest())


@dataclass
class Job:
    """One accepted job.

    Attributes:
        may_end: statuses that are right for it.
        is_posted: whether its end must also be posted, to a webhook or to RunPod.
        is_kept: whether its end can be read again later.
        answers: what was read about its end.
        posts: what was posted about it and acknowledged.
        attempts: how often ComfyUI began it, as its result says.
    """

    key: str
    may_end: frozenset[str] = COMPLETED
    is_posted: bool = False
    is_kept: bool = False
    answers: list[Answer] = field(default_factory=list)
    posts: list[Answer] = field(default_factory=list)
    attempts: int = 1
    error: str = ""

    @property
    def is_over(self) -> bool:
        return bool(self.posts) or (bool(self.answers) and not self.is_posted)

    @property
    def status(self) -> str:
        ends = self.answers or self.posts
        return ends[-1].status if ends else "no answer"

    @property
    def is_lost(self) -> bool:
        """Whether it has no end, or one that was taken back."""
        no_end = not self.answers and not self.posts
        return no_end or GONE in {answer.status for answer in self.answers} or (self.is_posted and not self.posts)

    @property
    def is_doubled(self) -> bool:
        """Whether it ended in two ways, or its end was posted twice."""
        known = {answer for answer in (*self.answers, *self.posts) if answer.status != GONE}
        return len(known) > 1 or len(self.posts) > 1


class Ledger:
    """All jobs of a run. Safe to use from several threads.

    Attributes:
        unanswered: submissions whose response was cut off, so the server may have accepted them.
        pictures: names of the pictures that responses and posts named.
        drawn_for_no_one: pictures that the server keeps, more than responses and `unanswered` explain.
        missing_pictures: pictures that a response named and the server does not keep.
    """

    def __init__(self) -> None:
        self.unanswered = 0
        self.pictures: set[str] = set()
        self.drawn_for_no_one = 0
        self.missing_pictures = 0
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    def accepted(
        self, key: str, may_end: frozenset[str] = COMPLETED, *, is_posted: bool = False, is_kept: bool = False
    ) -> None:
        """Notes that the server has promised an end of this job."""
        with self._lock:
            job = self._job(key)
            job.may_end, job.is_posted, job.is_kept = may_end, is_posted, is_kept

    def answered(self, key: str, answer: Answer, output: Mapping[str, Any] | None = None, error: str = "") -> None:
        """Notes what a response said about the job's end."""
        with self._lock:
            job = self._job(key)
            self._end(job, output, error)
            job.answers.append(answer)

    def posted(self, key: str, answer: Answer, output: Mapping[str, Any] | None = None, error: str = "") -> None:
        """Notes a post that was acknowledged."""
        with self._lock:
            job = self._job(key)
            self._end(job, output, error)
            job.posts.append(answer)

    def cut_off(self) -> None:
        """Notes a submission whose response did not arrive."""
        with self._lock:
            self.unanswered += 1

    def compare_pictures(self, kept: set[str]) -> None:
        """Notes which pictures the server keeps at the end."""
        self.drawn_for_no_one = max(0, len(kept - self.pictures) - self.unanswered)
        self.missing_pictures = len(self.pictures - kept)

    def wait_over(self, timeout_s: float) -> None:
        """Waits until all jobs are over, but not longer than this."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s and not all(job.is_over for job in self.jobs):
            time.sleep(0.1)

    @property
    def jobs(self) -> list[Job]:
        with self._lock:
            return list(self._jobs.values())

    @property
    def lost(self) -> list[Job]:
        return [job for job in self.jobs if job.is_lost]

    @property
    def doubled(self) -> list[Job]:
        return [job for job in self.jobs if job.is_doubled]

    @property
    def failed(self) -> list[Job]:
        """Jobs that ended otherwise than they may."""
        return [job for job in self.jobs if not job.is_lost and job.status not in job.may_end]

    def counts(self) -> Counter[str]:
        """Returns the number of jobs by status."""
        return Counter(job.status for job in self.jobs)

    def _job(self, key: str) -> Job:
        return self._jobs.setdefault(key, Job(key))  # a post may overtake the response that accepts the job

    def _end(self, job: Job, output: Mapping[str, Any] | None, error: str) -> None:
        job.error = error
        if output is not None:
            self.pictures.add(output["filename"])
            job.attempts = max(job.attempts, json.loads(output["info"])["attempts"])
