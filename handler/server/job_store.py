"""Accepted jobs and their results, in one SQLite file that outlives the program.

Statuses and their order are RunPod's. Times are seconds since 1970, so that they mean the same after
a restart.
"""

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from handler.errors import QueueFull, StorageUnavailable

VERSION = 1
MOST_ATTEMPTS = 2  # a job that was under way when the program died is run once more
SCHEMA = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    request TEXT NOT NULL,
    keep_s REAL NOT NULL,
    created_s REAL NOT NULL,
    ends_s REAL NOT NULL,
    started_s REAL,
    finished_s REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    retries INTEGER NOT NULL DEFAULT 0,
    has_webhook INTEGER NOT NULL,
    webhook_due INTEGER NOT NULL DEFAULT 0,
    outcome TEXT
) STRICT;
CREATE INDEX jobs_by_status ON jobs (status, number);
"""


class Status(StrEnum):
    """Where a job is."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def is_final(self) -> bool:
        return self not in {Status.IN_QUEUE, Status.IN_PROGRESS}


RETRYABLE = (Status.FAILED, Status.TIMED_OUT)


@dataclass(frozen=True)
class JobRequest:
    """What a caller wants.

    Attributes:
        input: the job's input, as it came.
        s3_config: as it came; see handler.storage.
        webhook: address to tell the result to.
        execution_timeout_s: longest run, where the caller limits it.
        ttl_s: how long the job may exist before it is over.
    """

    input: Any
    s3_config: Any = field(default=None, repr=False)
    webhook: str | None = None
    execution_timeout_s: float | None = None
    ttl_s: float = 86_400.0


@dataclass(frozen=True)
class Record:
    """A job as it stands.

    Attributes:
        outcome: of a final job: what it gave, or `{"error": "code: message"}`.
        ends_s: when its time to live is over.
    """

    id: str
    status: Status
    request: JobRequest
    created_s: float
    ends_s: float
    started_s: float | None
    finished_s: float | None
    outcome: dict[str, Any] | None

    @property
    def delay_ms(self) -> int | None:
        """How long it waited, where it has begun."""
        return None if self.started_s is None else max(0, round(1000 * (self.started_s - self.created_s)))

    @property
    def execution_ms(self) -> int | None:
        """How long it ran, where it is over."""
        if self.started_s is None or self.finished_s is None:
            return None
        return max(0, round(1000 * (self.finished_s - self.started_s)))


