"""What /status says about a stored job."""

import pytest

from handler.job.progress import JobProgress, Stage
from handler.job.reply import Shape
from handler.server.job_record import JobRecord, JobRequest, Status
from handler.server.job_status import status_of


@pytest.mark.parametrize("status", Status)
def test_only_a_job_in_progress_has_progress(status, tmp_path):
    """A job that has just ended may still be among the running ones."""
    request = JobRequest(input={}, s3_config=None, webhook=None, execution_timeout_s=None, ttl_s=60)
    record = JobRecord("1", status, request, 0.0, 60.0, 1.0, None, None, None)
    job = status_of(record, tmp_path, Shape(1000), JobProgress(Stage.SAMPLING, 3, 20))
    assert (job.output is not None) == (status is Status.IN_PROGRESS)
