"""A stored job in the shape of RunPod's API."""

from handler.job import reply
from handler.job.picture import PictureFacts
from handler.job.progress import JobProgress
from handler.server.errors import NotFound
from handler.server.job_record import JobRecord, Status
from handler.server.picture_store import PictureStore
from handler.server.protocol import Job, Output, Progress


def status_of(
    record: JobRecord, pictures: PictureStore, shape: reply.Shape, progress: JobProgress | None = None
) -> Job:
    """Returns what /status responds with; reads the picture of a completed job.

    Args:
        shape: of the reply.
        progress: of the job, if it runs or has just ended.

    Raises:
        NotFound: the picture has expired.
        ReplyTooLarge: the picture does not fit into a reply.
    """
    output: Output | Progress | None = None
    if record.outcome is not None:
        encoded = [_content(picture, pictures) for picture in record.outcome.pictures]
        output = Output.model_validate(reply.build(record.outcome, encoded, shape))
    elif progress is not None and record.status is Status.IN_PROGRESS:
        output = progress_of(progress)
    return Job(
        id=record.id,
        status=record.status,
        delay_ms=record.delay_ms,
        execution_ms=record.execution_ms,
        output=output,
        error=record.error,
    )


def _content(picture: PictureFacts, pictures: PictureStore) -> bytes | None:
    """Returns an encoded picture; None if it is in a bucket."""
    if picture.url is not None:
        return None
    encoded = pictures.read(picture.filename)
    if encoded is None:
        raise NotFound("the picture of this job has expired")
    return encoded


def progress_of(progress: JobProgress) -> Progress:
    """Returns progress as callers see it."""
    return Progress(**vars(progress))
