"""Bodies of requests and responses, from which /openapi.json is made. RunPod's field names and units (ms)."""

from typing import Annotated, Any, Literal

import httpx
from fastapi import Path as UrlPart
from pydantic import AfterValidator, AnyHttpUrl, BaseModel, BeforeValidator, ConfigDict, Field

from handler.job.buckets import JobBucket
from handler.job.progress import Stage
from handler.server.job_record import Status

WEEK_MS = 7 * 86_400_000
JOB_ID = "5f1f0c1e-7a35-4d1b-9d0c-1a4f6f1b2c3d"
FILENAME = "alpha_1795285203_5f2a9c.png"
IMAGES = "all pictures; present if the request has num_images"
MISSING = "pictures that could not be made; absent if there are none"
INPUT = {"prompt": "a red apple, high quality", "seed": 12345}
PROGRESS = {"stage": Stage.SAMPLING, "step": 7, "steps": 20, "image": 1, "images": 1}
RUN_REQUESTS = {
    "a picture": {"input": INPUT},
    "with limits and a webhook": {
        "input": INPUT,
        "webhook": "https://example.com/pictures",
        "policy": {"executionTimeout": 60_000, "ttl": 600_000},
    },
}


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


def _with_usable_host(url: AnyHttpUrl) -> AnyHttpUrl:
    """Raises ValueError if the HTTP client or the resolver cannot use the host; pydantic allows more than they do."""
    try:
        httpx.URL(str(url)).host.encode("idna")
    except (httpx.InvalidURL, UnicodeError) as exc:
        raise ValueError("host is not a valid name or address") from exc
    return url


def _whole(value: Any) -> Any:
    """Returns 16 for 16.0, which is an integer in JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Milliseconds = Annotated[int, Field(ge=1000, le=WEEK_MS), BeforeValidator(_whole)]
JobId = Annotated[str, UrlPart(description="a job's id", examples=[JOB_ID])]


class Policy(BaseModel):
    """Limits of one job, in ms."""

    model_config = ConfigDict(strict=True)

    execution_timeout: Milliseconds | None = Field(
        None, alias="executionTimeout", description="maximum time on the worker"
    )
    ttl: Milliseconds = Field(86_400_000, description="maximum time until the job has finished")


class RunRequest(BaseModel):
    """A job in RunPod's envelope."""

    model_config = ConfigDict(strict=True)

    input: Any
    webhook: Annotated[AnyHttpUrl, Field(strict=False), AfterValidator(_with_usable_host)] | None = Field(
        None, description="receives the finished job; must respond with 200"
    )
    policy: Policy = Field(Policy(), description="limits in ms")
    s3_config: JobBucket | None = Field(
        None, alias="s3Config", description="the caller's own bucket, if the server allows its endpoint"
    )


class Accepted(BaseModel):
    """A job's id and status."""

    model_config = _example(id=JOB_ID, status=Status.IN_QUEUE)

    id: str
    status: Status


class Progress(BaseModel):
    """How far a job is."""

    model_config = _example(**PROGRESS)

    stage: Stage
    position: int | None = Field(None, description="place in the queue, 1 is next; only of a queued job")
    step: int = Field(0, description="the sampler's last step of this picture, 0 before the first")
    steps: int = Field(0, description="number of the sampler's steps, 0 before the first")
    image: int = Field(1, description="which picture is drawn, from 1")
    images: int = Field(1, description="number of pictures of the job")


class Picture(BaseModel):
    """One of the pictures of a job. It also has its random values, such as the seed."""

    model_config = ConfigDict(extra="allow")

    url: str | None = Field(None, description="absent if image_base64 carries the picture")
    image_base64: str | None = Field(None, description="absent if the picture has a URL")
    filename: str
    width: int = Field(description="of the file, in pixels")
    height: int = Field(description="of the file, in pixels")
    alpha: dict[str, float] = Field(description="alpha statistics, as in info")


class MissingImage(BaseModel):
    """A picture that could not be made. It also has its random values, such as the seed."""

    model_config = ConfigDict(extra="allow")

    error: str = Field(description="code: message")


class Output(BaseModel):
    """The `output` of a completed job. It also has the request's random values, such as the seed."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "status": "success",
                    "url": "data:image/png;base64,iVBORw0KGgo…",
                    "image_url": "data:image/png;base64,iVBORw0KGgo…",
                    "image_base64": "iVBORw0KGgo…",
                    "filename": FILENAME,
                    "seed": 12345,
                    "info": '{"prompt": "a red apple, high quality", "steps": 20, …}',
                }
            ]
        },
    )

    status: Literal["success"]
    url: str | None = Field(None, description="data URL, or https URL if the picture is in a bucket")
    image_url: str | None = Field(None, description="the same as url")
    image_base64: str | None = Field(None, description="absent if the picture is in a bucket")
    filename: str
    info: str = Field(description="how the picture was made, as JSON text")
    images: list[Picture] | None = Field(None, description=IMAGES)
    missing: list[MissingImage] | None = Field(None, description=MISSING)


class Job(BaseModel):
    """A job."""

    id: str
    status: Status
    delay_ms: int | None = Field(None, serialization_alias="delayTime", description="ms in the queue")
    execution_ms: int | None = Field(None, serialization_alias="executionTime", description="ms on the worker")
    output: Output | Progress | None = Field(None, description="the result; while the job runs, its progress")
    error: str | None = Field(None, description="code: message")


class StreamItem(BaseModel):
    """A change."""

    output: Progress


class Stream(BaseModel):
    """Progress since the last request."""

    model_config = _example(status=Status.IN_PROGRESS, stream=[{"output": PROGRESS}])

    status: Status
    stream: list[StreamItem]


class Txt2ImgReply(BaseModel):
    """A picture's URL. It also has the request's random values, such as the seed."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "url": f"http://127.0.0.1:8000/alpha/v1/file/{FILENAME}",
                    "filename": FILENAME,
                    "seed": 12345,
                    "info": "{…}",
                }
            ]
        },
    )

    url: str
    filename: str
    info: str = Field(description="how the picture was made, as JSON text")
    images: list[Picture] | None = Field(None, description=IMAGES)
    missing: list[MissingImage] | None = Field(None, description=MISSING)


class JobDone(BaseModel):
    """How a job ended: the last event of its progress."""

    stage: Literal[Stage.DONE] = Stage.DONE
    status: Status
    output: Txt2ImgReply | None = Field(None, description="the pictures, of a completed job")
    error: str | None = Field(None, description="code: message")


class ErrorDetails(BaseModel):
    """What is wrong."""

    code: str = Field(description="stable name of the kind of error")
    message: str = Field(description="one line for people")
    details: list[str] = Field(description="the parts of the message, if there are several")


class Error(BaseModel):
    """An error; docs/errors.md lists the codes."""

    error: ErrorDetails
