"""The body of a request: a JSON object of bounded size and depth, and RunPod's envelope around a job's input."""

import json
from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field, ValidationError

from handler.errors import BadRequest, BodyTooLarge, NotJson
from handler.server.job_store import JobRequest
from handler.server.refusals import bad_fields

LIMIT_BYTES = 1_000_000  # the longest valid request has 100 kB
DEEPEST = 32
WEEK_MS = 7 * 86_400_000


class Policy(BaseModel):
    """Limits of one job, in ms."""

    model_config = ConfigDict(strict=True)

    execution_timeout: int | None = Field(None, alias="executionTimeout", ge=1000, le=WEEK_MS)
    ttl: int = Field(86_400_000, ge=1000, le=WEEK_MS)


class Envelope(BaseModel):
    """What stands around a job's input."""

    model_config = ConfigDict(strict=True)

    input: Any
    webhook: Annotated[AnyHttpUrl, Field(strict=False)] | None = None
    policy: Policy = Policy()
    s3_config: Any = Field(None, alias="s3Config")


async def read(request: Request) -> dict[str, Any]:
    """Returns the body, a JSON object of bounded size and depth."""
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type != "application/json":  # a form of another site cannot send this one unasked
        raise NotJson(f"Content-Type must be application/json, got {content_type or 'none'}")
    parts = []
    size_bytes = 0
    async for part in request.stream():
        size_bytes += len(part)
        if size_bytes > LIMIT_BYTES:
            raise BodyTooLarge(f"body must have at most {LIMIT_BYTES} bytes")
        parts.append(part)
    try:
        body = json.loads(b"".join(parts), parse_constant=_no_json)
    except (ValueError, RecursionError) as exc:
        raise BadRequest(f"body is not JSON: {exc}") from None
    if not isinstance(body, dict):
        raise BadRequest("body must be a JSON object")
    if _depth_over(body, DEEPEST):
        raise BadRequest(f"body is nested more than {DEEPEST} deep")
    return body


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def _depth_over(value: object, limit: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    children = value.values() if isinstance(value, dict) else value
    return limit == 0 or any(_depth_over(child, limit - 1) for child in children)


def job_request(body: Annotated[dict[str, Any], Depends(read)]) -> JobRequest:
    try:
        envelope = Envelope.model_validate(body)
    except ValidationError as exc:
        raise bad_fields(exc.errors(include_input=False, include_url=False)) from None
    timeout_ms = envelope.policy.execution_timeout
    return JobRequest(
        input=envelope.input,
        s3_config=envelope.s3_config,
        webhook=None if envelope.webhook is None else str(envelope.webhook),
        execution_timeout_s=None if timeout_ms is None else timeout_ms / 1000,
        ttl_s=envelope.policy.ttl / 1000,
    )
