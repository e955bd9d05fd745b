"""The body of a request: a JSON object of limited size, depth and time, and RunPod's envelope around a job's input."""

import asyncio
import json
import string
from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import ValidationError

from handler.server.error_responses import invalid_fields
from handler.server.errors import BadRequest, BodyTooLarge, NotJson, RequestTimeout
from handler.server.protocol import RunRequest

LIMIT_BYTES = 200_000  # without pictures, the largest valid request has 100 kB; others wait while JSON is parsed
PICTURES_BYTES = 8_000_000  # with pictures, which are quickly parsed, because each is one long string
BESIDES_BYTES = (
    40_000  # of a body with pictures, letters and digits not counted: two prompts of 4000 emojis have 32,000
)
BASE64 = (string.ascii_letters + string.digits + "+/").encode()
MAX_DEPTH = 32
TIMEOUT_S = 30.0


async def _json_object(request: Request) -> dict[str, Any]:
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content_type != "application/json":  # a form on another site cannot send this type without the user's consent
        raise NotJson(f"Content-Type must be application/json, got {content_type or 'none'}")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            content = await _content(request)
    except TimeoutError:
        raise RequestTimeout(f"body did not arrive within {TIMEOUT_S:g} s") from None
    return await asyncio.to_thread(_parse, content)  # a hostile one takes a tenth of a second


async def _content(request: Request) -> bytes:
    parts = []
    size_bytes = 0
    async for part in request.stream():
        size_bytes += len(part)
        if size_bytes > PICTURES_BYTES:
            raise BodyTooLarge(f"body must have at most {PICTURES_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _parse(content: bytes) -> dict[str, Any]:
    if len(content) > LIMIT_BYTES and len(content.translate(None, BASE64)) > BESIDES_BYTES:
        raise BodyTooLarge(f"body must have at most {LIMIT_BYTES} bytes, besides pictures in base64")
    try:
        body = json.loads(content, parse_constant=_reject)
    except (ValueError, RecursionError) as exc:
        raise BadRequest(f"body is not JSON: {exc}") from None
    if not isinstance(body, dict):
        raise BadRequest("body must be a JSON object")
    if _is_deeper(body, MAX_DEPTH):
        raise BadRequest(f"body must not be nested more than {MAX_DEPTH} levels deep")
    return body


JsonObjectOf = Annotated[dict[str, Any], Depends(_json_object)]


async def _run_request(body: JsonObjectOf) -> RunRequest:
    try:
        return RunRequest.model_validate(body)
    except ValidationError as exc:
        raise invalid_fields(exc.errors(include_input=False, include_url=False)) from None


RunRequestOf = Annotated[RunRequest, Depends(_run_request)]


def _reject(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value")


def _is_deeper(value: object, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    children = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_is_deeper(child, depth - 1) for child in children)
