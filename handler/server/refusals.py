"""Every error of the HTTP server in one shape: `{"error": {"code", "message", "details"}}`."""

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from handler.errors import (
    BadRequest,
    BodyTooLarge,
    GenerationError,
    InternalError,
    LayerdiffuseError,
    MethodNotAllowed,
    NotFound,
    QueueFull,
    presentable,
)

RETRY_AFTER_S = 5
KINDS_BY_STATUS = {kind.http_status: kind for kind in (BadRequest, NotFound, MethodNotAllowed, BodyTooLarge)}

log = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Lets the application answer every error in this shape."""
    for kind in (LayerdiffuseError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _on_error)


def answer_to(exc: LayerdiffuseError) -> JSONResponse:
    """Returns the answer to an error that was raised."""
    headers = {"Retry-After": str(RETRY_AFTER_S)} if isinstance(exc, QueueFull) else None
    return _answer(exc.http_status, exc.code, exc.message, list(exc.details), headers)


def answer_to_failed(error: str) -> JSONResponse:
    """Returns the answer to a job that ended with the text "code: message"."""
    code, _, message = error.partition(": ")
    statuses = {kind.code: kind.http_status for kind in GenerationError.__subclasses__()}
    return _answer(statuses.get(code, InternalError.http_status), code, message, [])


def bad_fields(faults: Any) -> BadRequest:
    """Returns what pydantic found, as one error with all of its faults."""
    details = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults]
    return BadRequest("; ".join(details), details)


def _answer(
    status: int, code: str, message: str, details: list[str], headers: dict[str, str] | None = None
) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message, "details": details}}, status, headers)


async def _on_error(_: Request, exc: Exception) -> Response:
    match exc:
        case LayerdiffuseError():
            return answer_to(exc)
        case RequestValidationError():
            return answer_to(bad_fields(exc.errors()))
        case HTTPException():
            kind = KINDS_BY_STATUS.get(exc.status_code, BadRequest)
            answer = answer_to(kind(presentable(str(exc.detail))))
            answer.headers.update(exc.headers or {})
            return answer
    log.error("request failed", exc_info=exc)
    return answer_to(InternalError("the server failed, its log has the reason"))
