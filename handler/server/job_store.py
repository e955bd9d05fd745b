"""Accepted jobs and their results, in one SQLite file that outlives the program."""

import json
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from handler.errors import GenerationError, InternalError, InvalidInput, JobCancelled, JobTimeout
from handler.job.picture import Outcome
from handler.server.clock import steady
from handler.server.errors import Conflict, NotFound, QueueFull
from handler.server.job_database import JobDatabase
from handler.server.job_record import JobRecord, JobRequest, Status, read, stored_outcome

MAX_ATTEMPTS = 2  # a job that was running when the program died is run once more
CANCELLED = JobCancelled("the job was cancelled")
RETRYABLE = (Status.FAILED, Status.TIMED_OUT)
UNFINISHED = (Status.IN_QUEUE, Status.IN_PROGRESS)

log = logging.getLogger(__name__)


class JobStore:
    """All jobs that are queued, running, or finished with a result that has not expired.

    Safe to use from several threads. Every method raises StorageUnavailable if SQLite fails.

    Attributes:
        now: the clock of all times in it, seconds since 1970.
        database: the file.
        interrupted_s: when the job began that was running when the last program died; None if there was none.
    """

    def __init__(self, path: Path, queue_limit: int, now: Callable[[], float] | None = None) -> None:
        """Opens the file, or creates it.

        Jobs that were running when the last program died are queued again; if that was their second attempt,
        they have failed.

        Args:
            queue_limit: maximum number of queued jobs.
            now: the clock; a steady one by default.
        """
        self._queue_limit = queue_limit
        self.now = now or steady()
        self.database = JobDatabase(path)
        self._transaction = self.database.transaction
        self.close = self.database.close
        with self._transaction() as db:
            running = db.execute("SELECT min(started_s) FROM jobs WHERE status = ?", (Status.IN_PROGRESS,))
            self.interrupted_s: float | None = running.fetchone()[0]
            died = InternalError(f"the worker died {MAX_ATTEMPTS} times while it ran this job")
            self._fail(db, died, "status = ? AND attempts >= ?", Status.IN_PROGRESS, MAX_ATTEMPTS)
            db.execute(
                "UPDATE jobs SET status = ?, started_s = NULL WHERE status = ?", (Status.IN_QUEUE, Status.IN_PROGRESS)
            )

    def add(self, job_id: str, request: JobRequest, keep_s: float) -> None:
        """Puts a job at the end of the queue.

        Args:
            keep_s: how long its result is kept, in seconds.

        Raises:
            QueueFull: the queue is full.
        """
        with self._transaction() as db:
            self._check_queue(db)
            self._insert(db, job_id, request, keep_s)

    def add_failed(self, job_id: str, request: JobRequest, keep_s: float, error: InvalidInput) -> None:
        """Stores a job that failed when it was submitted. It needs no place in the queue."""
        with self._transaction() as db:
            self._insert(db, job_id, request, keep_s)
            self._fail(db, error, "id = ?", job_id)
            db.execute("UPDATE jobs SET started_s = created_s, finished_s = created_s WHERE id = ?", (job_id,))

    def take(self) -> JobRecord | None:
        """Returns the job that was queued first, now IN_PROGRESS, or None if the queue is empty."""
        with self._transaction(is_durable=False) as db:  # after a power cut it is queued, as if it had not begun
            while True:
                row = db.execute(
                    "UPDATE jobs SET status = ?, started_s = ?, attempts = attempts + 1 WHERE number ="
                    " (SELECT min(number) FROM jobs WHERE status = ? AND ends_s > ?) RETURNING *",
                    (Status.IN_PROGRESS, self.now(), Status.IN_QUEUE, self.now()),
                ).fetchone()
                record = self._read(db, row) if row else None
                if record is None or not record.status.is_final:
                    return record

    def complete(self, job_id: str, outcome: Outcome) -> bool:
        """Stores the result of a job, and returns True; a finished one does not change."""
        unfinished = "id = ? AND status IN (?, ?)"
        with self._transaction() as db:
            return self._end(db, Status.COMPLETED, stored_outcome(outcome), unfinished, job_id, *UNFINISHED) > 0

    def fail(self, job_id: str, error: GenerationError) -> None:
        """Stores why a job has no result; a finished one does not change."""
        with self._transaction() as db:
            self._fail(db, error, "id = ? AND status IN (?, ?)", job_id, *UNFINISHED)

    def put_back(self, job_id: str) -> None:
        """Queues a running job again, in its old place, as if it had not begun."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET status = ?, started_s = NULL, attempts = attempts - 1 WHERE id = ? AND status = ?",
                (Status.IN_QUEUE, job_id, Status.IN_PROGRESS),
            )

    def cancel_queued(self, job_id: str) -> bool:
        """Returns whether the job was queued, and is now cancelled."""
        with self._transaction() as db:
            return self._fail(db, CANCELLED, "id = ? AND status = ?", job_id, Status.IN_QUEUE) > 0

    def purge(self) -> list[str]:
        """Cancels all queued jobs, and returns their ids."""
        with self._transaction() as db:
            ids = [row["id"] for row in db.execute("SELECT id FROM jobs WHERE status = ?", (Status.IN_QUEUE,))]
            self._fail(db, CANCELLED, "status = ?", Status.IN_QUEUE)
            return ids

    def retry(self, job_id: str) -> None:
        """Queues a job again that has failed or timed out.

        Raises:
            NotFound: the id is unknown, or the result has expired.
            Conflict: the job has neither failed nor timed out.
            QueueFull: the queue is full.
        """
        now_s = self.now()
        with self._transaction() as db:
            record = self._get(db, job_id)
            if record.status not in RETRYABLE:
                raise Conflict(f"only a FAILED or TIMED_OUT job can be retried, this one is {record.status}")
            self._check_queue(db)
            db.execute(
                "UPDATE jobs SET status = ?, attempts = 0, retries = retries + 1, outcome = NULL, webhook_due = 0,"
                " created_s = ?, ends_s = ?, started_s = NULL, finished_s = NULL WHERE id = ?",
                (Status.IN_QUEUE, now_s, now_s + record.request.ttl_s, job_id),
            )

    def get(self, job_id: str) -> JobRecord:
        """Returns a job.

        Raises:
            NotFound: the id is unknown, or the result has expired.
        """
        with self._transaction() as db:
            return self._get(db, job_id)

    def queued(self) -> int:
        """Returns the number of queued jobs."""
        with self._transaction() as db:
            return self._count_queued(db)

    def counts(self) -> dict[Status, int]:
        """Returns the number of stored jobs by status."""
        with self._transaction() as db:
            found = dict(db.execute("SELECT status, count(*) FROM jobs GROUP BY status").fetchall())
            return {status: found.get(status, 0) for status in Status}

    def retried(self) -> int:
        """Returns how many of the stored jobs were retried on request."""
        with self._transaction() as db:
            return int(db.execute("SELECT count(*) FROM jobs WHERE retries > 0").fetchone()[0])

    def due_webhooks(self) -> list[JobRecord]:
        """Returns the finished jobs that have not been posted to their webhook."""
        with self._transaction() as db:
            return [
                self._read(db, row)
                for row in db.execute("SELECT * FROM jobs WHERE webhook_due ORDER BY number").fetchall()
            ]

    def webhook_done(self, record: JobRecord) -> None:
        """Notes that this result was posted to the job's webhook, or that this was given up."""
        with self._transaction() as db:
            db.execute("UPDATE jobs SET webhook_due = 0 WHERE id = :id AND finished_s = :finished_s", vars(record))

    def expire(self, limit_bytes: int) -> list[str]:
        """Deletes expired results, and the oldest results while their total size exceeds `limit_bytes`.

        Returns:
            Ids of the jobs that were queued longer than their time to live, and have now timed out.
        """
        now_s = self.now()
        overdue = "status = ? AND ends_s <= ?"
        with self._transaction() as db:
            rows = db.execute(f"SELECT id FROM jobs WHERE {overdue}", (Status.IN_QUEUE, now_s)).fetchall()  # noqa: S608
            error = JobTimeout("the job was queued longer than its time to live")
            self._fail(db, error, overdue, Status.IN_QUEUE, now_s)
            db.execute(
                "DELETE FROM jobs WHERE finished_s + keep_s <= :now OR number IN (SELECT number FROM"
                " (SELECT number, sum(length(request) + length(outcome)) OVER (ORDER BY number DESC) AS size"
                " FROM jobs WHERE finished_s IS NOT NULL) WHERE size > :limit)",
                {"now": now_s, "limit": limit_bytes},
            )
            return [row["id"] for row in rows]

    def _insert(self, db: sqlite3.Connection, job_id: str, request: JobRequest, keep_s: float) -> None:
        now_s = self.now()
        db.execute(
            "INSERT INTO jobs (id, status, request, has_webhook, keep_s, created_s, ends_s)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(job_id, Status.IN_QUEUE, json.dumps(vars(request)), request.webhook is not None),
                *(keep_s, now_s, now_s + request.ttl_s),
            ),
        )

    def _fail(self, db: sqlite3.Connection, error: GenerationError, where: str, *values: Any) -> int:
        return self._end(db, Status.after(error), {"error": str(error)}, where, *values)

    def _end(self, db: sqlite3.Connection, status: Status, outcome: dict[str, Any], where: str, *values: Any) -> int:
        """Returns how many jobs this ended."""
        return db.execute(
            "UPDATE jobs SET status = ?, finished_s = ?, outcome = ?,"  # noqa: S608 -- `where` is one of ours
            f" webhook_due = has_webhook WHERE {where}",
            (status, self.now(), json.dumps(outcome), *values),
        ).rowcount

    def _get(self, db: sqlite3.Connection, job_id: str) -> JobRecord:
        row = db.execute(
            "SELECT * FROM jobs WHERE id = ? AND (finished_s IS NULL OR finished_s + keep_s > ?)",
            (job_id, self.now()),
        ).fetchone()
        if row is None:
            raise NotFound("unknown job id or expired result")
        return self._read(db, row)

    def _read(self, db: sqlite3.Connection, row: sqlite3.Row) -> JobRecord:
        """Returns the row as a job. If it cannot be read, the job has failed from now on, and the others go on."""
        try:
            return read(row)
        except (ValueError, TypeError, KeyError, AttributeError):
            log.exception("stored job cannot be read", extra={"job_id": row["id"]})
            self._fail(db, InternalError("the stored job could not be read"), "id = ?", row["id"])
            readable = json.dumps(vars(JobRequest(None)))
            db.execute("UPDATE jobs SET request = ?, webhook_due = 0 WHERE id = ?", (readable, row["id"]))
            return read(db.execute("SELECT * FROM jobs WHERE id = ?", (row["id"],)).fetchone())

    def _check_queue(self, db: sqlite3.Connection) -> None:
        if self._count_queued(db) >= self._queue_limit:
            raise QueueFull(f"queue is full ({self._queue_limit} jobs)")

    @staticmethod
    def _count_queued(db: sqlite3.Connection) -> int:
        return int(db.execute("SELECT count(*) FROM jobs WHERE status = ?", (Status.IN_QUEUE,)).fetchone()[0])