class JobStore:
    """All jobs that are waiting, under way, or finished and still readable. Safe to use from several threads.

    Every method raises StorageUnavailable where SQLite cannot do it.
    """

    def __init__(self, path: Path, queue_limit: int, now: Callable[[], float] = time.time) -> None:
        """Opens the file, or makes it.

        Jobs that were under way when the last program died wait again, or have failed where that was
        their second try.

        Args:
            queue_limit: most jobs that may wait.
            now: the clock.
        """
        self._lock = threading.Lock()
        self._queue_limit = queue_limit
        self._now = now
        with _as_storage_errors():
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            os.chmod(path, 0o600)  # requests may carry the keys of a bucket  # noqa: PTH101
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._prepare()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def add(self, job_id: str, request: JobRequest, keep_s: float) -> None:
        """Puts a job at the end of the queue.

        Args:
            keep_s: how long its result stays readable.

        Raises:
            QueueFull: as many wait as may.
        """
        now_s = self._now()
        with self._transaction() as db:
            if self._count(db, Status.IN_QUEUE) >= self._queue_limit:
                raise QueueFull(f"{self._queue_limit} jobs wait already")
            db.execute(
                "INSERT INTO jobs (id, status, request, has_webhook, keep_s, created_s, ends_s)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(job_id, Status.IN_QUEUE, json.dumps(vars(request)), request.webhook is not None),
                    *(keep_s, now_s, now_s + request.ttl_s),
                ),
            )

    def take(self) -> Record | None:
        """Returns the job that has waited longest, now under way, or None where none waits."""
        with self._transaction() as db:
            row = db.execute(
                "UPDATE jobs SET status = ?, started_s = ?, attempts = attempts + 1 WHERE number ="
                " (SELECT min(number) FROM jobs WHERE status = ? AND ends_s > ?) RETURNING *",
                (Status.IN_PROGRESS, self._now(), Status.IN_QUEUE, self._now()),
            ).fetchone()
            return _record(row) if row else None

    def finish(self, job_id: str, status: Status, outcome: dict[str, Any]) -> None:
        """Ends a job that is under way or waits; one that is over stays as it is."""
        with self._transaction() as db:
            self._finish(db, status, outcome, "id = ? AND status IN (?, ?)", job_id, *_UNFINISHED)

    def put_back(self, job_id: str) -> None:
        """Lets a job that is under way wait again, in its old place, as if it had not begun."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET status = ?, started_s = NULL, attempts = attempts - 1 WHERE id = ? AND status = ?",
                (Status.IN_QUEUE, job_id, Status.IN_PROGRESS),
            )

    def cancel_waiting(self, job_id: str) -> bool:
        """Returns whether the job waited, and is now cancelled."""
        with self._transaction() as db:
            return self._finish(db, Status.CANCELLED, CANCELLED, "id = ? AND status = ?", job_id, Status.IN_QUEUE) > 0

    def purge(self) -> list[str]:
        """Cancels all jobs that wait, and returns their ids."""
        with self._transaction() as db:
            ids = [row["id"] for row in db.execute("SELECT id FROM jobs WHERE status = ?", (Status.IN_QUEUE,))]
            self._finish(db, Status.CANCELLED, CANCELLED, "status = ?", Status.IN_QUEUE)
            return ids

    def retry(self, job_id: str) -> bool:
        """Returns whether the job had failed or timed out, and now waits again.

        Raises:
            QueueFull: as many wait as may.
        """
        now_s = self._now()
        with self._transaction() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if row is None or Status(row["status"]) not in RETRYABLE:
                return False
            if self._count(db, Status.IN_QUEUE) >= self._queue_limit:
                raise QueueFull(f"{self._queue_limit} jobs wait already")
            db.execute(
                "UPDATE jobs SET status = ?, attempts = 0, retries = retries + 1, outcome = NULL, webhook_due = 0,"
                " created_s = ?, ends_s = ?, started_s = NULL, finished_s = NULL WHERE id = ?",
                (Status.IN_QUEUE, now_s, now_s + _record(row).request.ttl_s, job_id),
            )
            return True

    def get(self, job_id: str) -> Record | None:
        """Returns a job, or None where there is none of this id or its result is no longer kept."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT * FROM jobs WHERE id = ? AND (finished_s IS NULL OR finished_s + keep_s > ?)",
                (job_id, self._now()),
            ).fetchone()
            return _record(row) if row else None

    def waiting(self) -> int:
        """Returns how many jobs wait."""
        with self._transaction() as db:
            return self._count(db, Status.IN_QUEUE)

    def counts(self) -> dict[Status, int]:
        """Returns how many of the jobs that are still known are in each status."""
        with self._transaction() as db:
            found = dict(db.execute("SELECT status, count(*) FROM jobs GROUP BY status").fetchall())
            return {status: found.get(status, 0) for status in Status}

    def retried(self) -> int:
        """Returns how many of the jobs that are still known were run again on demand."""
        with self._transaction() as db:
            return int(db.execute("SELECT count(*) FROM jobs WHERE retries > 0").fetchone()[0])

    def due_webhooks(self) -> list[Record]:
        """Returns finished jobs whose webhook has not been told."""
        with self._transaction() as db:
            return [_record(row) for row in db.execute("SELECT * FROM jobs WHERE webhook_due ORDER BY number")]

    def webhook_done(self, job_id: str) -> None:
        """Notes that the job's webhook was told, or was tried often enough."""
        with self._transaction() as db:
            db.execute("UPDATE jobs SET webhook_due = 0 WHERE id = ?", (job_id,))

    def expire(self, limit_bytes: int) -> list[str]:
        """Removes results whose time is over, and the oldest where all together are over `limit_bytes`.

        Returns:
            Ids of the jobs that waited longer than they may, and have now timed out.
        """
        now_s = self._now()
        with self._transaction() as db:
            overdue = "status = ? AND ends_s <= ?", (Status.IN_QUEUE, now_s)
            ids = [row["id"] for row in db.execute(f"SELECT id FROM jobs WHERE {overdue[0]}", overdue[1])]  # noqa: S608
            reason = {"error": "timeout: the job waited longer than its time to live"}
            self._finish(db, Status.TIMED_OUT, reason, overdue[0], *overdue[1])
            db.execute(
                "DELETE FROM jobs WHERE finished_s + keep_s <= :now OR number IN (SELECT number FROM"
                " (SELECT number, sum(length(request) + length(outcome)) OVER (ORDER BY number DESC) AS size"
                " FROM jobs WHERE finished_s IS NOT NULL) WHERE size > :limit)",
                {"now": now_s, "limit": limit_bytes},
            )
            return ids

    def _prepare(self) -> None:
        with self._transaction() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {VERSION}")
            elif version != VERSION:
                raise StorageUnavailable(f"the job file is of version {version}, expected {VERSION}")
            died = {"error": f"internal: the worker ended {MOST_ATTEMPTS} times while it ran this job"}
            self._finish(db, Status.FAILED, died, "status = ? AND attempts >= ?", Status.IN_PROGRESS, MOST_ATTEMPTS)
            db.execute(
                "UPDATE jobs SET status = ?, started_s = NULL WHERE status = ?", (Status.IN_QUEUE, Status.IN_PROGRESS)
            )

    def _finish(self, db: sqlite3.Connection, status: Status, outcome: dict[str, Any], where: str, *values: Any) -> int:
        return db.execute(
            "UPDATE jobs SET status = ?, finished_s = ?, outcome = ?,"  # noqa: S608 -- `where` is one of ours
            f" webhook_due = has_webhook WHERE {where}",
            (status, self._now(), json.dumps(outcome), *values),
        ).rowcount

    @staticmethod
    def _count(db: sqlite3.Connection, status: Status) -> int:
        return int(db.execute("SELECT count(*) FROM jobs WHERE status = ?", (status,)).fetchone()[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _as_storage_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise


CANCELLED = {"error": "cancelled: the job was cancelled"}
_UNFINISHED = (Status.IN_QUEUE, Status.IN_PROGRESS)


@contextlib.contextmanager
def _as_storage_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise StorageUnavailable(f"the job file cannot be used: {exc}") from exc


def _record(row: sqlite3.Row) -> Record:
    return Record(
        id=row["id"],
        status=Status(row["status"]),
        request=JobRequest(**json.loads(row["request"])),
        created_s=row["created_s"],
        ends_s=row["ends_s"],
        started_s=row["started_s"],
        finished_s=row["finished_s"],
        outcome=json.loads(row["outcome"]) if row["outcome"] else None,
    )
