"""The stored jobs as a list, newest first, without reading their pictures."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from handler.server.job_database import JobDatabase
from handler.server.job_record import Status

PROMPT_CHARACTERS = 200
FIELDS = (
    "id, status, created_s, started_s, finished_s,"
    " CASE WHEN json_valid(request) THEN json_extract(request, '$.input.prompt') END AS prompt,"
    " CASE WHEN json_valid(outcome) THEN json_extract(outcome, '$.error') END AS error"
)


class ListedJob(BaseModel):
    """A stored job, without its result."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "5f1f0c1e-7a35-4d1b-9d0c-1a4f6f1b2c3d",
                    "status": Status.COMPLETED,
                    "prompt": "a red apple, high quality",
                    "created_s": 1795285203.2,
                    "started_s": 1795285203.3,
                    "finished_s": 1795285209.1,
                    "error": None,
                }
            ]
        }
    )

    id: str
    status: Status
    prompt: str | None
    created_s: float
    started_s: float | None
    finished_s: float | None
    error: str | None = None


class JobList(BaseModel):
    """Jobs, newest first."""

    jobs: list[ListedJob]


def newest(database: JobDatabase, limit: int, status: Status | None = None) -> JobList:
    """Returns the jobs that were submitted last.

    Args:
        limit: maximum number of jobs.
        status: only jobs of this status; all if None.

    Raises:
        StorageUnavailable: SQLite fails.
    """
    with database.transaction() as db:
        rows = db.execute(
            f"SELECT {FIELDS} FROM jobs WHERE :status IS NULL OR status = :status"  # noqa: S608 -- FIELDS is ours
            " ORDER BY number DESC LIMIT :limit",
            {"status": status, "limit": limit},
        ).fetchall()
    return JobList(jobs=[ListedJob(**{**row, "prompt": _text(row["prompt"])}) for row in rows])


def position(database: JobDatabase, job_id: str) -> int | None:
    """Returns a queued job's place in the queue, 1 is next; None if it is not queued; raises like `newest`."""
    with database.transaction() as db:
        row = db.execute(
            "SELECT (SELECT count(*) FROM jobs AS other WHERE other.status = job.status AND other.number <= job.number)"
            " FROM jobs AS job WHERE id = ? AND status = ?",
            (job_id, Status.IN_QUEUE),
        ).fetchone()
    return None if row is None else int(row[0])


def _text(prompt: Any) -> str | None:
    """Returns the prompt, shortened; None if the request, which may have been invalid, has no text there."""
    return prompt[:PROMPT_CHARACTERS] if isinstance(prompt, str) else None
