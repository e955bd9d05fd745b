"""What RunPod's job API says about the queue and the worker as a whole."""

from typing import Literal

from pydantic import BaseModel, Field


class Purged(BaseModel):
    """How many jobs were cancelled."""

    removed: int
    status: Literal["completed"] = "completed"


class JobCounts(BaseModel):
    """How many of the jobs that are still stored are in which state."""

    completed: int
    failed: int
    in_progress: int = Field(serialization_alias="inProgress")
    in_queue: int = Field(serialization_alias="inQueue")
    retried: int


class WorkerCounts(BaseModel):
    idle: int
    running: int
    initializing: int
    unhealthy: int


class Health(BaseModel):
    """Counts of jobs and workers, why the worker is unhealthy, and why a changed workflow was refused."""

    jobs: JobCounts
    workers: WorkerCounts
    unhealthy_reason: str | None = Field(
        None,
        serialization_alias="unhealthyReason",
        description="why the worker cannot draw, as `code: message`; queued jobs wait",
    )
    workflow_refused: str | None = Field(
        None,
        serialization_alias="workflowRefused",
        description="why the stored workflow on disk is not in use; the last good one is",
    )
