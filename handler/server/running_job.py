"""The job on the worker."""

import asyncio
import collections

from handler.deadline import Deadline
from handler.job import reply
from handler.job.delivery import Keeper
from handler.job.picture import Outcome
from handler.job.progress import JobProgress, Stage
from handler.job.runner import Job, Runner, reported
from handler.server.job_record import JobRecord
from handler.workflow.parameters import Request

STREAMED_CHANGES = 1024


class RunningJob:
    """A job that was taken from the queue.

    Attributes:
        id: the job's id.
        deadline: when it gives up.
        is_cancelled: whether a caller cancelled it.
        finished: set when it is no longer on the worker.
        progress: how far it is.
    """

    def __init__(self, record: JobRecord, request: Request | None, timeout_s: float, now_s: float) -> None:
        """Starts the job's deadline.

        Args:
            request: its checked input; None if it was accepted before this start of the server, or is retried.
            timeout_s: maximum time on the worker; the job's own limits may be shorter.
            now_s: the time on the job store's clock.
        """
        limits_s = [timeout_s, record.ends_s - now_s]
        if record.request.execution_timeout_s is not None:
            limits_s.append(record.request.execution_timeout_s)
        self.id = record.id
        self.deadline = Deadline(max(0.0, min(limits_s)))
        self.is_cancelled = False
        self.finished = asyncio.Event()
        self.progress = JobProgress(Stage.LOADING)
        self._record = record
        self._request = request
        self._unread: collections.deque[JobProgress] = collections.deque(maxlen=STREAMED_CHANGES)

    def cancel(self) -> None:
        """Cancels it for a caller; a shutdown cancels only its deadline."""
        self.is_cancelled = True
        self.deadline.cancel()

    def read_progress(self) -> list[JobProgress]:
        """Returns the changes since the last call."""
        unread = list(self._unread)
        self._unread.clear()
        return unread

    def run(self, runner: Runner, shape: reply.Shape, keeper: Keeper) -> tuple[list[bytes | None], Outcome]:
        """Makes the pictures, and stores them in a bucket if there is one, as Runner.run. Runs in a thread.

        Raises:
            GenerationError: no picture could be drawn, or the reply is too large.
        """
        job = self._record.request
        with reported(self.id):
            request = runner.parse(job.input) if self._request is None else self._request
            own_job = Job(self.id, request, job.s3_config)
            encoded, outcome = runner.run(own_job, self.deadline, self._on_progress, keeper)
            if job.is_sent_as_base64:
                reply.check_size(outcome, encoded, shape)
        return encoded, outcome

    def _on_progress(self, progress: JobProgress) -> None:
        self.progress = progress
        self._unread.append(progress)
